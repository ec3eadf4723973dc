"""Errors of calls in the background: each callable's first one is a warning, the others are not."""

from __future__ import annotations

import traceback
from typing import Any

from flordb.errors import warn_in_training


class Failures:
    """What has been said. ``where``: the words for the place in which the calls run."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._said: set[str] = set()

    def say(self, name: str, error: BaseException | str) -> None:
        """Warn that ``name`` failed, unless that has been said. ``error`` may be a traceback."""
        if name in self._said:
            return
        self._said.add(name)
        told = "".join(traceback.format_exception(error)) if not isinstance(error, str) else error
        warn_in_training(
            f"{name} failed in {self._where}; it is said once, and training goes on.\n"
            f"{told.strip()}"
        )


def name_of(call: Any) -> str:
    """What messages call a callable."""
    name = getattr(call, "__qualname__", None)
    return name if isinstance(name, str) else repr(call)
