"""The fork server: a process that has imported what the scripts import, and does nothing else.

Importing torch takes longer than most replays; a fork of a process that has done so takes
milliseconds. It must run no parallel operation of torch before it forks: the threads of such an
operation do not exist in the children, which would wait for them for ever.

It reads JSON lines on stdin and answers on stdout: ``{"import": [names]}``, ``{"run": id, "job":
path, "log": path}``, ``{"kill": id}``; answers ``{"ready": seconds}`` and ``{"ended": id,
"status": code}`` (negative: killed by that signal).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.01


def main() -> None:
    """Serve until stdin closes; then no child is left."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what imports print is no answer
    children: dict[int, int] = {}
    pending = b""
    try:
        while True:
            ready, _, _ = select.select([0], [], [], _POLL_SECONDS if children else None)
            if ready:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    _handle(json.loads(line), children, answers)
            _reap(children, answers)
    except KeyboardInterrupt:
        return
    finally:
        for pid in children:
            _kill(pid)


def _handle(message: dict[str, Any], children: dict[int, int], answers: Any) -> None:
    if "import" in message:
        began = time.perf_counter()
        for name in message["import"]:
            _import(name)
        answers.write(json.dumps({"ready": time.perf_counter() - began}) + "\n")
    elif "run" in message:
        pid = os.fork()
        if pid == 0:
            _child(message, answers)
        children[pid] = message["run"]
    elif "kill" in message:
        for pid, number in children.items():
            if number == message["kill"]:
                _kill(pid)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
        if name == "torch":
            # The first optimizer imports it, which takes as long as torch itself.
            importlib.import_module("torch._dynamo")
    except Exception as error:
        # The script may never get there, or catch it; if not, its replay fails with this error.
        print(f"flordb: import {name}: {type(error).__name__}: {error}", file=sys.stderr)


def _child(message: dict[str, Any], answers: Any) -> None:
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        log = os.open(message["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(answers.fileno())
        from flordb.replay.worker import work

        work(Path(message["job"]))
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _reap(children: dict[int, int], answers: Any) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        number = children.pop(pid, None)
        if number is not None:
            code = os.waitstatus_to_exitcode(status)
            answers.write(json.dumps({"ended": number, "status": code}) + "\n")


def _kill(pid: int) -> None:
    """Kill a worker and what it has started; it may not have made its process group yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
