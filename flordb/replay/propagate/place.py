"""Where in the older version a statement belongs: slots scored by their witnesses.

Witnesses are the statement's neighbours on both sides as far as the older version has them, and
the compound statements round it. A neighbour says which block, and that the slot is behind or
before it; nearer neighbours say it louder.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.units import FUNCTIONS, Block, Unit

_FAR = 12
"""Neighbours further away than this say nothing."""
_SHARE = 0.5
"""How loud a neighbour speaks compared with the next nearer one."""
_DEFINITIONS = (*FUNCTIONS, ast.ClassDef)


@dataclass(frozen=True)
class Witness:
    """A neighbour in the newer version and what it says of a block of the older one.

    The slot is behind statement ``index`` of ``block`` where ``before`` (the neighbour stands
    before the statement), else at or before it.
    """

    unit: Unit
    block: Block
    index: int
    before: bool
    weight: float
    near: bool


@dataclass
class Place:
    """A block of the older version with what speaks for it, and the slots that fit best."""

    block: Block
    weight: float = 0.0
    witnesses: list[Witness] = field(default_factory=list)
    low: int = 0
    high: int = 0
    notes: list[str] = field(default_factory=list)


def places(matching: Matching, unit: Unit) -> list[Place]:
    """The candidate blocks for a statement, the best first."""
    found = _by_neighbours(matching, unit)
    if not found:
        found = _by_owner(matching, unit)
    for place in found.values():
        _settle(place, matching, unit)
    return sorted(found.values(), key=lambda place: -place.weight)


def _by_neighbours(matching: Matching, unit: Unit) -> dict[Block, Place]:
    """Blocks named by the neighbours; where none is known, by those of the statement round it."""
    child: Unit = unit
    while child.block is not None:
        found: dict[Block, Place] = {}
        for witness in _witnesses(matching, child):
            place = found.setdefault(witness.block, Place(witness.block))
            place.witnesses.append(witness)
            place.weight += witness.weight
        owner = child.block.owner
        if found or matching.to_old.get(owner) is not None:
            _add_owner(found, matching, child.block)
            return found
        if not _is_see_through(owner):
            return {}
        child = owner
    return {}


def _is_see_through(unit: Unit) -> bool:
    """Whether what stands in a compound statement runs where the statement stands, once."""
    return unit.kind in ("With", "Try", "If")


def _add_owner(found: dict[Block, Place], matching: Matching, block: Block) -> None:
    """The block with the same part of the same owner is spoken for by the owner."""
    owner = matching.to_old.get(block.owner)
    if owner is None:
        return
    for other in owner.blocks:
        if other.part == block.part:
            place = found.setdefault(other, Place(other))
            place.weight += 0.3 * matching.sure[block.owner]


def _by_owner(matching: Matching, unit: Unit) -> dict[Block, Place]:
    found: dict[Block, Place] = {}
    if unit.block is not None:
        _add_owner(found, matching, unit.block)
    return found


def _witnesses(matching: Matching, unit: Unit) -> Iterator[Witness]:
    block = unit.block
    assert block is not None
    for before in (True, False):
        step = -1 if before else 1
        index, distance = unit.index + step, 1
        while 0 <= index < len(block.units) and distance <= _FAR:
            neighbour = block.units[index]
            other = matching.to_old.get(neighbour)
            if other is not None and other.block is not None:
                weight = matching.sure[neighbour] * _SHARE ** (distance - 1)
                near = distance == 1 and not isinstance(neighbour.node, _DEFINITIONS)
                yield Witness(neighbour, other.block, other.index, before, weight, near)
            elif neighbour.blocks:
                yield from _from_inside(matching, neighbour, before, 0.5 * _SHARE ** (distance - 1))
            index, distance = index + step, distance + 1


def _from_inside(
    matching: Matching, neighbour: Unit, before: bool, weight: float
) -> Iterator[Witness]:
    """A neighbour that the older version lacks may hold statements that it has."""
    inside = list(neighbour.inside())
    for unit in reversed(inside) if before else inside:
        other = matching.to_old.get(unit)
        if other is not None and other.block is not None:
            yield Witness(unit, other.block, other.index, before, weight, False)
            return


def _settle(place: Place, matching: Matching, unit: Unit) -> None:
    """Find the run of slots that disagrees least with the witnesses."""
    block = place.block
    marks = [(w.index, w.before, w.weight) for w in place.witnesses]
    scores = []
    for slot in range(len(block.units) + 1):
        score = 0.0
        for index, before, weight in marks:
            agrees = index < slot if before else index >= slot
            score += weight if agrees else -weight
        scores.append(score)
    best = max(scores)
    low = scores.index(best)
    high = low
    while high + 1 < len(scores) and scores[high + 1] >= best - 1e-9:
        high += 1
    place.low, place.high = low, high
