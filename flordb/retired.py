"""Calls that the predecessor has retired. Old versions that are replayed may still make them, so
they exist and do nothing."""

from __future__ import annotations

from typing import Any


def retired(name: str) -> Any:
    """The harmless stand-in for a retired name. Raises AttributeError for any other."""
    if name in ("restore", "set_ckpt_interval", "set_capture", "io"):
        return _nothing
    raise AttributeError(f"module 'flordb' has no attribute {name!r}")


def _nothing(*arguments: Any, **named: Any) -> None:
    """Accept anything, do nothing."""
