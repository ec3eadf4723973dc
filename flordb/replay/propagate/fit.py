"""Whether a draft fits a slot: each name that it reads has a value there, under X's name for it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flordb.replay.propagate.agree import (
    after_definitions,
    before_uses,
    same_loops,
    sure_to_reach,
)
from flordb.replay.propagate.draft import Draft
from flordb.replay.propagate.edit import Edit, line_of_slot
from flordb.replay.propagate.flor import loop_name
from flordb.replay.propagate.flow import Bound, how_bound
from flordb.replay.propagate.lineup import Opinion, lined_up
from flordb.replay.propagate.model import Refused
from flordb.replay.propagate.names import binds, parameters
from flordb.replay.propagate.needs import Needs, missing
from flordb.replay.propagate.place import Place, Placer, settled_behind
from flordb.replay.propagate.rename import Renames
from flordb.replay.propagate.slots import Touch, decided, groups, opened, preferred
from flordb.replay.propagate.units import FUNCTIONS, Block, Source, Unit


@dataclass(frozen=True)
class Fit:
    """A slot that a draft fits: the names to be rewritten and the new code that it needs."""

    block: Block
    index: int
    table: dict[str, str]
    support: list[Edit]
    files: dict[str, str]


class Fitter:
    """Fits drafts into blocks. Parameters: both versions' files, and whether new code may come."""

    def __init__(self, old: Mapping[str, Source], new: Mapping[str, Source], support: bool) -> None:
        self._old, self._new, self._support = old, new, support

    def fit(self, draft: Draft, placer: Placer, place: Place) -> Fit:
        """The slot of a place that the draft takes. Raises Refused with what is missing."""
        if not place.chosen:
            _same_named_loops(draft.unit, place.block)
            same_loops(draft.unit, place, placer.matching)
        renames = Renames(placer.matching, draft.unit, place.block)
        guess = {name: renames.old_name(name) or name for name in draft.names}
        mine = Touch(frozenset(draft.variables), frozenset(draft.changed))
        touch = Touch(
            frozenset(guess.get(name, name) for name in mine.reads),
            frozenset(guess.get(name, name) for name in mine.changes),
        )
        place = opened(place, touch)
        try:
            return self._fit(draft, placer, place, renames, touch)
        except Refused:
            later = None if place.chosen else _behind_definitions(place, guess.values())
            if later is None:
                raise
        return self._fit(draft, placer, later, renames, touch)

    def _fit(
        self, draft: Draft, placer: Placer, place: Place, renames: Renames, touch: Touch
    ) -> Fit:
        """The slot that the draft takes of those that fit. Raises Refused with what is missing."""
        fits: list[Fit] = []
        reasons: list[Refused] = []
        for slots in groups(place, touch):
            try:
                fits.append(self.at(draft, renames, place.block, preferred(place, slots)))
            except Refused as refused:
                reasons.append(refused)
        if not fits:
            raise reasons[0] if reasons else Refused("no line can be put there")
        if len(fits) > 1:
            fits = [fit for fit in fits if _reaches_uses(draft, fit)] or fits
        chosen = fits[0] if len(fits) == 1 else _choose(draft.unit, placer, place, touch, fits)
        if not place.chosen:
            earlier = placer.neighbours(draft.unit, True)
            line = line_of_slot(place.block, chosen.index)
            read = frozenset(draft.variables)
            after_definitions(earlier, read, placer.matching, place.block, line)
        block, index = before_uses(_bound(draft, chosen), place.block, chosen.index)
        if block is not place.block:
            return self.at(draft, Renames(placer.matching, draft.unit, block), block, index)
        return chosen

    def at(self, draft: Draft, renames: Renames, block: Block, index: int) -> Fit:
        """Check one slot. Raises Refused."""
        table: dict[str, str] = {}
        lacking: list[str] = []
        for name in sorted(draft.names):
            other = self._name(name, draft.unit, renames, block, index)
            if other is None:
                lacking.append(name)
            elif other != name:
                table[name] = other
        _attributes(draft, table, block)
        _binds_nothing_of_theirs(draft, block)
        if not self._support:
            if lacking:
                raise missing(lacking[0], block, index)
            return Fit(block, index, table, [], {})
        needs = Needs(self._old, self._new, draft.unit, block, index, table)
        for name in lacking:
            needs.bring(name)
        needs.bring_methods(draft.node)
        edits = needs.edits(line_of_slot(block, index), block.indent)
        return Fit(block, index, table, edits, needs.files)

    def _name(
        self, name: str, unit: Unit, renames: Renames, block: Block, index: int
    ) -> str | None:
        """The older version's name of a variable at a slot, or None where it has none."""
        assert unit.block is not None
        source = block.owner.source
        there, here = (
            how_bound(name, block, index, by_reads=True),
            how_bound(name, unit.block, unit.index),
        )
        other = renames.old_name(name) or name
        if other != name and how_bound(other, block, index, by_reads=True) >= max(
            here, Bound.MAYBE
        ):
            return other
        if there is Bound.NEVER:
            return name if source.has_star_import and not _is_variable(name, unit) else None
        taken = renames.taken_by(name)
        if taken is not None:
            raise Refused(f"`{name}` of {source.path} is what the newer version calls `{taken}`")
        if there < here:
            line = line_of_slot(block, index)
            raise Refused(f"`{name}` is not bound on every way to line {line} of {source.path}")
        return name


def _behind_definitions(place: Place, names: Iterable[str]) -> Place | None:
    """The place behind the statements of its block that bind what its slots lack, or None."""
    block, first = place.block, 0
    for name in names:
        if how_bound(name, block, place.high, by_reads=True) is Bound.ALWAYS:
            continue
        later = (u for u in block.units[place.high :] if not u.blocks and name in binds(u.node))
        definition = next(later, None)
        if definition is not None:
            first = max(first, definition.index + 1)
    return settled_behind(place, first) if first else None


def _choose(unit: Unit, placer: Placer, place: Place, touch: Touch, fits: list[Fit]) -> Fit:
    """Of slots between which what is logged may differ, the one with the right value.

    Where the neighbours do not tell, it is the only one in line with the texts as a whole.
    """
    choice = decided(place, touch, placer.matching)
    if choice is None:
        opinions = [lined_up(unit, fit.block, fit.index, placer.matching) for fit in fits]
        in_line = [i for i, said in enumerate(opinions) if said is not Opinion.ELSEWHERE]
        choice = in_line[0] if len(in_line) == 1 else None
    if choice is None:
        lines = " or ".join(str(line_of_slot(place.block, fit.index)) for fit in fits)
        raise Refused(
            f"it could stand before line {lines} of {place.block.owner.source.path}, between "
            "which what it reads changes"
        )
    return fits[choice]


def _bound(draft: Draft, fit: Fit) -> list[str]:
    """The names that a draft gives a value for sure, as the older version calls them."""
    sure = (name for name in binds(draft.node) if sure_to_reach(name, draft.unit))
    return [fit.table.get(name, name) for name in sure]


def _reaches_uses(draft: Draft, fit: Fit) -> bool:
    """Whether what a draft binds reaches its uses from a slot itself."""
    try:
        return before_uses(_bound(draft, fit), fit.block, fit.index) == (fit.block, fit.index)
    except Refused:
        return False


def _is_variable(name: str, unit: Unit) -> bool:
    """Whether a statement assigns the name in the newer version, so that no import brings it."""
    return any(
        name in binds(other.node)
        for other in unit.source.units
        if not isinstance(other.node, (ast.Import, ast.ImportFrom, *FUNCTIONS, ast.ClassDef))
    ) or any(
        name in parameters(other.node)
        for other in unit.above()
        if isinstance(other.node, FUNCTIONS)
    )


def _same_named_loops(unit: Unit, block: Block) -> None:
    """flor's loops are anchors: a slot is in those that the statement is in, where X has them."""
    mine, theirs = _loop_names(unit.parent), _loop_names(block.owner)
    for name in sorted(mine - theirs):
        if name in _loops_in(block.scope):
            raise Refused(f"its neighbours are outside the loop `{name}` of {_path(block)}")
    for name in sorted(theirs - mine):
        if name in _loops_in(unit.scope):
            raise Refused(f"its neighbours are inside the loop `{name}` of {_path(block)}")


def _loops_in(scope: Unit) -> set[str | None]:
    return {loop_name(unit.node) for unit in scope.inside() if unit.scope is scope}


def _path(block: Block) -> str:
    return block.owner.source.path


def _loop_names(unit: Unit | None) -> set[str]:
    found: set[str] = set()
    while unit is not None and not isinstance(unit.node, FUNCTIONS):
        name = loop_name(unit.node)
        found |= {name} if name is not None else set()
        unit = unit.parent
    return found


def _attributes(draft: Draft, table: Mapping[str, str], block: Block) -> None:
    """An attribute of `self` that only the newer version ever sets is not there to be read."""
    for part in ast.walk(draft.node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            owner = part.value.id
            if owner != "self" or not isinstance(part.ctx, ast.Load):
                continue
            if _is_set(part.attr, draft.unit.source) and not _is_known(part.attr, block):
                raise Refused(
                    f"`self.{part.attr}` is never set in {block.owner.source.path}: only the newer "
                    "version sets it"
                )


def _binds_nothing_of_theirs(draft: Draft, block: Block) -> None:
    """A log statement may not give a new value to a variable of the older version."""
    for name in sorted(binds(draft.node)) if draft.statement.logs else ():
        if any(name in unit.words for unit in block.owner.source.units):
            raise Refused(f"it gives `{name}` a value, and {_path(block)} has a `{name}` already")


def _is_set(attribute: str, source: Source) -> bool:
    return any(
        isinstance(part, ast.Attribute)
        and part.attr == attribute
        and isinstance(part.ctx, ast.Store)
        for unit in source.units
        if "." + attribute in unit.words and not unit.blocks
        for part in ast.walk(unit.node)
    )


def _is_known(attribute: str, block: Block) -> bool:
    """Whether the older file mentions an attribute or method of that name at all."""
    source = block.owner.source
    return any("." + attribute in u.words or attribute in u.words for u in source.units)
