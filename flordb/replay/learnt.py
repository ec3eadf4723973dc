"""What replays of a project have taken: corrections of the estimates, kept in ``.flor/costs.json``.

A run's timings say what its code took on its own machine at its own time. A replay consists of four
parts (`PARTS`), and each of them is learnt by itself: what was expected of it beside what it took,
of the last few replays. Medians of these correct the next estimate, so that one replay that had to
wait for another program's work teaches nothing. What is known of a script's own scans counts first,
then the script, then the project. The file is derived: without it the expectations stand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import orjson

from flordb.store.whole import write_whole

if TYPE_CHECKING:
    from flordb.replay.cost import Parts

PARTS = ("handing", "setup", "loading", "computing")
"""Making and ending a worker and its workspace and taking its values; the script up to its first
loop; loading snapshots; what is run in loops, between and after them."""

_MOST_KEPT = 5
_LONG_SECONDS = 0.05
"""From here on a part is learnt as a factor, below as a difference: what is short is mostly what
happens once in a process (the first use of a library's functions)."""
_CROWD = 1.05
_LONGEST_SECONDS = 1e9

Seen = list[tuple[float, float]]
"""Seconds expected and taken, the latest last."""


@dataclass(frozen=True)
class Rate:
    """Seconds here for those expected: ``offset + ratio * expected``."""

    offset: float = 0.0
    ratio: float = 1.0

    def of(self, expected: float) -> float:
        return max(0.0, self.offset + self.ratio * expected)


@dataclass(frozen=True)
class Rates:
    """The rates of the `PARTS` of a replay."""

    handing: Rate = Rate()
    setup: Rate = Rate()
    loading: Rate = Rate()
    computing: Rate = Rate()


@dataclass
class Learnt:
    """``start``: seconds until cold servers had imported the libraries; ``imports``: those of the
    last time that a server imported a package, by its name; ``seen``: by part, and by script and
    scan, what was expected and what it took; ``beside``: the same of what was computed while other
    workers did."""

    start: list[float] = field(default_factory=list)
    imports: dict[str, float] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    beside: dict[str, Seen] = field(default_factory=dict)

    def rates(self, script: str, scan: str, together: bool) -> Rates:
        """The rates for a scan of a script.

        Parameters: ``together``, whether other workers run at the same time.
        """
        found = {part: self._rate(part, script, scan) for part in PARTS}
        if together:
            alone = found["computing"]
            found["computing"] = Rate(alone.offset, alone.ratio * self.crowding())
        return Rates(**found)

    def crowding(self) -> float:
        """How much longer workers compute while others do, by what was computed either way."""
        found = [
            beside / alone
            for key, seen in self.beside.items()
            if (beside := _ratio(seen)) and (alone := _ratio(self.seen.get(key, [])))
        ]
        return max(1.0, median(found)) if found else _CROWD

    def starting(self) -> float | None:
        """Seconds until a cold server has imported the libraries; None while unknown."""
        return median(self.start) if self.start else None

    def _rate(self, part: str, script: str, scan: str) -> Rate:
        levels = [self._seen_as_alone(key) for key in _keys(part, script, scan)]
        ratios = [_ratio(seen) for seen in levels]
        at = next((n for n, ratio in enumerate(ratios) if ratio is not None), len(levels))
        ratio = 1.0 if at == len(levels) else ratios[at] or 0.0
        if part == "computing":
            # How fast code runs is known from its own runs; or half, in powers, from what other
            # scans let expect: this machine may be another than the run's.
            ratio = ratio if at == 0 else self._half(script)
        # What others were off by, whose part is short, says nothing about a ratio of its own.
        near = levels[: at + 1]
        offsets = [offset for seen in near if (offset := _offset(seen, ratio)) is not None]
        return Rate(offsets[0] if offsets else 0.0, ratio)

    def _half(self, script: str) -> float:
        start = _key("computing", script, "")
        keys = {key for key in (*self.seen, *self.beside) if key.startswith(start)}
        known = [ratio for key in sorted(keys) if (ratio := _ratio(self._seen_as_alone(key)))]
        return math.prod(known) ** (0.5 / len(known)) if known else 1.0

    def _seen_as_alone(self, key: str) -> Seen:
        """What was seen, and what others would have taken had none computed beside them."""
        beside = self.beside.get(key, [])
        crowding = self.crowding() if beside else 1.0
        return [*self.seen.get(key, []), *((e, took / crowding) for e, took in beside)]

    def worked(
        self, script: str, scan: str, together: bool, parts: Parts, took: Mapping[str, float]
    ) -> None:
        """Learn from a task: what was expected, and what a worker measured (``took``)."""
        _keep(self.seen, "setup", script, scan, (parts.setting_up, took["setup"]))
        if took["restores"]:
            _keep(self.seen, "loading", script, scan, (parts.loading, took["restored"]))
        where = self.beside if together else self.seen
        _keep(where, "computing", script, scan, (parts.computing, took["computed"]))

    def handed(self, script: str, scan: str, parts: Parts, seconds: float) -> None:
        """Learn what a task took beyond its worker's own work, where it was alone."""
        _keep(self.seen, "handing", script, scan, (parts.handing, max(0.0, seconds)))

    def started(self, seconds: float) -> None:
        """Learn what the start of a server took."""
        self.start.append(max(0.0, seconds))
        del self.start[:-_MOST_KEPT]


def _keep(
    where: dict[str, Seen], part: str, script: str, scan: str, lesson: tuple[float, float]
) -> None:
    """Keep what was expected and what it took, at each level, with the last few before it."""
    expected, took = lesson
    for key in _keys(part, script, scan):
        seen = where.setdefault(key, [])
        seen.append((round(expected, 6), round(took, 6)))
        del seen[:-_MOST_KEPT]


def _key(part: str, script: str, scan: str) -> str:
    return f"{part}|{script}|{scan}"


def _keys(part: str, script: str, scan: str) -> tuple[str, ...]:
    """Where a part is learnt, the most telling first: a script's scan, the script, all scripts."""
    if part == "computing":
        return _key(part, script, scan), _key(part, "", scan)
    return _key(part, script, scan), _key(part, script, "*"), _key(part, "", "")


def _ratio(seen: Seen) -> float | None:
    """The median factor of those that took long, each weighing what it took; where the middle is
    between two of them, by how far it is from each."""
    found = sorted((took / expected, expected) for expected, took in seen if _is_long(expected))
    middle = sum(weight for _, weight in found) / 2
    passed, before = 0.0, None
    for ratio, weight in found:
        at = passed + weight / 2
        if at >= middle:
            if before is None:
                return ratio
            share = (middle - before[0]) / (at - before[0])
            return before[1] + share * (ratio - before[1])
        passed, before = passed + weight, (at, ratio)
    return before[1] if before is not None else None


def _offset(seen: Seen, ratio: float) -> float | None:
    found = [took - ratio * expected for expected, took in seen if not _is_long(expected)]
    return median(found) if found else None


def _is_long(expected: float) -> bool:
    return expected >= _LONG_SECONDS


def load(store: Path) -> Learnt:
    """What is known in a project's ``.flor`` folder; nothing where that cannot be read."""
    try:
        found = Learnt(**orjson.loads((store / "costs.json").read_bytes()))
        found.start = list(map(_seconds, found.start))
        found.imports = {name: _seconds(took) for name, took in found.imports.items()}
        found.seen = {key: _pairs(pairs) for key, pairs in found.seen.items()}
        found.beside = {key: _pairs(pairs) for key, pairs in found.beside.items()}
        return found
    except (OSError, ValueError, TypeError, AttributeError):
        return Learnt()  # never learnt, or written by another version


def _pairs(pairs: Iterable[Iterable[float]]) -> Seen:
    return [(_seconds(expected), _seconds(took)) for expected, took in pairs]


def _seconds(value: float) -> float:
    """Raises ValueError where nothing can have taken that long: the file is damaged."""
    seconds = float(value)
    if not 0 <= seconds < _LONGEST_SECONDS:
        raise ValueError(f"{value} seconds")
    return seconds


def save(store: Path, learnt: Learnt) -> None:
    """Keep it. That another process learns at the same time costs one lesson; failing, all."""
    with suppress(OSError):
        write_whole(store / "costs.json", orjson.dumps(vars(learnt)))
