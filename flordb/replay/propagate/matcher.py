"""Propagation between two versions: match once, then place, rename, check and edit."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Mapping

from flordb.replay.propagate.edit import Edit, apply, line_of_slot, statement_text
from flordb.replay.propagate.flow import Bound, how_bound
from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.model import Insertion, Patch, Refusal, Refused, Site
from flordb.replay.propagate.names import binds, changes, outside, parameters
from flordb.replay.propagate.place import Place, Placer
from flordb.replay.propagate.rename import Renamer, Renames
from flordb.replay.propagate.slots import Touch, decided, groups, preferred
from flordb.replay.propagate.statement import Statement, statement_at
from flordb.replay.propagate.units import FUNCTIONS, Block, Source, Unit, read_source


class Matcher:
    """Puts statements of one newer version into one older version; both are matched once.

    Parameters: ``old`` and ``new``, path to text of the modules that the script imports, the
    script included. Files of the older version that do not parse are left out of the matching.
    """

    def __init__(self, old: Mapping[str, str], new: Mapping[str, str]) -> None:
        self._old_texts, self._new_texts = old, new
        self._old, self._new = _parsed(old), _parsed(new)
        self._matchings: dict[frozenset[Unit], Matching] = {}

    def propagate(self, site: Site, *, at: tuple[str, int] | None = None) -> Patch | Refusal:
        """The older version with the statement in it, or why it cannot stand there.

        ``at`` is the user's own choice of place: a file of the older version and a line of it.
        The statement goes before the statement that begins on this line, or at the end of the
        block whose last statement ends just above it. All checks still apply.
        """
        try:
            return self._propagate(site)
        except Refused as refused:
            return Refusal(str(refused))

    def _propagate(self, site: Site) -> Patch:
        if site.file not in self._new:
            raise Refused(f"{site.file} is not among the newer version's files, or is no Python")
        statement = statement_at(self._new[site.file], site)
        matching = self._matching(frozenset({statement.unit}))
        reasons: list[str] = []
        placer = Placer(matching, list(self._old.values()), list(self._new.values()))
        candidates = placer.places(statement.unit)
        for place in candidates[:3]:
            if place.weight < 0.4 * candidates[0].weight:
                break
            try:
                return self._patch(statement, placer, place)
            except Refused as refused:
                reasons.append(str(refused))
        if reasons:
            raise Refused(reasons[0])
        raise Refused(
            f"no neighbour of line {site.lineno} of {site.file} and no block round it exists in "
            "the older version"
        )

    def _matching(self, hidden: frozenset[Unit]) -> Matching:
        if hidden not in self._matchings:
            self._matchings[hidden] = Matching(self._old, self._new, hidden)
        return self._matchings[hidden]

    def _patch(self, statement: Statement, placer: Placer, place: Place) -> Patch:
        block = place.block
        names = outside(statement.node)
        renames = Renames(placer.matching, statement.unit.scope, block)
        index, table = self._slot(statement, renames, place, placer, names)
        node: ast.AST | None = None
        if table or statement.call is not None:
            node = Renamer(table).visit(copy.deepcopy(statement.node))
        text = statement_text(statement.unit, node, block.indent)
        source = block.owner.source
        edit = Edit(source.path, line_of_slot(block, index), text, "statement")
        patched, where = apply(source.lines, [edit])
        insertions = tuple(Insertion(source.path, a, b, kind) for a, b, kind in where)
        return Patch({source.path: patched}, insertions, table, ())

    def _slot(
        self, statement: Statement, renames: Renames, place: Place, placer: Placer, names: set[str]
    ) -> tuple[int, dict[str, str]]:
        """The slot in a block and the names to be rewritten there. Raises Refused."""
        guess = {name: renames.old_name(name) or name for name in names}
        mine = _touch(statement)
        touch = Touch(
            frozenset(guess.get(name, name) for name in mine.reads),
            frozenset(guess.get(name, name) for name in mine.changes),
        )
        reasons: list[str] = []
        fits: list[tuple[int, dict[str, str]]] = []
        for slots in groups(place, touch):
            index = preferred(place, slots)
            try:
                fits.append((index, self._table(names, renames, statement, place.block, index)))
            except Refused as refused:
                reasons.append(str(refused))
        if not fits:
            raise Refused(reasons[0] if reasons else "no line can be put there")
        if len(fits) == 1:
            return fits[0]
        before, after = (
            (unit for unit in placer.neighbours(statement.unit, side) if mine.minds(unit))
            for side in (True, False)
        )
        choice = decided(place, placer.matching, touch, before, after)
        if choice is None:
            lines = [str(line_of_slot(place.block, index)) for index, _ in fits]
            raise Refused(
                f"it could stand before line {' or '.join(lines)} of "
                f"{place.block.owner.source.path}, between which what it reads changes"
            )
        return fits[choice]

    def _table(
        self, names: Iterable[str], renames: Renames, statement: Statement, block: Block, index: int
    ) -> dict[str, str]:
        table: dict[str, str] = {}
        source = block.owner.source
        unit = statement.unit
        for name in sorted(names):
            there = how_bound(name, block, index)
            assert unit.block is not None
            here = how_bound(name, unit.block, unit.index)
            other = renames.old_name(name)
            renamed = other is not None and other != name
            if other and renamed and how_bound(other, block, index) >= max(here, Bound.MAYBE):
                table[name] = other
                continue
            if there is not Bound.NEVER:
                taken = renames.taken_by(name)
                if taken is not None:
                    raise Refused(
                        f"`{name}` of {source.path} is what the newer version calls `{taken}`"
                    )
                if there < here:
                    raise Refused(
                        f"`{name}` is not bound on every way to line "
                        f"{line_of_slot(block, index)} of {source.path}"
                    )
                continue
            if source.has_star_import and not _is_variable(name, unit):
                continue
            raise Refused(f"`{name}` is not defined in {source.path}")
        return table


def _touch(statement: Statement) -> Touch:
    """What a statement of the newer version reads and changes, imported names left out."""
    fixed = {
        name
        for unit in statement.unit.source.units
        if isinstance(unit.node, (ast.Import, ast.ImportFrom))
        for name in binds(unit.node)
    }
    changed = set() if statement.logs else changes(statement.node)
    return Touch(frozenset(outside(statement.node) - fixed), frozenset(changed - fixed))


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


def _parsed(texts: Mapping[str, str]) -> dict[str, Source]:
    found = {}
    for path, text in texts.items():
        try:
            found[path] = read_source(path, text)
        except (SyntaxError, ValueError, RecursionError):
            continue
    return found
