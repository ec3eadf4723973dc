"""The current session: the one object behind ``flor.log``, ``flor.loop`` and the others.

Recording, replaying and doing nothing are three classes with this interface. Nothing exists before
the first call.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

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
_lock = threading.RLock()


def current() -> Session:
    """The session of this process; the first call begins to record."""
    global _current
    with _lock:
        if _current is None:
            from flordb.record.begin import begin

            _current = begin()
        return _current


def replace(session: Session | None) -> None:
    """Make ``session`` the current one; None lets the next call begin a new recording."""
    global _current
    _current = session


def peek() -> Session | None:
    """The current session if there is one; begins nothing."""
    return _current
