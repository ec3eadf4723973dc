"""The process of its own, from inside: a fresh interpreter that makes calls until its parent ends.

It ends when nothing more can come from its parent, however that ended: then it makes the calls that
had been sent, for a while, closes its objects, and is gone after as long again. Signals from the
terminal are not for it.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import FrameType
from typing import Any, TypeVar

import cloudpickle

from flordb import background, session
from flordb.background.memory import Mapping
from flordb.background.parcel import PAUSE_SECONDS, Call, unpack
from flordb.background.proxy import MissingObject, Objects
from flordb.record.passive import Passive

T = TypeVar("T")

_DROPPED = (
    "that were submitted to flordb.background were left some time after the training's end and "
    "are dropped; FLORDB_EXIT_WAIT_SECONDS sets how long to go on."
)


def main(calls: int, answers: int, memory: int, exit_seconds: float, start_seconds: float) -> None:
    """Make calls. Parameters: file descriptors; seconds that the parent waits at its end, and that
    this interpreter may take before it has made its first object."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # No SIG_IGN: programs that a logger starts would inherit it.
        signal.signal(number, _not_for_us)
    for descriptor in (calls, answers, memory):
        os.set_inheritable(descriptor, False)
    end = _End(exit_seconds, start_seconds)
    sender = _Sender(Connection(answers, readable=False))
    session.replace(_Logging(sender))
    received: SimpleQueue[Call | None] = SimpleQueue()
    reading = (Connection(calls, writable=False), received, end)
    threading.Thread(target=_receive, args=reading, daemon=True).start()
    objects, mapping, dropped = Objects(), Mapping(memory), 0
    while (call := received.get()) is not None:
        if end.is_due():
            dropped += 1
            continue
        sender.ticket = call.ticket
        try:
            _make(call, objects, mapping)
        except BaseException as error:
            sender.send("failed", _traceback_of(error))
        sender.done(call.ticket)
        end.has_started()
    background.wait()  # for what calls have submitted here
    for name, failure in objects.close():
        sender.send("failed to close", (name, _traceback_of(failure)))
    if dropped:
        with suppress(OSError):  # nobody may listen any more
            print(f"flordb: {dropped} calls {_DROPPED}", file=sys.stderr, flush=True)


def _make(call: Call, objects: Objects, mapping: Mapping) -> None:
    if call.pickled is None:
        return
    if call.folder is not None:
        os.chdir(call.folder)
    memory = mapping.at_least(call.start + call.nbytes)
    try:
        function, arguments, named = unpack(call.pickled, memory, call.start, objects)
    except MissingObject:
        return
    _compute_with(call.threads)
    result = function(*arguments, **named)
    if call.keep is not None:
        objects[call.keep] = result


def _compute_with(threads: int | None) -> None:
    """As many threads as the training: sums of another number of parts have other last bits."""
    torch = sys.modules.get("torch")
    if torch is not None and threads is not None and threads != torch.get_num_threads():
        torch.set_num_threads(threads)


class _Sender:
    """Tells the parent, while there is one. ``ticket``: of the call that is being made."""

    def __init__(self, connection: Connection) -> None:
        self.ticket = 0
        self._done: SimpleQueue[int] = SimpleQueue()
        self._connection = connection
        self._lock = threading.Lock()
        # What a logger forks must not keep the parent waiting for this process's end.
        os.register_at_fork(after_in_child=connection.close)
        threading.Thread(target=self._report, daemon=True).start()

    def send(self, kind: str, content: Any) -> None:
        with self._lock, suppress(OSError):  # without a parent, the calls are still made
            self._connection.send((kind, self.ticket, content))

    def done(self, ticket: int) -> None:
        """Tell, within a moment, that a call has been made or has failed."""
        self._done.put(ticket)

    def _report(self) -> None:
        while True:
            tickets = [self._done.get()]
            while not self._done.empty():
                tickets.append(self._done.get())
            self.send("done", tickets)
            time.sleep(PAUSE_SECONDS)


class _Logging(Passive):
    """The session: what a call logs is the parent's to record, where the call was submitted."""

    def __init__(self, sender: _Sender) -> None:
        super().__init__()
        self._sender = sender

    def log(self, name: str, value: T) -> T:
        try:
            content = cloudpickle.dumps((name, value))
        except Exception:  # any object's __reduce__ may raise anything
            content = cloudpickle.dumps((name, repr(value)))
        self._sender.send("log", content)
        return value


class _End:
    """The time that is left once the parent has ended: to make calls, and as long again to close
    objects. The kernel keeps it, whatever hangs."""

    def __init__(self, exit_seconds: float, start_seconds: float) -> None:
        # No time at all would be none that is ever over.
        self._exit_seconds = min(max(exit_seconds, 1), 1_000_000)
        self._start_seconds = start_seconds
        self._started = self._alone = False
        self._due = math.inf

    def has_started(self) -> None:
        if not self._started:
            self._started = True
            if self._alone:
                self._is_in(self._exit_seconds)

    def is_alone(self) -> None:
        self._alone = True
        self._is_in(self._exit_seconds + (0 if self._started else self._start_seconds))

    def is_due(self) -> bool:
        """Whether there is no time left for calls."""
        return time.monotonic() > self._due

    def _is_in(self, seconds: float) -> None:
        self._due = time.monotonic() + seconds
        signal.setitimer(signal.ITIMER_REAL, seconds + self._exit_seconds)


def _receive(connection: Connection, received: SimpleQueue[Any], end: _End) -> None:
    try:
        while True:
            for call in connection.recv():
                received.put(call)
    except (EOFError, OSError):
        end.is_alone()
        received.put(None)


def _not_for_us(number: int, frame: FrameType | None) -> None:
    return


def _traceback_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
