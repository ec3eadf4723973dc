"""A second opinion on a slot: both texts lined up as a whole, as if they had no blocks.

It is independent of the tree matching that the place comes from: what counts is only in which
order the statements that are the same to the letter stand.
"""

from __future__ import annotations

from bisect import bisect_left
from difflib import SequenceMatcher
from enum import Enum
from functools import lru_cache

from flordb.replay.propagate.edit import line_of_slot
from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.units import Block, Source, Unit

_NARROW = 2
"""More statements than these between the two that line up round the site leave the slot open."""


class Opinion(Enum):
    """What the lined up texts say of a slot."""

    HERE = "it is between the statements that line up, and no other block is"
    OPEN = "it is between them, as are others"
    ELSEWHERE = "it is not between them"


def lined_up(unit: Unit, block: Block, index: int, matching: Matching) -> Opinion:
    """What the texts as a whole say of the slot before statement ``index`` of a block of X."""
    old = block.owner.source
    low, high = _window(unit, old, matching)
    if not low <= bisect_left(_firsts(old), line_of_slot(block, index)) <= high:
        return Opinion.ELSEWHERE
    between = old.units[low:high]
    here = all(other.block is block and not other.blocks for other in between)
    return Opinion.HERE if here and len(between) <= _NARROW else Opinion.OPEN


def _window(unit: Unit, old: Source, matching: Matching) -> tuple[int, int]:
    """Between which statements of the older text, by number, a statement stands."""
    mine = [other.first for other in unit.source.units if other not in matching.hidden]
    place = bisect_left(mine, unit.first)
    low = 0
    for i, j, size in _runs(unit.source, old, matching.hidden):
        if i >= place:
            return low, j
        low = j + min(size, place - i)
        if i + size > place:
            break
    return low, low


@lru_cache(maxsize=64)
def _runs(new: Source, old: Source, hidden: frozenset[Unit]) -> list[tuple[int, int, int]]:
    """The runs of equal statements: where they begin in both texts, how long. The last is empty."""
    mine = [unit.words for unit in new.units if unit not in hidden]
    matcher = SequenceMatcher(None, mine, [unit.words for unit in old.units], autojunk=False)
    return [(i, j, size) for i, j, size in matcher.get_matching_blocks()]


@lru_cache(maxsize=64)
def _firsts(source: Source) -> list[int]:
    return [unit.first for unit in source.units]
