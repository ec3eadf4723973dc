"""The current session: the one object behind ``flor.log``, ``flor.loop`` and the others.

Recording, replaying and doing nothing are three classes with this interface. Nothing exists before
the first call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from flordb.record.imports import ImportClock

T = TypeVar("T")


class Session(Protocol):
    """What a running script can ask of flor; `flordb/__init__.py` documents each call."""

    def log(self, name: str, value: T) -> T: ...

    def arg(self, name: str, default: T) -> T: ...

    def loop(self, name: str, iterable: Iterable[T]) -> Iterator[T]: ...

    def iteration(
        self, name: str, index: int | None, value: Any
    ) -> AbstractContextManager[None]: ...

    def checkpointing(self, objects: Mapping[str, Any]) -> AbstractContextManager[None]: ...

    def commit(self) -> None: ...

    def read(self, runs: list[list[str]]) -> None: ...


_current: Session | None = None
_imports: ImportClock | None = ImportClock()
"""Watches from flordb's import to the first call, or to `set_up_seconds`."""
_lock = threading.RLock()


def current() -> Session:
    """The session of this process; the first call begins to record."""
    global _current
    with _lock:
        if _current is None:
            seconds = set_up_seconds()
            from flordb.record.begin import begin

            _current = begin(seconds)
        return _current


def replace(session: Session | None) -> None:
    """Make ``session`` the current one; None lets the next call begin a new recording."""
    global _current
    _current = session
    set_up_seconds()


def set_up_seconds() -> float:
    """Seconds from flordb's import to now in which the script imported nothing, the first time
    that this is asked in a process; then 0. Ends the watching."""
    global _imports
    if _imports is None:
        return 0.0
    clock, _imports = _imports, None
    return max(0.0, time.perf_counter() - clock.began - clock.stop())


def peek() -> Session | None:
    """The current session if there is one; begins nothing."""
    return _current
