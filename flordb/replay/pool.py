"""The fork server's other end: hands out jobs, notices their ends, stops what takes too long."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from flordb.errors import ReplayError

_TICK_SECONDS = 0.1


@dataclass(frozen=True)
class Ended:
    """A job's end: its number, and why it failed where it did (None: it ran to its end)."""

    number: int
    why: str | None


class Pool:
    """A fork server with its imports done; use it in a ``with`` block, which ends all workers."""

    def __init__(self, imports: Sequence[str], log: Path) -> None:
        self._log = log
        self._running: dict[int, tuple[float, float]] = {}
        self._buffer = b""
        with open(log, "wb") as errors:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", "flordb.replay.server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._send({"import": list(imports)})

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        for number in self._running:
            self._send({"kill": number})
        self._server.stdin.close()
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()

    @property
    def running(self) -> int:
        return len(self._running)

    def elapsed(self, number: int) -> float:
        """Seconds since a running job was handed out; 0 for any other."""
        return time.monotonic() - self._running[number][0] if number in self._running else 0.0

    def submit(self, number: int, job: Path, log: Path, timeout_seconds: float) -> None:
        """Hand out a job. It is stopped after ``timeout_seconds``."""
        self._running[number] = (time.monotonic(), timeout_seconds)
        self._send({"run": number, "job": str(job), "log": str(log)})

    def wait(self) -> Iterator[Ended]:
        """Jobs that have ended by now; waits a moment for the first. Raises ReplayError."""
        for message in self._messages():
            number = message.get("ended")
            if number in self._running:
                began, timeout = self._running.pop(number)
                yield Ended(number, _why(message["status"], time.monotonic() - began > timeout))
        for number, (began, timeout) in self._running.items():
            if time.monotonic() - began > timeout:
                self._send({"kill": number})

    def _messages(self) -> list[dict[str, Any]]:
        assert self._server.stdout is not None
        ready, _, _ = select.select([self._server.stdout], [], [], _TICK_SECONDS)
        if not ready:
            return []
        data = self._server.stdout.read1(1 << 16)  # type: ignore[attr-defined]
        if not data:
            raise ReplayError(self._died())
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _send(self, message: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        try:
            self._server.stdin.write(json.dumps(message).encode() + b"\n")
            self._server.stdin.flush()
        except BrokenPipeError as error:
            raise ReplayError(self._died()) from error

    def _died(self) -> str:
        said = self._log.read_text(errors="replace").strip().splitlines()
        return f"the replay server ended: {said[-1] if said else 'it said nothing'}"


def _why(status: int, too_long: bool) -> str | None:
    if status < 0 and too_long:
        return "it took too long and was stopped (task_timeout_seconds)"
    if status < 0:
        return f"the worker was killed by signal {-status}"
    return None if status == 0 else f"the worker ended with status {status}"
