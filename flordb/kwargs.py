"""``--kwargs name=value …`` on a script's command line: what `flor.arg` answers from."""

from __future__ import annotations

import ast
import sys
from typing import Any, TypeVar

T = TypeVar("T")

FLAG = "--kwargs"

given: dict[str, str] = {}
"""The texts by name, once they are out of ``sys.argv``."""

original_argv: list[str] = []
"""``sys.argv`` as it was, for the record."""


def take_from_argv() -> None:
    """Move the words after ``--kwargs`` that look like ``name=value`` from sys.argv to `given`."""
    argv: list[str] = getattr(sys, "argv", [])
    if not original_argv:
        original_argv.extend(argv)
    if FLAG not in argv[1:]:
        return
    start = argv.index(FLAG, 1)
    end = start + 1
    while end < len(argv) and "=" in argv[end] and not argv[end].startswith("-"):
        name, _, text = argv[end].partition("=")
        given[name] = text
        end += 1
    del argv[start:end]


def convert(name: str, text: str, default: T) -> T:
    """``text`` as a value of the type of ``default``. Raises ValueError that names both."""
    kind = type(default)
    try:
        value: Any
        if default is None:
            value = _literal(text)
        elif kind is bool:
            value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                text.lower()
            ]
        elif kind is str:
            value = text
        elif kind in (int, float):
            value = kind(text)  # type: ignore[call-arg]
        else:
            value = ast.literal_eval(text)
            if not isinstance(value, kind):
                raise ValueError(text)
    except (ValueError, KeyError, SyntaxError) as error:
        raise ValueError(
            f"--kwargs {name}={text}: expected a value of type {kind.__name__}, "
            f"like the default {default!r}"
        ) from error
    return value  # type: ignore[no-any-return]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
