"""The process of its own, as its parent sees it: what is sent there, and what comes back.

The caller copies and pickles; one thread sends (and waits for devices), another receives: what a
call logged, that it failed, that it is done, and the end of the process, after which everything
sent to it is dropped. The other side is `flordb.background.child`.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Any

import flordb
from flordb import settings
from flordb.background.failures import Failures, name_of
from flordb.background.memory import Ring, aligned
from flordb.background.parcel import PAUSE_SECONDS, Call, Parcel, pack
from flordb.background.place import here
from flordb.background.thread import CALL_BYTES, not_run
from flordb.errors import warn_in_training

_PROGRAM = (
    "import json, sys; sys.path[:], arguments = json.loads(sys.argv[1]); "
    "from flordb.background.child import main; main(*arguments)"
)
_START_SECONDS = 60
"""How long the end may wait for an interpreter that has not made its first object yet."""


@dataclass
class _Open:
    """A call that has not been made. ``start``: of its place in the shared memory, if it has
    one."""

    name: str
    context: Context
    nbytes: int
    start: int | None


@dataclass
class _Letter:
    """A call that is to be sent. ``ready``: events of devices that must have happened before;
    ``late``: pairs of a tensor on a device and its place in the shared memory."""

    call: Call
    name: str
    ready: list[Any]
    late: list[tuple[Any, Any]]


class Process:
    """The process in which objects live. Raises OSError where it cannot be started."""

    def __init__(self) -> None:
        self.over = False
        self._left = False
        self._owner = os.getpid()
        self._settings = settings.load()
        self._failures = Failures("the process of flordb.background")
        self._changed = threading.Condition()
        self._submitting = threading.RLock()
        self._busy: set[int] = set()
        self._tickets = 0
        self._open: dict[int, _Open] = {}
        self._nbytes = 0
        self._outbox: list[_Letter] = []
        self._sends = True
        self._started = False
        self._closing = False
        self._ring = Ring(self._settings.background_bytes)
        self._given_up = 0
        calls, self._calls = Pipe(duplex=False)
        self._answers, answers = Pipe(duplex=False)
        try:
            self._child = self._start(calls.fileno(), answers.fileno(), self._ring.descriptor)
        except OSError:
            self._let_go()
            raise
        finally:
            calls.close()
            answers.close()
        for run in (self._send, self._receive):
            threading.Thread(target=run, name="flordb-process", daemon=True).start()

    def _start(self, *descriptors: int) -> subprocess.Popen[bytes]:
        arguments = (*descriptors, self._settings.exit_wait_seconds, _START_SECONDS)
        given = json.dumps((list(map(str, sys.path)), arguments))
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, given],
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            # Ctrl-C at a terminal is for the training. In the same session the kernel counts both
            # as one group, where a program of another could take half of a core.
            process_group=0,
        )

    # What the training calls.

    def put(
        self,
        call: Callable[..., Any],
        arguments: tuple[Any, ...],
        named: dict[str, Any],
        keep: int | None = None,
    ) -> int | None:
        if threading.get_ident() in self._busy:
            # Called in the middle of this: by a signal's handler, or an object's __del__.
            later = threading.Thread(target=self.put, args=(call, arguments, named, keep))
            later.start()
            return None
        if self._left:
            self._say_left()
        if self.over:
            return None  # why has been said
        try:
            parcel = pack(self, call, arguments, named)
            with self._submitting, self._being_busy():
                return self._hand_over(parcel, name_of(call), here(), keep)
        except Exception as error:  # any object's __reduce__ may raise anything
            self._failures.say(name_of(call), error)
            return None

    @contextmanager
    def _being_busy(self) -> Iterator[None]:
        self._busy.add(threading.get_ident())
        try:
            yield
        finally:
            self._busy.discard(threading.get_ident())

    def _hand_over(
        self, parcel: Parcel, name: str, context: Context, keep: int | None
    ) -> int | None:
        """Copy a call's tensors into the shared memory, and have it sent."""
        nbytes = parcel.nbytes + len(parcel.pickled) + CALL_BYTES
        with self._changed:
            self._changed.wait_for(lambda: self.over or self._has_room(parcel.nbytes, nbytes))
            if self.over:
                return None
            self._ring.grow(parcel.nbytes)
            memory, start = self._ring.bytes, None
            if parcel.nbytes:
                start = self._ring.start_for(parcel.nbytes)
                assert start is not None
                self._ring.hold(start, parcel.nbytes)
            self._tickets += 1
            ticket = self._tickets
            self._open[ticket] = _Open(name, context, nbytes, start)
            self._nbytes += nbytes
        letter = _Letter(_off(ticket), name, [], [])
        try:
            late = _fill(memory, start or 0, parcel.sources)
            around = _folder(), _threads()
            sent = Call(ticket, parcel.pickled, keep, *around, start or 0, parcel.nbytes)
            letter = _Letter(sent, name, parcel.ready, late)
        finally:  # also where Ctrl-C came between: the place is freed with the others
            self._post(letter)
        return ticket

    def _post(self, letter: _Letter) -> None:
        with self._changed:
            self._outbox.append(letter)
            self._changed.notify_all()

    def _stop_sending(self) -> None:
        with self._changed:
            self._sends = False
            self._changed.notify_all()

    def _say_left(self) -> None:
        """Once, in a forked child (a worker of a DataLoader, say)."""
        self._left, self.over = False, True
        warn_in_training(
            f"the objects of flordb.background.process are process {self._owner}'s; what its child "
            f"{os.getpid()} submits to them is dropped. A child can make objects of its own."
        )

    def _has_room(self, shared: int, nbytes: int) -> bool:
        if not self._open:
            return True
        within = self._nbytes + nbytes <= self._settings.background_bytes
        return within and (not shared or self._ring.start_for(shared) is not None)

    def wait(self, seconds: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, seconds)

    def wait_for(self, ticket: int | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: ticket not in self._open)

    # The two threads.

    def _send(self) -> None:
        self._busy.add(threading.get_ident())
        try:
            while letters := self._next():
                self._calls.send([self._arrived(letter) for letter in letters])
                del letters
                time.sleep(PAUSE_SECONDS)
        except OSError:
            pass  # the process has ended, which is noticed where its answers are read
        with suppress(OSError):
            self._calls.close()

    def _next(self) -> list[_Letter]:
        """All that is to be sent; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._outbox) or not self._sends)
            letters, self._outbox = self._outbox, []
            return letters

    def _arrived(self, letter: _Letter) -> Call:
        """The call, once its tensors are in the shared memory."""
        try:
            for event in letter.ready:
                event.synchronize()
            for source, place in letter.late:
                place.copy_(source)
        except Exception as error:  # of the device's
            self._failures.say(letter.name, error)
            return _off(letter.call.ticket)
        return letter.call

    def _receive(self) -> None:
        self._busy.add(threading.get_ident())
        try:
            while True:
                kind, ticket, content = self._answers.recv()
                if kind == "log":
                    self._log(self._open.get(ticket), content)
                elif kind == "failed":
                    self._failures.say(self._open[ticket].name, content)
                elif kind == "failed to close":
                    self._failures.say(*content)
                else:
                    self._done(content)
        except (EOFError, OSError):
            self._ended()

    def _log(self, call: _Open | None, content: bytes) -> None:
        """Log what a call has logged, where it was submitted; what a thread of a logger logs
        between calls, where the script is now."""
        context = here() if call is None else call.context
        try:
            name, value = pickle.loads(content)
            context.run(flordb.log, name, value)
        except Exception as error:  # any class may fail to be unpickled
            self._failures.say("flor.log" if call is None else call.name, error)

    def _done(self, tickets: list[int]) -> None:
        with self._changed:
            for ticket in tickets:
                done = self._open.pop(ticket)
                self._nbytes -= done.nbytes
                if done.start is not None:
                    self._ring.free(done.start)
            self._started = True
            self._changed.notify_all()

    def _ended(self) -> None:
        code = self._child.wait()
        self.over = True
        if not self._closing:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
            why = " (for want of memory?)" if -code == signal.SIGKILL else ""
            warn_in_training(
                f"the process of flordb.background ({self._child.pid}) {how}{why}. Training goes "
                f"on; {len(self._open)} calls that were submitted to it, and those to come, are "
                "dropped."
            )
        with self._changed:
            self._open.clear()
            self._ring.close()
            self._changed.notify_all()
        self._answers.close()
        self._stop_sending()

    # The end.

    def end(self) -> None:
        """At exit: wait a while, and say what was left undone."""
        if self._tickets == self._given_up:
            return
        began = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self._started or not self._open, _START_SECONDS)
        if not self.wait(self._settings.exit_wait_seconds):
            self._given_up = self._tickets
            warn_in_training(
                f"{not_run(len(self._open), time.monotonic() - began)}. Their process has as long "
                "again, and is then ended; FLORDB_EXIT_WAIT_SECONDS sets how long to wait."
            )

    def close(self) -> None:
        """Let the process end, and wait a while for it to have closed its objects. After `end`."""
        self._closing = True
        self._stop_sending()
        if self._open:
            return  # it goes on alone, and is waited for no more
        try:
            self._child.wait(self._settings.exit_wait_seconds)
        except subprocess.TimeoutExpired:
            warn_in_training(
                "the objects of flordb.background.process had not been closed "
                f"{self._settings.exit_wait_seconds:g} s after the script's end."
            )

    def leave(self) -> None:
        """In a forked child: the process, what was sent to it and its end are the parent's."""
        self._let_go()
        self._changed = threading.Condition()
        self._submitting = threading.RLock()
        self._open.clear()
        self._left = True

    def _let_go(self) -> None:
        for held in (self._calls, self._answers, self._ring):
            held.close()


def _off(ticket: int) -> Call:
    return Call(ticket, None, None, None, None, 0, 0)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # it has been removed


def _threads() -> int | None:
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else None


def _fill(memory: Any, start: int, sources: list[Any]) -> list[tuple[Any, Any]]:
    """Copy bytes to where `parcel.unpack` looks for them; returns those on devices, for later."""
    late: list[tuple[Any, Any]] = []
    for source in sources:
        nbytes = source.nbytes
        if nbytes == 0:
            continue
        if type(source).__module__ == "numpy":
            memory[start : start + nbytes] = memoryview(source)
        else:
            torch = sys.modules["torch"]
            place = torch.frombuffer(memory, dtype=torch.uint8, count=nbytes, offset=start)
            if source.device.type == "cpu":
                place.copy_(source)
            else:
                late.append((source, place))
        start += aligned(nbytes)
    return late
