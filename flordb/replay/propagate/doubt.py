"""Where a place that fits is still a guess: its witnesses are too few or contradict each other.

A wrong place costs a user more than a refusal, which says where the statement would have gone.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from enum import Enum

from flordb.replay.propagate.draft import Draft
from flordb.replay.propagate.edit import line_of_slot
from flordb.replay.propagate.fit import Fit
from flordb.replay.propagate.flow import is_main
from flordb.replay.propagate.lineup import Opinion, lined_up
from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.model import Refused
from flordb.replay.propagate.names import binds, reads
from flordb.replay.propagate.place import NO_PLACE, Place, Placer
from flordb.replay.propagate.units import DEFINITIONS, Block, Unit

_CLOSE = 0.5
"""A block that is spoken for more than this share of the best one's weight is a rival."""

_SAME = 0.8
"""From this likeness on, two statements are taken for the same one."""

_MOVED = 4
"""At most so many statements that stand elsewhere in Y are between neighbours that are a place."""

_FORM = 0.2
"""From this likeness on, a statement may be another form of one."""


def no_doubt(draft: Draft, place: Place, fit: Fit, places: Sequence[Place], placer: Placer) -> None:
    """Check that the witnesses leave one place. Raises Refused.

    Parameters: ``place`` and ``fit``, the slot; ``places``, all candidates, the best first.
    """
    unit, block, index, matching = draft.unit, place.block, fit.index, placer.matching
    _stands_for_order(unit, place, placer)
    _beside_neighbours(unit, place, placer)
    _beside_calls(unit, place, index, placer)
    _last_in_new_branch(draft, place, index, matching)
    _between_parted(unit, block, matching)
    before, after = (_side(unit, before, place, index, matching) for before in (True, False))
    if (before, after) == (_Side.NEW, _Side.HERE) and _is_defined_right_before(draft, fit):
        before = _Side.HERE
    if after is not _Side.HERE:
        _beside_another_form(unit, place, index, matching)
    where = f"line {line_of_slot(block, index)} of {block.owner.source.path}"
    owner, holder = _owner(unit, matching), _owner_of(place, matching)
    rival = len(places) > 1 and places[1].weight > _CLOSE * places[0].weight
    if owner is holder and rival and after is _Side.NEW:
        raise Refused(f"it may as well stand in another block than that of {where}")
    other_order = any(w.near and (w.index < index) != w.before for w in place.witnesses)
    # What follows alone does not tell a block: it may have stood behind the end of that block.
    only_after = before is _Side.NEW and after is _Side.HERE
    none = owner is None and after is _Side.NEW and before in (_Side.NEW, _Side.NONE)
    if not (other_order or only_after or none):
        return
    opinion = lined_up(unit, block, index, matching)
    if only_after and opinion is Opinion.ELSEWHERE:
        raise Refused(f"what follows it stands at {where}, and the text before it does not")
    if opinion is Opinion.HERE:
        return
    if other_order:
        raise Refused(f"the statements round it stand in another order at {where}")
    if owner is not holder:
        raise Refused(
            f"the older version has another block at {where}, and not the statement before it there"
        )


class _Side(Enum):
    """Where a place has the statement right before or after, of the newer version's block."""

    HERE = "in its block"
    ELSEWHERE = "in another block"
    NEW = "nowhere"
    NONE = "the newer version's block begins or ends here"


def _side(unit: Unit, before: bool, place: Place, slot: int, matching: Matching) -> _Side:
    assert unit.block is not None
    index = unit.index - 1 if before else unit.index + 1
    if not 0 <= index < len(unit.block.units):
        return _Side.NONE
    neighbour = unit.block.units[index]
    other = matching.to_old.get(neighbour)
    if other is not None and other.block is place.block:
        return _Side.HERE
    at = slot - 1 if before else slot
    beside = place.block.units[at] if 0 <= at < len(place.block.units) else None
    # A statement that occurs several times may be matched with another of them, or with none.
    if beside is not None and matching.likeness(neighbour, beside) > _SAME:
        return _Side.HERE
    return _Side.NEW if other is None else _Side.ELSEWHERE


def _is_defined_right_before(draft: Draft, fit: Fit) -> bool:
    """Whether the statements right before site and slot give the same name, which is read, values:
    they are the same definition, however it is computed."""
    block, index = draft.unit.block, draft.unit.index
    if block is None or not index or not fit.index:
        return False
    mine, theirs = block.units[index - 1], fit.block.units[fit.index - 1]
    if mine.blocks or theirs.blocks:
        return False
    read = binds(mine.node) & draft.variables - reads(mine.node)
    anew = binds(theirs.node) - reads(theirs.node)
    return any(fit.table.get(name, name) in anew for name in read)


def _owner(unit: Unit, matching: Matching) -> Unit | None:
    """The older version's form of the statement round one, or None.

    What only one version has and runs once counts as nothing.
    """
    owner = unit.parent
    while owner is not None and owner not in matching.to_old and _runs_once(owner, matching):
        owner = _outside(owner, matching)
    return matching.to_old.get(owner) if owner is not None else None


def _owner_of(place: Place, matching: Matching) -> Unit:
    owner = place.block.owner
    while owner not in matching.to_new and _runs_once(owner, matching):
        outside = _outside(owner, matching)
        if outside is None:
            break
        owner = outside
    return owner


def _runs_once(owner: Unit, matching: Matching) -> bool:
    """Whether what is inside a statement runs once where it stands: in a `with`, a `try`, under the
    script's main guard, or in a function that was moved out."""
    if isinstance(owner.node, ast.If):
        return is_main(owner.node.test)
    return owner.kind in ("With", "Try") or owner in matching.moved_out.values()


def _outside(owner: Unit, matching: Matching) -> Unit | None:
    """The statement round another, or round the only call of a function."""
    calls = (call for call, function in matching.moved_out.items() if function is owner)
    return next(calls, owner).parent


def _stands_for_order(unit: Unit, place: Place, placer: Placer) -> None:
    """Check that not all that speaks for a place is imports and definitions, none of them beside
    the statement: these stand where they stand for order's sake."""
    beside = [next(placer.neighbours(unit, before), None) for before in (True, False)]
    if place.witnesses and all(
        isinstance(w.unit.node, NO_PLACE) and w.unit not in beside for w in place.witnesses
    ):
        raise Refused(
            f"of what is round it, {place.block.owner.source.path} has only imports and definitions"
        )


def _beside_neighbours(unit: Unit, place: Place, placer: Placer) -> None:
    """Check that the statement right before or after is not inside a statement beside the slot.

    Its place may then be in there as well: at the edge of a branch, a loop or a function that the
    other neighbour stands outside of.
    """
    for before in (True, False):
        neighbour = next(placer.neighbours(unit, before), None)
        if neighbour is None or neighbour.block is not unit.block:
            continue
        other = placer.matching.to_old.get(neighbour)
        for owner in other.above() if other is not None and other.block is not place.block else ():
            if owner.block is place.block:
                side = "before" if before else "after"
                raise Refused(
                    f"the statement {side} it is inside the block of line {owner.lineno} of "
                    f"{owner.source.path}, and it may be too"
                )


def _between_parted(unit: Unit, block: Block, matching: Matching) -> None:
    """Check that the neighbours are not parted in X by much that both versions have elsewhere."""
    assert unit.block is not None
    units, index = unit.block.units, unit.index
    if not 0 < index < len(units) - 1:
        return
    before, after = matching.to_old.get(units[index - 1]), matching.to_old.get(units[index + 1])
    if before is None or after is None or not before.block is after.block is block:
        return
    moved = [u for u in block.units[before.index + 1 : after.index] if u in matching.to_new]
    if len(moved) > _MOVED:
        raise Refused(
            f"the statements before and after it, lines {before.lineno} and {after.lineno} of "
            f"{before.source.path}, are far apart there"
        )


def _last_in_new_branch(draft: Draft, place: Place, index: int, matching: Matching) -> None:
    """Check that what acts is not at the ends of two blocks, a new branch and X's block.

    Nothing behind it speaks there. A log only looks, but what acts may have come earlier in X.
    """
    unit, block, owner = draft.unit, place.block, draft.unit.parent
    if owner is None or owner.kind != "If" or owner in matching.to_old or not draft.changed:
        return
    assert unit.block is not None
    if index == len(block.units) and unit.index == len(unit.block.units) - 1 > 0:
        raise Refused(
            f"it is the last in `{owner.source.lines[owner.lineno - 1].strip()}`, which only the "
            f"newer version has, and nothing follows it behind line {block.units[-1].lineno} of "
            f"{block.owner.source.path}"
        )


def _beside_another_form(unit: Unit, place: Place, index: int, matching: Matching) -> None:
    """Check that X does not go on with a block of its own that has something like the statement.

    Where what follows the statement is new, it may have stood in there.
    """
    beside = place.block.units[index] if index < len(place.block.units) else None
    if beside is None or beside in matching.to_new or isinstance(beside.node, DEFINITIONS):
        return
    for inner in beside.inside():
        if matching.likeness(unit, inner) > _FORM:
            raise Refused(
                f"the older version goes on with a block that the newer one lacks, and the "
                f"statement may belong in it, at line {inner.lineno} of {inner.source.path}"
            )


def _beside_calls(unit: Unit, place: Place, index: int, placer: Placer) -> None:
    """Check that no call beside the slot runs a function that only the older version has.

    Such a function holds what once stood there: the statement may be at its edge, unless the
    neighbour on that side is outside of it.
    """
    for before in (True, False):
        at = index - 1 if before else index
        if not 0 <= at < len(place.block.units):
            continue
        call = place.block.units[at]
        function = placer.matching.moved_out.get(call)
        neighbour = next(placer.neighbours(unit, before), None)
        other = placer.matching.to_old.get(neighbour) if neighbour is not None else None
        if function is not None and (other is None or function in other.above()):
            raise Refused(
                f"it may be inside the function that line {call.lineno} of {call.source.path} calls"
            )
