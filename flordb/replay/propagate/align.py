"""Two lists of statements aligned in order: by what occurs once in both, or by their likeness."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from flordb.replay.propagate.similar import LEAST
from flordb.replay.propagate.units import Unit, Words

Likeness = Callable[[Unit, Unit], float]
_SAME = 0.8
"""From this likeness on, two statements with the same words are the same one."""


def most_alike(
    new: Sequence[Unit], old: Sequence[Unit], likeness: Likeness
) -> list[tuple[Unit, Unit]]:
    """The alignment in order with the highest sum of likeness above the least."""
    rows, columns = len(new), len(old)
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    gain = [[0.0] * columns for _ in range(rows)]
    for i in range(rows - 1, -1, -1):
        below, here, gains, unit = best[i + 1], best[i], gain[i], new[i]
        for j in range(columns - 1, -1, -1):
            top = below[j] if below[j] >= here[j + 1] else here[j + 1]
            if unit.kind == old[j].kind:
                alike = likeness(unit, old[j]) - (LEAST - 0.1)
                if alike >= 0.1:
                    gains[j] = alike
                    top = max(top, below[j + 1] + alike)
            here[j] = top
    pairs: list[tuple[Unit, Unit]] = []
    i = j = 0
    while i < rows and j < columns:
        if gain[i][j] and best[i][j] == best[i + 1][j + 1] + gain[i][j]:
            pairs.append((new[i], old[j]))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def anchors(new: Sequence[Unit], old: Sequence[Unit], likeness: Likeness) -> list[tuple[int, int]]:
    """The places of statements that occur once in both lists with the same words, in one order."""
    mine, theirs = _once(new), _once(old)
    pairs = [(mine[k], theirs[k]) for k in mine if k in theirs]
    return rising([(i, j) for i, j in sorted(pairs) if likeness(new[i], old[j]) > _SAME])


def rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest run of pairs that rises on both sides; ``pairs`` rise on the first."""
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = [-1] * len(pairs)
    for k, (_, j) in enumerate(pairs):
        place = bisect_left(tails, j)
        before[k] = ends[place - 1] if place else -1
        tails[place : place + 1] = [j]
        ends[place : place + 1] = [k]
    out: list[tuple[int, int]] = []
    k = ends[-1] if ends else -1
    while k >= 0:
        out.append(pairs[k])
        k = before[k]
    return out[::-1]


def _once(units: Sequence[Unit]) -> dict[Words, int]:
    """Where the words that occur once in a list stand."""
    found: dict[Words, int] = {}
    again: set[Words] = set()
    for index, unit in enumerate(units):
        if unit.words in found:
            again.add(unit.words)
        found[unit.words] = index
    return {words: index for words, index in found.items() if words not in again}
