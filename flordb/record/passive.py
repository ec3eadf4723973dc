"""The session that records nothing: flor is disabled, could not begin, or is in a child process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from flordb import kwargs
from flordb.errors import warn_in_training

T = TypeVar("T")


class Passive:
    """Passes everything through. ``why`` is said once, when something is logged (None: never)."""

    def __init__(self, why: str | None = None) -> None:
        self.why = why

    def log(self, name: str, value: T) -> T:
        if self.why is not None:
            why, self.why = self.why, None
            warn_in_training(f"{name!r} is not recorded: {why}")
        return value

    def arg(self, name: str, default: T) -> T:
        if name in kwargs.given:
            return kwargs.convert(name, kwargs.given[name], default)
        return default

    def loop(self, name: str, iterable: Iterable[T]) -> Iterator[T]:
        return iter(iterable)

    def iteration(self, name: str, index: int | None, value: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def checkpointing(self, objects: Mapping[str, Any]) -> AbstractContextManager[None]:
        return nullcontext()

    def commit(self) -> None:
        return None

    def read(self, runs: list[list[str]]) -> None:
        return None


def in_child() -> Passive:
    """The session of a forked or spawned child: the run belongs to its parent."""
    return Passive(f"process {os.getpid()} is a child of the run's process; log in the parent")
