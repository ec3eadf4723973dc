"""Values that cannot be had, in words: a line a reason, for all columns and runs that share it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from flordb.replay.want import Want


class Lacking(Protocol):
    """What a plan refused, or a replay did not give.

    ``choosable``: the version for which the user may choose a place with ``--at``, else ``""``.
    """

    @property
    def want(self) -> Want: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def reason(self) -> str: ...
    @property
    def choosable(self) -> str: ...


@dataclass(frozen=True)
class Tried:
    """Values that an earlier replay did not give, or was refused for, and that no other is for."""

    want: Want
    names: tuple[str, ...]
    reason: str
    choosable: str = ""


Key = tuple[str, str]
"""A run's file and a name."""


def keys(item: Lacking) -> set[Key]:
    """Which values they are."""
    return {(item.want.file, name) for name in item.names}


def lines(items: Iterable[Lacking]) -> list[str]:
    """``f1, f2 of train.py, 2 runs (2026-06-01 10:00:00 to …): why; to choose: …``."""
    runs: dict[tuple[str, str, datetime], tuple[list[str], str]] = {}
    for item in items:
        key = (item.want.filename, item.reason, item.want.tstamp)
        names, _ = runs.setdefault(key, ([], item.choosable))
        names += [name for name in item.names if name not in names]
    groups: dict[tuple[str, str, tuple[str, ...]], dict[datetime, str]] = {}
    for (filename, reason, tstamp), (names, choosable) in runs.items():
        groups.setdefault((filename, reason, tuple(names)), {})[tstamp] = choosable
    return [
        f"{', '.join(names)} of {filename}, {_when(sorted(found))}: "
        f"{reason}{how_to_choose(names, dict.fromkeys(found.values()))}"
        for (filename, reason, names), found in groups.items()
    ]


def how_to_choose(names: Sequence[str], versions: Iterable[str]) -> str:
    """How the user decides where a statement belongs in a version; nothing without versions."""
    first, *more = [version for version in versions if version] or [""]
    if not first:
        return ""
    rest = f" (likewise for {len(more)} more version{'s' * (len(more) != 1)})" if more else ""
    return f"; to choose: flordb replay {','.join(names)} --at FILE:LINE@{first[:10]}{rest}"


def _when(tstamps: Sequence[datetime]) -> str:
    first = f"{tstamps[0]:%Y-%m-%d %H:%M:%S}"
    if len(tstamps) == 1:
        return first
    return f"{len(tstamps)} runs ({first} to {tstamps[-1]:%Y-%m-%d %H:%M:%S})"
