"""Which slot of a block a statement takes, where several agree with its neighbours.

Statements that only the older version has stand between such slots. Those that do not touch what
the statement reads make no difference. Where one does, the slots on its two sides would log
different values: then the statement's nearest neighbour or the history of its values decides, or
nobody does.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.names import changes, outside, stores
from flordb.replay.propagate.place import Place
from flordb.replay.propagate.units import Block, Unit

_LEAVES = (ast.Return, ast.Raise, ast.Break, ast.Continue)


@dataclass(frozen=True)
class Touch:
    """What a statement reads and what it changes. Modules that it names are neither."""

    reads: frozenset[str]
    changes: frozenset[str]

    def minds(self, unit: Unit) -> bool:
        """Whether it matters on which side of ``unit`` the statement stands."""
        changed = changes(unit.node)
        return bool(changed & self.reads) or bool(self.changes & (outside(unit.node) | changed))


def groups(place: Place, touch: Touch) -> list[list[int]]:
    """The slots that fit, in groups between which the logged value may differ, in order."""
    block = place.block
    found: list[list[int]] = [[]]
    for index in range(place.low, _reachable(block, place.high) + 1):
        if index > place.low and touch.minds(block.units[index - 1]):
            found.append([])
        if block.has_slot(index):
            found[-1].append(index)
    return [group for group in found if group]


def preferred(place: Place, slots: Sequence[int]) -> int:
    """Of slots that make no difference, the one next to the nearest neighbour."""
    return slots[-1] if _near(place, False) and not _near(place, True) else slots[0]


def decided(
    place: Place,
    matching: Matching,
    touch: Touch,
    before: Iterable[Unit],
    after: Iterable[Unit],
) -> int | None:
    """Which group holds the value that the newer version logs: 0, -1, or None where none is sure.

    Parameters: ``touch`` in the older version's names; ``before`` and ``after``, the neighbours in
    the newer version, nearest first, that touch the same values there.
    """
    if _near(place, True):
        # Where X gives a new value in between, that is the one with which the code goes on.
        between = place.block.units[place.low : place.high]
        return -1 if any(stores(unit.node) & touch.reads for unit in between) else 0
    earlier, later = next(iter(before), None), next(iter(after), None)
    last = _counterpart(matching, earlier, place.block)
    if last is not None and not _minded(place.block, last + 1, place.low, touch):
        return 0
    if earlier is not None and last is None:
        return None
    following = _counterpart(matching, later, place.block)
    if following is not None and not _minded(place.block, place.high, following, touch):
        return -1
    return None


def _near(place: Place, before: bool) -> bool:
    return any(w.before == before and w.near for w in place.witnesses)


def _counterpart(matching: Matching, unit: Unit | None, block: Block) -> int | None:
    """Where in a block the older version has a statement, or the one that it stands in."""
    other = matching.to_old.get(unit) if unit is not None else None
    while other is not None and other.block is not block:
        other = other.parent
    return other.index if other is not None else None


def _minded(block: Block, low: int, high: int, touch: Touch) -> bool:
    return any(touch.minds(unit) for unit in block.units[low:high])


def _reachable(block: Block, high: int) -> int:
    """The last slot that control can reach."""
    for unit in block.units[:high]:
        if isinstance(unit.node, _LEAVES):
            return unit.index
    return high
