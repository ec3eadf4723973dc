"""Where in the older version a statement belongs: slots scored by their witnesses.

Witnesses are the statement's neighbours on both sides as far as the older version has them, and
the compound statements round it. A neighbour says which block, and that the slot is behind or
before it; nearer neighbours say it louder. Code that only one version has in a function of its
own, or under a `with`, a `try` or an `if`, is looked at as if it stood where it is called.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from flordb.replay.propagate.calls import single_call
from flordb.replay.propagate.comments import beside
from flordb.replay.propagate.leftover import narrowed, only_new
from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.units import DEFINITIONS, FUNCTIONS, Block, Source, Unit

_FAR = 12
"""Neighbours further away than this say nothing."""
_SHARE = 0.5
"""How loud a neighbour speaks compared with the next nearer one."""
_OWNER = 0.3
"""How loud the statement round the site speaks."""
NO_PLACE = (*DEFINITIONS, ast.Import, ast.ImportFrom)
"""Statements that stand where they stand for order's sake, not for what is round them."""
_OUTWARDS = 0.25
"""How loud a neighbour speaks of the next block outwards."""
_COMMENT = 0.5
"""How loud a comment beside the statement speaks."""


@dataclass(frozen=True)
class Witness:
    """A neighbour in the newer version and what it says of a block of the older one.

    The slot is behind statement ``index`` of ``block`` where ``before`` (the neighbour stands
    before the statement), else at or before it. ``near``: nothing stands between.
    """

    unit: Unit
    block: Block
    index: int
    before: bool
    weight: float
    near: bool


@dataclass
class Place:
    """A block of the older version, what speaks for it, and its slots that fit best.

    ``chosen``: by the user, whom the names of loops do not overrule.
    """

    block: Block
    weight: float = 0.0
    witnesses: list[Witness] = field(default_factory=list)
    low: int = 0
    high: int = 0
    chosen: bool = False


class Placer:
    """Finds the places for statements. Parameters: the matching, and the files of both versions."""

    def __init__(self, matching: Matching, old: Sequence[Source], new: Sequence[Source]) -> None:
        self.matching, self._old, self._new = matching, old, new

    def places(self, unit: Unit) -> list[Place]:
        """The candidate blocks for a statement, the best first."""
        found: dict[Block, Place] = {}
        for witness in self._witnesses(unit):
            place = found.setdefault(witness.block, Place(witness.block))
            place.witnesses.append(witness)
            place.weight += witness.weight
        self._add_owner(found, unit)
        self._add_moved_out(found)
        sides = [
            only_new(self.neighbours(unit, before), self.matching, _FAR) for before in (True, False)
        ]
        for place in found.values():
            _settle(place)
            place.low, place.high = narrowed(
                place.block, place.low, place.high, sides[0], sides[1], self.matching
            )
        return sorted(found.values(), key=lambda place: -place.weight)

    def _witnesses(self, unit: Unit) -> Iterator[Witness]:
        for before in (True, False):
            for distance, neighbour in enumerate(self.neighbours(unit, before)):
                if distance >= _FAR:
                    break
                weight = _SHARE**distance
                near = distance == 0 and not isinstance(neighbour.node, NO_PLACE)
                other = self.matching.to_old.get(neighbour)
                if other is not None and other.block is not None:
                    weight *= self.matching.sure[neighbour]
                    yield Witness(neighbour, other.block, other.index, before, weight, near)
                    yield from _round(neighbour, other, before, weight)
                elif neighbour.blocks:
                    yield from self._from_inside(neighbour, before, weight / 2)
        for gap in beside(unit, self._old):
            # What is below a comment that stands above the statement is what it is about.
            if gap.index or not gap.above:
                yield Witness(unit, gap.block, gap.index - gap.above, gap.above, _COMMENT, False)
            if gap.above and gap.index < len(gap.block.units):
                yield Witness(unit, gap.block, gap.index, False, _COMMENT / 2, False)

    def neighbours(self, unit: Unit, before: bool) -> Iterator[Unit]:
        """The statements before or after, nearest first; on from the edge of a new block."""
        place: Unit | None = unit
        while place is not None and place.block is not None:
            units = place.block.units
            yield from reversed(units[: place.index]) if before else units[place.index + 1 :]
            place = self._stands_for(place.block.owner)

    def _stands_for(self, owner: Unit) -> Unit | None:
        """The statement in whose place the inside of ``owner`` runs, where only Y has ``owner``."""
        if owner.block is None or owner in self.matching.to_old:
            return None
        if owner.kind in ("With", "Try", "If"):
            return owner
        return single_call(owner, self._new) if isinstance(owner.node, FUNCTIONS) else None

    def _from_inside(self, neighbour: Unit, before: bool, weight: float) -> Iterator[Witness]:
        """A neighbour that the older version lacks may hold statements that it has."""
        if isinstance(neighbour.node, DEFINITIONS):
            return
        inside = list(neighbour.inside())
        for unit in reversed(inside) if before else inside:
            other = self.matching.to_old.get(unit)
            if other is None or other.block is None:
                continue
            parent = other.parent
            while parent is not None and parent.block and parent not in self.matching.to_new:
                # The older version may have the neighbour after all, too different to be matched.
                if parent.kind == neighbour.kind:
                    other = parent
                parent = parent.parent
            if parent is not None and parent.block and parent.words == neighbour.words:
                other = parent
            assert other.block is not None
            yield Witness(unit, other.block, other.index, before, weight, False)
            yield from _round(unit, other, before, weight)
            return

    def _add_owner(self, found: dict[Block, Place], unit: Unit) -> None:
        """The same part of the statement round the site is spoken for by that statement."""
        assert unit.block is not None
        owner = self.matching.to_old.get(unit.block.owner)
        for other in owner.blocks if owner is not None else ():
            if other.part == unit.block.part:
                best = found.setdefault(other, Place(other))
                best.weight += _OWNER * self.matching.sure[unit.block.owner]

    def _add_moved_out(self, found: dict[Block, Place]) -> None:
        """Where X has neighbours in a function or `with` of its own, the statement went too."""
        for place in found.values():
            owner = place.block.owner
            if owner in self.matching.to_new:
                continue
            if isinstance(owner.node, FUNCTIONS):
                outer = single_call(owner, self._old)
            else:
                outer = owner if isinstance(owner.node, (ast.With, ast.AsyncWith)) else None
            near = any(witness.near for witness in place.witnesses)
            if near and outer is not None and outer.block in found:
                place.weight += found[outer.block].weight


def _round(unit: Unit, other: Unit, before: bool, weight: float) -> Iterator[Witness]:
    """What a neighbour says, more quietly, of the blocks round the one that it stands in."""
    for owner in other.above():
        if owner.block is None or isinstance(owner.node, DEFINITIONS):
            return
        weight *= _OUTWARDS
        yield Witness(unit, owner.block, owner.index, before, weight, False)


def settled_behind(place: Place, first: int) -> Place | None:
    """The place with its slots from ``first`` on that disagree least, or None where the witnesses
    speak against all of these."""
    scores = _scores(place)
    if first >= len(scores) or max(scores[first:]) <= 0:
        return None
    low, high = _best_run(scores, first)
    return replace(place, low=low, high=high)


def _settle(place: Place) -> None:
    """Find the run of slots that disagrees least with the witnesses."""
    place.low, place.high = _best_run(_scores(place), 0)


def _scores(place: Place) -> list[float]:
    """How much louder the witnesses speak for each slot than against it."""
    scores = []
    for slot in range(len(place.block.units) + 1):
        score = 0.0
        for witness in place.witnesses:
            agrees = witness.index < slot if witness.before else witness.index >= slot
            score += witness.weight if agrees else -witness.weight
        scores.append(score)
    return scores


def _best_run(scores: Sequence[float], first: int) -> tuple[int, int]:
    best = max(scores[first:])
    low = high = scores.index(best, first)
    while high + 1 < len(scores) and scores[high + 1] >= best - 1e-9:
        high += 1
    return low, high
