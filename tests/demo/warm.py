"""Starts trainings in a moment: forks of one process that has imported torch and scikit-learn.

A test trains each version twice, and importing the libraries takes longer than training. What runs
is the script, as ``__main__``, in a process of its own that ends as any other does.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

_POLL_SECONDS = 0.01


@dataclass
class Warm:
    """The warm process, seen from the test. ``start`` is a ``summer.Start``."""

    server: subprocess.Popen[bytes] = field(
        default_factory=lambda: subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    )
    ended: dict[int, int] = field(default_factory=dict)
    started: int = 0
    rest: bytes = b""

    def __enter__(self) -> Warm:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.stdin.close()
        self.server.wait(60)
        self.server.stdout.close()

    def start(self, folder: Path, training: Any) -> WarmProcess:
        self.started += 1
        job = {
            "number": self.started,
            "folder": str(folder),
            "argv": training.command,
            "env": training.environment,
            "log": str(folder / f".git/{training.version}.log"),
        }
        self.server.stdin.write(json.dumps(job).encode() + b"\n")
        self.server.stdin.flush()
        return WarmProcess(self, self.started)

    def listen(self, seconds: float) -> None:
        """Take in what the server says; waits at most so long for it."""
        if select.select([self.server.stdout], [], [], seconds)[0]:
            data = os.read(self.server.stdout.fileno(), 1 << 16)
            if not data:
                raise RuntimeError("the warm process ended")
            *lines, self.rest = (self.rest + data).split(b"\n")
            for line in lines:
                number, status = json.loads(line)
                self.ended[number] = status


@dataclass(frozen=True)
class WarmProcess:
    """A training under way."""

    warm: Warm
    number: int

    def poll(self) -> int | None:
        self.warm.listen(0)
        return self.warm.ended.get(self.number)

    def wait(self) -> int:
        while self.number not in self.warm.ended:
            self.warm.listen(1)
        return self.warm.ended[self.number]


def _serve() -> None:
    # Imported, nothing computed: the threads of a parallel operation would be missing in forks.
    import sklearn.datasets
    import sklearn.metrics
    import torch
    import torch._dynamo
    import torch.utils.data

    del sklearn, torch
    running: dict[int, int] = {}
    pending, is_open = b"", True
    while is_open or running:
        if is_open and select.select([0], [], [], _POLL_SECONDS)[0]:
            data = os.read(0, 1 << 16)
            is_open = bool(data)
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                job = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _train(job)
                    return
                running[pid] = job["number"]
        pid, status = os.waitpid(-1, os.WNOHANG if is_open else 0) if running else (0, 0)
        if pid:
            print(json.dumps([running.pop(pid), os.waitstatus_to_exitcode(status)]), flush=True)


def _train(job: dict[str, Any]) -> None:
    log = os.open(job["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(job["env"])
    os.chdir(job["folder"])
    sys.argv[:] = job["argv"]
    sys.path[0] = job["folder"]
    runpy.run_path(job["argv"][0], run_name="__main__")


if __name__ == "__main__":
    _serve()
