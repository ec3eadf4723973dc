"""The fork server: a process that has imported what the scripts import, and does nothing else.

Importing torch takes longer than most replays; a fork of a process that has done so takes
milliseconds. Threads do not exist in the children of a fork, which would wait for them for ever,
and devices do not work there: the server runs no parallel operation of torch, and a library whose
import starts threads or touches a device is left to the workers (the server begins anew without
it). It ends when stdin closes, or after a time without work.

It reads JSON lines on stdin and answers on stdout:

==============================================  ================================================
``{"probe": layers}``                           ``{"probed": why not}`` (null: `namespace` works)
``{"import": [names]}``                         ``{"ready": seconds}``
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
from pathlib import Path
from typing import Any, NoReturn

from flordb.replay import namespace
from flordb.replay.namespace import Layers
from flordb.replay.worker import import_library, work

# Where the end of a child cannot be waited for together with what is asked.
_POLL_SECONDS = 0.005


class _Server:
    def __init__(self, idle_seconds: float) -> None:
        self.idle_seconds = idle_seconds
        self.children: dict[int, int] = {}
        self.handles: dict[int, int] = {}
        self.answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what imports print is no answer
        self.imported: list[str] = []
        self.left_out: list[str] = []
        self.unread = b""

    def serve(self) -> None:
        self.handle_unread()
        while True:
            ready, _, _ = select.select([0, *self.handles.values()], [], [], self.patience())
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                self.unread += data
                self.handle_unread()
            elif not self.children:
                return
            self.reap()

    def patience(self) -> float | None:
        if not self.children:
            return self.idle_seconds
        return None if len(self.handles) == len(self.children) else _POLL_SECONDS

    def handle_unread(self) -> None:
        while b"\n" in self.unread:
            line, _, self.unread = self.unread.partition(b"\n")
            self.handle(json.loads(line))

    def handle(self, message: dict[str, Any]) -> None:
        match message:
            case {"probe": layers}:
                self.answer(probed=_probe(Layers(**layers)))
            case {"import": names}:
                began = time.perf_counter()
                self.import_all([name for name in names if name not in self.imported])
                self.answer(ready=time.perf_counter() - began)
            case {"run": number}:
                pid = os.fork()
                if pid == 0:
                    self.child(message)
                self.children[pid] = number
                self.handles.update(_handle(pid))
                self.answer(started=number, pid=pid)
            case {"kill": wanted}:
                for pid, number in self.children.items():
                    if number == wanted:
                        _kill(pid)

    def answer(self, **fields: Any) -> None:
        self.answers.write(json.dumps(fields) + "\n")

    def import_all(self, names: Sequence[str]) -> None:
        for name in names:
            self.imported.append(name)
            if name in self.left_out:
                continue
            import_library(name)
            if not _may_fork():
                self.begin_anew([*self.left_out, name], names)
        gc.freeze()  # the children's collections do not touch, and so copy, what is here

    def begin_anew(self, left_out: Sequence[str], names: Sequence[str]) -> NoReturn:
        """Become a new server, on the same pipes, that has imported the same but for some."""
        os.dup2(self.answers.fileno(), 1)
        imported = list(dict.fromkeys([*self.imported, *names]))
        state = json.dumps([imported, list(left_out), self.unread.decode()])
        command = [sys.executable, "-P", "-m", "flordb.replay.server", str(self.idle_seconds)]
        os.execv(sys.executable, [*command, state])

    def resume(self, state: str) -> None:
        began = time.perf_counter()
        names, self.left_out, unread = json.loads(state)
        self.unread = unread.encode()
        self.import_all(names)
        self.answer(ready=time.perf_counter() - began)

    def child(self, message: dict[str, Any]) -> NoReturn:
        try:
            os.setsid()
            namespace.end_with_parent()
            log = os.open(message["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            os.close(self.answers.fileno())
            for handle in self.handles.values():
                os.close(handle)
            if message["fresh"]:
                command = [sys.executable, "-P", "-m", "flordb.replay.worker", message["job"]]
                os.execve(sys.executable, command, message["env"])
            os.environ.clear()
            os.environ.update(message["env"])
            faulthandler.enable()
            work(Path(message["job"]))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)

    def reap(self) -> None:
        while self.children:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self.children.pop(pid, None)
            if number is not None:
                if pid in self.handles:
                    os.close(self.handles.pop(pid))
                _kill_group(pid)  # what the worker left behind
                code = os.waitstatus_to_exitcode(status)
                self.answer(ended=number, status=code, peak=usage.ru_maxrss * 1024)


def _handle(pid: int) -> dict[int, int]:
    """A child's descriptor, which is readable when the child has ended (Linux)."""
    try:
        return {pid: os.pidfd_open(pid)}
    except (AttributeError, OSError):
        return {}


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
