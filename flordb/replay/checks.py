"""Deferred checks: what a replay logs again is compared with the record (4.3).

A difference shows that the replay's state is not the run's. Whatever may depend on the same things
as the value that differs is then void: no statement gets a value from such a replay. Columns that
differ by nature have a tolerance of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flordb.analysis.program import Program
from flordb.analysis.slices import changeable, dependencies, names_read
from flordb.analysis.statements import logged_names
from flordb.analysis.walk import walk

EVERY = "*"


@dataclass(frozen=True)
class Tolerances:
    """How far values may be from the record, by column; ``*`` is every other column.

    A number is within a tolerance t where it differs by at most t times the larger of 1 and the
    recorded value; ``inf`` leaves a column unchecked.
    """

    by_column: Mapping[str, float]

    @staticmethod
    def parse(text: str) -> Tolerances:
        """Read ``loss=1e-6, seconds=inf``. Raises ValueError."""
        found: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, number = part.rpartition("=")
            if not name or not float(number) >= 0:
                raise ValueError(f"{part!r} is not column=tolerance")
            found[name.strip()] = float(number)
        return Tolerances(found)

    def of(self, column: str) -> float:
        return self.by_column.get(column, self.by_column.get(EVERY, 0.0))


def same(recorded: Any, replayed: Any, tolerance: float = 0.0) -> bool:
    """Equal as values of a log: NaN equals NaN, and types of numbers do not matter."""
    if tolerance == math.inf:
        return True
    if _is_number(recorded) and _is_number(replayed):
        if recorded == replayed or (recorded != recorded and replayed != replayed):
            return True
        if not tolerance or abs(recorded) == math.inf:
            return False
        return bool(abs(recorded - replayed) <= tolerance * max(1.0, abs(recorded)))
    if isinstance(recorded, list) and isinstance(replayed, list):
        pairs = zip(recorded, replayed, strict=False)
        return len(recorded) == len(replayed) and all(same(a, b, tolerance) for a, b in pairs)
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        return recorded.keys() == replayed.keys() and all(
            same(value, replayed[key], tolerance) for key, value in recorded.items()
        )
    return bool(recorded == replayed)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def doubtful(
    sources: Mapping[str, str], script: str, names: Sequence[str], columns: Iterable[str]
) -> dict[str, str]:
    """The wanted names whose values are void where these columns came out differently.

    Parameters: ``sources``, the patched version. Returns for each such name a column that it may
    share a cause with. A column that no statement logs by its literal name makes all of them void.
    """
    program = Program(sources, script)
    reads: dict[str, set[str]] = {}
    for visit in walk(program):
        for name in logged_names(visit.module, visit.statement):
            reads.setdefault(name, set()).update(names_read(visit.statement))
    changes = changeable(program)
    found: dict[str, str] = {}
    causes = {name: dependencies(program, reads.get(name, ())) & changes for name in names}
    for column in dict.fromkeys(columns):
        if column not in reads:
            return dict.fromkeys(names, column)
        others = dependencies(program, reads[column]) & changes
        for name in names:
            if name not in reads or others & causes[name]:
                found.setdefault(name, column)
    return found
