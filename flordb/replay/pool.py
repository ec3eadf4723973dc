"""The fork servers of this process: started when needed, kept for the next query while idle.

A server serves one interpreter and one environment, because libraries read variables when they are
imported (``OMP_NUM_THREADS``) and Python reads ``PYTHONHASHSEED`` when it starts. It ends by itself
after `server_idle_seconds` without work, and with this process; at most two are kept idle.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flordb.errors import ReplayError
from flordb.replay.namespace import Layers
from flordb.replay.task import package_of

Environment = tuple[tuple[str, str], ...]
Key = tuple[str, Environment]
"""An interpreter's path, and the environment."""

# Arrow would start a thread when it is imported, and so could not be imported before a fork.
_SINGLE_THREADED = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
_MARGIN_SECONDS = 5.0
_MOST_IDLE = 2


class Server:
    """A fork server. ``ready``: it has imported what it was told to."""

    def __init__(self, key: Key, idle_seconds: float) -> None:
        self.key = key
        self.ready = False
        self.jobs: set[int] = set()
        self.since = time.monotonic()
        self._idle_seconds = idle_seconds
        self._sent: set[str] = set()
        self._buffer = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the server)
        python, environment = key
        self._process = subprocess.Popen(
            [python, "-P", "-m", "flordb.replay.server", str(idle_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**_SINGLE_THREADED, **dict(environment)},
            # Ctrl-C at a terminal is for this process, which then stops the workers.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def fileno(self) -> int:
        return self._out.fileno()

    def prepare(self, imports: Sequence[str]) -> None:
        """Import these modules, too. Raises ReplayError where the server has ended."""
        self.ready = False
        self.send({"import": [name for name in imports if name not in self._sent]})
        self._sent.update(imports)

    def probe(self, layers: Layers) -> None:
        self.send({"probe": asdict(layers)})

    def run(self, number: int, job: Path, log: Path, env: Mapping[str, str], fresh: bool) -> None:
        """Start a worker. Raises ReplayError where the server has ended."""
        message = {"run": number, "job": str(job), "log": str(log), "env": dict(env)}
        self.send({**message, "fresh": fresh})
        self.jobs.add(number)

    def kill(self, number: int) -> None:
        self.send({"kill": number})

    def send(self, message: Mapping[str, Any]) -> None:
        try:
            self._in.write(json.dumps(message).encode() + b"\n")
            self._in.flush()
        except OSError as error:
            raise ReplayError(self.died()) from error

    def answers(self) -> list[dict[str, Any]]:
        """Waits for answers, and returns those that have come. Raises ReplayError."""
        data = os.read(self.fileno(), 1 << 16)
        if not data:
            raise ReplayError(self.died())
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        found = [json.loads(line) for line in lines]
        for answer in found:
            if "ready" in answer:
                self.ready = True
                _took.update(answer["ready"])
            self.jobs.discard(answer.get("ended", -1))
        return found

    def lacks(self, imports: Sequence[str]) -> set[str]:
        """The packages among these imports of which it has imported nothing yet."""
        return {*map(package_of, imports)} - {*map(package_of, self._sent)}

    def lives_on(self) -> bool:
        """Whether an idle server is there, and will be for some seconds more."""
        left = self.since + self._idle_seconds - time.monotonic()
        return left > _MARGIN_SECONDS and self._process.poll() is None

    def died(self) -> str:
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines()
        return f"the replay server ended: {said[-1] if said else 'it said nothing'}"

    def close(self) -> None:
        """End the server and its workers."""
        with suppress(OSError):
            self._in.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._log.close()


_idle: list[Server] = []
_took: dict[str, float] = {}
_owner = os.getpid()
_lock = threading.Lock()


def take(key: Key, imports: Sequence[str], idle_seconds: float) -> Server:
    """An idle server for this interpreter and environment, or a new one.

    Nobody else has it until it is given back. Raises ReplayError and OSError.
    """
    server = _take_idle(key) or Server(key, idle_seconds)
    server.prepare(imports)
    return server


def _take_idle(key: Key) -> Server | None:
    global _owner
    with _lock:
        if _owner != os.getpid():
            # A fork of this process: the servers are the parent's.
            _owner = os.getpid()
            _idle.clear()
        for server in [server for server in _idle if not server.lives_on()]:
            _idle.remove(server)
            server.close()
        for server in _idle:
            if server.key == key:
                _idle.remove(server)
                return server
    return None


def is_warm() -> bool:
    """Whether a server of this process is idle, with its imports done."""
    with _lock:
        return _owner == os.getpid() and any(server.lives_on() for server in _idle)


def lacking(environment: Environment, imports: Sequence[str]) -> set[str] | None:
    """The packages that an idle server of this process has yet to import; None where there is none
    with this environment."""
    with _lock:
        if _owner == os.getpid():
            for server in _idle:
                if server.key[1] == environment and server.lives_on():
                    return server.lacks(imports)
    return None


def imports_took() -> dict[str, float]:
    """Seconds by package, of what servers have imported since this was last asked."""
    found = dict(_took)
    _took.clear()
    return found


def give_back(server: Server) -> None:
    """Keep a server for the next plan, or end it where it is at work or still importing."""
    if server.jobs or not server.ready:
        server.close()
        return
    server.since = time.monotonic()
    with _lock:
        _idle.append(server)
        while len(_idle) > _MOST_IDLE:
            _idle.pop(0).close()


@atexit.register
def close_idle() -> None:
    """End the servers that nobody uses."""
    if _owner != os.getpid():
        return
    with _lock:
        while _idle:
            _idle.pop().close()
