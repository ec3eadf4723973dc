"""The fork server: a process that has imported what the scripts import, and does nothing else.

Importing torch takes longer than most replays; a fork of a process that has done so takes
milliseconds. Threads do not exist in the children of a fork, which would wait for them for ever,
and devices do not work there: the server runs no parallel operation of torch, and a library whose
import starts threads or touches a device is left to the workers (the server begins anew without
it). It ends when stdin closes, or after a time without work.

The next worker is forked before there is a task for it, because copying the page tables of a
process with torch takes as long as many a replay; and a worker says itself when its task is done,
so that nobody waits until the kernel has taken its memory apart.

It reads JSON lines on stdin and answers on stdout:

==============================================  ================================================
``{"probe": layers}``                           ``{"probed": why not}`` (null: `namespace` works)
``{"import": [names]}``                         ``{"ready": {package: seconds}}``
``{"run": n, "job", "log", "env", "fresh"}``    ``{"started": n, "pid": p}``, then ``{"ended": n,
                                                "status": code (negative: signal), "peak": bytes}``
``{"kill": n}``                                 the ``ended`` of that worker
==============================================  ================================================
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from flordb.replay import namespace
from flordb.replay.namespace import Layers
from flordb.replay.task import package_of
from flordb.replay.worker import import_library, note_modules, work

# Where the end of a child cannot be waited for together with what is asked.
_POLL_SECONDS = 0.005


@dataclass
class _Child:
    """A worker. ``ended``: a descriptor that is readable when its process has ended, None where the
    system has none; ``done``: where it says that its task is done; ``orders``: where it is told its
    task; ``number``: of its task, while it has one."""

    pid: int
    ended: int | None
    done: int | None
    orders: int | None
    number: int | None = None

    def close(self) -> None:
        for handle in (self.ended, self.done, self.orders):
            if handle is not None:
                os.close(handle)


class _Server:
    def __init__(self, idle_seconds: float) -> None:
        self.idle_seconds = idle_seconds
        self.children: dict[int, _Child] = {}
        self.spare: _Child | None = None
        self.answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what imports print is no answer
        self.imported: list[str] = []
        self.left_out: list[str] = []
        self.unread = b""

    def serve(self) -> None:
        self.handle_unread()
        while True:
            children = tuple(self.children.values())
            watched = [fd for c in children for fd in (c.ended, c.done) if fd is not None]
            ready, _, _ = select.select([0, *watched], [], [], self.patience())
            for child in children:
                if child.done in ready:
                    self.hear(child)
            self.reap()
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                self.unread += data
                self.handle_unread()
            elif not ready and not self.at_work():
                return

    def at_work(self) -> bool:
        return any(child.number is not None for child in self.children.values())

    def patience(self) -> float | None:
        """Seconds until something has to be looked at; None: what comes can be waited for."""
        if not self.at_work():
            return self.idle_seconds
        seen = all(child.ended is not None for child in self.children.values())
        return None if seen else _POLL_SECONDS

    def handle_unread(self) -> None:
        while b"\n" in self.unread:
            line, _, self.unread = self.unread.partition(b"\n")
            self.handle(json.loads(line))

    def handle(self, message: dict[str, Any]) -> None:
        match message:
            case {"probe": layers}:
                self.answer(probed=_probe(Layers(**layers)))
            case {"import": names}:
                new = [name for name in names if name not in self.imported]
                if new:
                    self.dismiss()
                self.answer(ready=self.import_all(new) if new else {})
                self.spare = self.spare or self.fork()
            case {"run": number}:
                self.run(number, message)
            case {"kill": wanted}:
                for child in self.children.values():
                    if child.number == wanted:
                        _kill(child.pid)

    def answer(self, **fields: Any) -> None:
        self.answers.write(json.dumps(fields) + "\n")

    def import_all(self, names: Sequence[str]) -> dict[str, float]:
        """Returns the seconds by package, of those of which nothing had been imported before."""
        known = {package_of(name) for name in self.imported}
        took: dict[str, float] = {}
        for name in names:
            began = time.perf_counter()
            self.imported.append(name)
            if name in self.left_out:
                continue
            import_library(name)
            if not _may_fork():
                self.begin_anew([*self.left_out, name], names)
            if (package := package_of(name)) not in known:
                took[package] = took.get(package, 0.0) + time.perf_counter() - began
        note_modules()
        gc.freeze()  # the children's collections do not touch, and so copy, what is here
        return took

    def begin_anew(self, left_out: Sequence[str], names: Sequence[str]) -> NoReturn:
        """Become a new server, on the same pipes, that has imported the same but for some."""
        os.dup2(self.answers.fileno(), 1)
        imported = list(dict.fromkeys([*self.imported, *names]))
        state = json.dumps([imported, list(left_out), self.unread.decode()])
        command = [sys.executable, "-P", "-m", "flordb.replay.server", str(self.idle_seconds)]
        os.execv(sys.executable, [*command, state])

    def resume(self, state: str) -> None:
        names, self.left_out, unread = json.loads(state)
        self.unread = unread.encode()
        self.answer(ready=self.import_all(names))
        self.spare = self.fork()

    def fork(self) -> _Child:
        """A worker that waits for its task."""
        orders, to_orders = os.pipe()
        from_done, done = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(to_orders)
            os.close(from_done)
            self.child(orders, done)
        os.close(orders)
        os.close(done)
        os.set_blocking(from_done, False)
        child = self.children[pid] = _Child(pid, _handle(pid), from_done, to_orders)
        return child

    def dismiss(self) -> None:
        """End the worker that waits, which has not what is to be imported."""
        if self.spare is not None and self.spare.orders is not None:
            os.close(self.spare.orders)
            self.spare.orders = None
        self.spare = None

    def run(self, number: int, message: dict[str, Any]) -> None:
        child = self.spare or self.fork()
        assert child.orders is not None
        child.number = number
        self.answer(started=number, pid=child.pid)
        orders, child.orders = child.orders, None
        # Where it has been killed meanwhile, `reap` says so.
        with contextlib.suppress(BrokenPipeError), os.fdopen(orders, "wb") as pipe:
            pipe.write(json.dumps(message).encode())
        self.spare = self.fork()

    def child(self, orders: int, done: int) -> NoReturn:
        try:
            os.setsid()
            namespace.end_with_parent()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.close(self.answers.fileno())
            for other in self.children.values():
                other.close()
            with os.fdopen(orders, "rb") as pipe:
                told = pipe.read()
            if not told:
                os._exit(0)
            self.obey(json.loads(told), done)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)

    def obey(self, message: dict[str, Any], done: int) -> NoReturn:
        log = os.open(message["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        if message["fresh"]:
            command = [sys.executable, "-P", "-m", "flordb.replay.worker", message["job"]]
            os.execve(sys.executable, command, message["env"])
        os.environ.clear()
        os.environ.update(message["env"])
        faulthandler.enable()
        work(Path(message["job"]), done)

    def hear(self, child: _Child) -> None:
        """Pass on that a worker's task is done, where it has said so."""
        if child.done is None:
            return
        try:
            said = os.read(child.done, 64)
        except BlockingIOError:
            return
        os.close(child.done)
        child.done = None
        if said and child.number is not None:
            status, peak = map(int, said.split())
            self.answer(ended=child.number, status=status, peak=peak)
            child.number = None

    def reap(self) -> None:
        while self.children:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self.children.pop(pid, None)
            if child is None:
                continue
            _kill_group(pid)  # what the worker left behind
            self.hear(child)
            if child.number is not None:
                code = os.waitstatus_to_exitcode(status)
                self.answer(ended=child.number, status=code, peak=usage.ru_maxrss * 1024)
            if child is self.spare:
                self.spare = None
            child.close()


def _handle(pid: int) -> int | None:
    """A child's descriptor, which is readable when the child has ended (Linux)."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _may_fork() -> bool:
    """Whether this process has one thread, and no device.

    Some libraries (OpenBLAS) end their threads before a fork; so the threads are counted after one.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return False
    if _threads() > 1:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return _threads() == 1


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def _probe(layers: Layers) -> str | None:
    """Why a worker could not have a view of its own; None where it could."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            namespace.enter(layers)
            Path(layers.root, f".flordb-{os.getpid()}").touch()
        except BaseException as error:
            os.write(writer, (str(error) or type(error).__name__).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        why = answer.read().decode()
    os.waitpid(pid, 0)
    return why or None


def _kill(pid: int) -> None:
    """Kill a worker and what it has started; it may not have made its process group yet."""
    _kill_group(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def main() -> None:
    """Serve until stdin closes or nothing is asked any more; then no child is left."""
    server = _Server(float(sys.argv[1]))
    try:
        if len(sys.argv) > 2:
            server.resume(sys.argv[2])
        server.serve()
    except (KeyboardInterrupt, BrokenPipeError):
        return
    finally:
        for pid in server.children:
            _kill(pid)


if __name__ == "__main__":
    main()
