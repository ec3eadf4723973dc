"""Statements that only one version has, between the neighbours that both have.

A statement that only the older version has is mostly a form of one that only the newer version
has. Which side of the site that one is on says on which side of the slot the older one belongs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.units import Block, Unit

_TELLING = 0.15
"""How much more a statement must be like one side than like the other to belong there."""


def narrowed(
    block: Block,
    low: int,
    high: int,
    before: Sequence[Unit],
    after: Sequence[Unit],
    matching: Matching,
) -> tuple[int, int]:
    """The slots between ``low`` and ``high`` that keep each statement on its side.

    Parameters: ``before`` and ``after``, what only the newer version has next to the site.
    """
    leans = [
        _lean(unit, before, after, matching) if unit not in matching.to_new else 0.0
        for unit in block.units[low:high]
    ]
    scores = [sum(leans[:k]) - sum(leans[k:]) for k in range(len(leans) + 1)]
    best = max(scores)
    first = scores.index(best)
    last = first
    while last + 1 < len(scores) and scores[last + 1] >= best - 1e-9:
        last += 1
    return low + first, low + last


def only_new(neighbours: Iterable[Unit], matching: Matching, most: int) -> list[Unit]:
    """The statements next to the site, up to the first one that the older version has."""
    own = takewhile(lambda unit: unit not in matching.to_old, neighbours)
    return [unit for unit, _ in zip(own, range(most), strict=False)]


def _lean(unit: Unit, before: Sequence[Unit], after: Sequence[Unit], matching: Matching) -> float:
    """How much more a statement is like what stands before the site than like what is after it."""
    here = max(_likenesses(unit, before, matching), default=0.0)
    there = max(_likenesses(unit, after, matching), default=0.0)
    return here - there if abs(here - there) >= _TELLING else 0.0


def _likenesses(unit: Unit, others: Sequence[Unit], matching: Matching) -> Iterator[float]:
    """How much a statement is like each of others with which it has a name or value in common."""
    for other in others:
        if any(word[0] != "<" for word in unit.whole_bag.keys() & other.whole_bag.keys()):
            yield matching.likeness(other, unit)
