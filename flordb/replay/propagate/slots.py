"""Which slot of a block a statement takes, where several agree with its neighbours.

Statements that only the older version has stand between such slots. Those that do not touch what
the statement reads make no difference. Where one does, the slots on its two sides would log
different values: then the statement's nearest neighbour or the history of its values decides, or
nobody does.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.names import binds, changes, outside, stores
from flordb.replay.propagate.place import Place, Witness
from flordb.replay.propagate.units import DEFINITIONS, LOOPS, Block, Unit

_LEAVES = (ast.Return, ast.Raise, ast.Break, ast.Continue)
_SURE = 0.9
"""From this on, two statements are taken for the same one."""


@dataclass(frozen=True)
class Touch:
    """What a statement reads and what it changes. Modules that it names are neither."""

    reads: frozenset[str]
    changes: frozenset[str]

    def minds(self, unit: Unit) -> bool:
        """Whether it matters on which side of ``unit`` the statement stands."""
        if unit.blocks and _may_leave(unit):
            return True
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
    """Of slots that make no difference, the one next to the nearest neighbour, below imports."""
    if _nearest(place, False) is not None and _nearest(place, True) is None:
        return slots[-1]
    units = place.block.units
    below = (slot for slot in slots if slot == len(units) or not _is_import(units[slot]))
    return next(below, slots[0])


def decided(place: Place, touch: Touch, matching: Matching) -> int | None:
    """Which group holds the value that the newer version logs: 0, -1, or None where none is sure.

    The statement right before speaks: where it is the same in both versions, the value is the one
    that it leaves behind; where X says it in several statements, the one that the last of them
    leaves. Else the statement right after speaks, if that is the same: the value is the one that
    it finds. Where X gives a new value in between, that is the one with which the code goes on,
    unless only the statement before is the same; it does so, too, where both neighbours are new.
    Where the code may leave in between, nobody knows how often the statement runs.

    ``touch`` is in the older version's names.
    """
    before, after = _nearest(place, True), _nearest(place, False)
    follows = -1 if after is not None and matching.sure[after.unit] >= _SURE else None
    between = place.block.units[place.low : place.high]
    if before is None and after is not None:
        return follows
    if after is None and any(unit.blocks and _may_leave(unit) for unit in between):
        return None
    if before is None:
        plain = (unit for unit in between if not isinstance(unit.node, ast.If))
        return -1 if any(changes(unit.node) & touch.reads for unit in plain) else None
    sure = matching.sure[before.unit] >= _SURE
    if _is_told_by_its_definition(before, touch, between):
        return 0
    if any(stores(unit.node) & touch.reads for unit in between):
        doubted = sure and after is not None and matching.sure[after.unit] < _SURE
        return None if doubted else -1
    minded = [unit for unit in between if touch.minds(unit)]
    alike = [_says_it_too(unit, before, matching) for unit in minded]
    if any(alike):
        return -1 if all(alike) else None
    if after is not None and matching.sure[before.unit] < 1.0 and touch.changes:
        return None
    return 0 if sure else follows


def opened(place: Place, touch: Touch) -> Place:
    """The place with the slots behind the statement right before, where that is the definition of
    what is read and X may give it another value before the slots that fit."""
    before = _nearest(place, True)
    if before is None or before.index + 1 >= place.low:
        return place
    between = place.block.units[before.index + 1 : place.low]
    if not _is_told_by_its_definition(before, touch, between):
        return place
    return replace(place, low=before.index + 1)


def _is_told_by_its_definition(before: Witness, touch: Touch, between: Sequence[Unit]) -> bool:
    """Whether the statement right before gives what is read its value, and what is in between gives
    it another one, but not always: the one that is logged is always there."""
    renewed = {name for unit in between for name in stores(unit.node)} & touch.reads
    always = {name for unit in between if not unit.blocks for name in stores(unit.node)}
    definition = before.block.units[before.index]
    defined = set() if definition.blocks else binds(definition.node)
    return bool(renewed) and renewed <= defined and not renewed & always


def _says_it_too(unit: Unit, witness: Witness, matching: Matching) -> bool:
    """Whether a statement that only X has says what the witness, right before the site, says.

    It is as like to the witness as its counterpart is, or it is one more of the calls that all
    stand before the site in the newer version: the site is where what they build is done.
    """
    likeness = matching.likeness(witness.unit, witness.block.units[witness.index])
    if likeness < 1.0 and matching.likeness(witness.unit, unit) >= likeness:
        return True
    called, block = _called(witness.unit), witness.unit.block
    if called is None or called != _called(unit) or block is None:
        return False
    return not any(called == _called(other) for other in block.units[witness.unit.index + 1 :])


def _called(unit: Unit) -> str | None:
    """What a statement that is nothing but a call of a method calls, as text."""
    node = unit.node
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return None
    called = node.value.func
    return ast.unparse(called) if isinstance(called, ast.Attribute) else None


def _nearest(place: Place, before: bool) -> Witness | None:
    """The witness next to the statement on one side."""
    return next((w for w in place.witnesses if w.before == before and w.near), None)


def _is_import(unit: Unit) -> bool:
    return isinstance(unit.node, (ast.Import, ast.ImportFrom))


def _may_leave(unit: Unit) -> bool:
    """Whether the code behind a statement may be skipped: a `continue`, `break` or `return`."""
    if isinstance(unit.node, DEFINITIONS):
        return False
    own = (ast.Return,) if isinstance(unit.node, LOOPS) else (ast.Return, ast.Continue, ast.Break)
    inner = (child for block in unit.blocks for child in block.units)
    return any(
        isinstance(child.node, own) or (child.blocks and _may_leave(child)) for child in inner
    )


def _reachable(block: Block, high: int) -> int:
    """The last slot that control can reach."""
    for unit in block.units[:high]:
        if isinstance(unit.node, _LEAVES):
            return unit.index
    return high
