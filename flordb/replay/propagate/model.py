"""What propagation is asked and what it answers: frozen values that the planner keeps and shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """A hindsight statement in the newer version: its file from the root, its first line from 1."""

    file: str
    lineno: int


@dataclass(frozen=True)
class Insertion:
    """A run of lines that a patch adds, by its lines in the *patched* file, both included.

    ``kind`` is "statement" for the log statement itself, "opening" and "closing" for the lines
    that put a statement of the older version inside a log call, and "support" for the definitions,
    imports and helpers that are needed.
    """

    file: str
    first: int
    last: int
    kind: str


@dataclass(frozen=True)
class Patch:
    """An older version with the statement put in.

    ``files`` holds patched and wholly new files only. Without the lines of ``insertions`` each is
    the old text to the letter. ``renames`` maps the newer version's names to the older version's;
    ``notes`` say by which witnesses the place was found.
    """

    files: Mapping[str, str]
    insertions: tuple[Insertion, ...]
    renames: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Refusal:
    """Why a statement was not put into the older version: one sentence for the user."""

    reason: str


class Refused(Exception):
    """Raised inside the package to leave with a `Refusal`; never reaches a caller."""
