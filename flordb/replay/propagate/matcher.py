"""Propagation between two versions: match once, then place, fit, write and check each statement."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from functools import cached_property

from flordb.replay.propagate.adapt import FlorCalls, bound_flor, flor_import
from flordb.replay.propagate.check import check
from flordb.replay.propagate.doubt import no_doubt
from flordb.replay.propagate.draft import Draft, beside, draft_of, guarded, logs_already
from flordb.replay.propagate.edit import Edit, apply, line_of_slot
from flordb.replay.propagate.effects import effect_in_log
from flordb.replay.propagate.fit import Fit, Fitter
from flordb.replay.propagate.flor import logged_name
from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.model import Insertion, Patch, Refusal, Refused, Site
from flordb.replay.propagate.override import place_at
from flordb.replay.propagate.place import Place, Placer
from flordb.replay.propagate.rename import Renamer
from flordb.replay.propagate.slice import sliced
from flordb.replay.propagate.statement import Statement, statement_at
from flordb.replay.propagate.trains import Trainers
from flordb.replay.propagate.units import Source, Unit, read_source, split_lines
from flordb.replay.propagate.wrap import lines_round, logging_target, wrap, wrapping
from flordb.replay.propagate.write import written

_MOST_PLACES = 3
_WORTH_TRYING = 0.4
"""A place with less than this share of the best one's weight is not tried."""


class Matcher:
    """Puts statements of one newer version into one older version; both are matched once.

    Parameters: ``old`` and ``new``, path to text of the modules that the script imports, the
    script included (files that do not parse are left out); ``support``, whether the new code that
    a statement needs is brought along. Without it the statement goes alone or not at all.
    """

    def __init__(
        self, old: Mapping[str, str], new: Mapping[str, str], *, support: bool = True
    ) -> None:
        self._texts = old
        self._old, self._new = _parsed(old), _parsed(new)
        self._support = support
        self._fitter = Fitter(self._old, self._new, support)
        self._matchings: dict[frozenset[Unit], Matching] = {}
        self._logs = _logs(self._old)
        self._fresh = _fresh_logs(self._new, set(self._logs.values()))

    def propagate(self, site: Site, *, at: tuple[str, int] | None = None) -> Patch | Refusal:
        """The older version with the statement in it, or why it cannot stand there.

        ``at`` is the user's own choice of place: a file of the older version and a line of it.
        The statement goes before the statement that begins on this line; where none does, after
        the statement that ends last above it, in its block. All checks still apply.
        """
        try:
            return check(self._texts, self._propagate(site, at))
        except Refused as refused:
            return Refusal(str(refused))

    def _propagate(self, site: Site, at: tuple[str, int] | None) -> Patch:
        if site.file not in self._new:
            raise Refused(f"{site.file} is not among the newer version's files, or is no Python")
        if not self._old:
            raise Refused("the older version has no file that parses")
        statement = statement_at(self._new[site.file], site)
        # New log statements have no counterpart: hiding them all, one matching serves for each.
        placer = self._placer(self._fresh | {statement.unit})
        if at is not None:
            self._does_not_act(statement)
            return self._patch(draft_of(statement), placer, place_at(self._old, at), "your choice")[
                0
            ]
        if statement.call is not None:
            whole = self._placer(self._fresh)
            pair = beside(statement, whole.matching)
            if pair is not None:
                return self._patch(*_swap(pair, whole), "beside the statement that it is part of")[
                    0
                ]
        else:
            patch = self._round_own_call(statement, placer)
            if patch is not None:
                return patch
        draft = draft_of(statement)
        self._does_not_act(statement)
        if self._support:
            piece = sliced(draft, placer.matching, self._old)
            draft = piece if piece is not None else guarded(draft, placer.matching)
        return self._best(draft, placer)

    def _round_own_call(self, statement: Statement, placer: Placer) -> Patch | None:
        """With the older version's call of the same function inside the log call, if it has one."""
        found = wrap(statement, placer.matching)
        if found is None:
            return None
        line = found.own.lineno
        if found.target is not None:
            draft, place = logging_target(statement, found)
            return self._patch(draft, placer, place, f"what line {line} computes")[0]
        draft, place = wrapping(statement, found)
        return self._patch(draft, placer, place, f"round the call on line {line}", found.own)[0]

    @cached_property
    def _trainers(self) -> Trainers:
        return Trainers([*self._old.values(), *self._new.values()])

    def _does_not_act(self, statement: Statement) -> None:
        """Raise Refused where logging would itself change the training."""
        if not statement.logs:
            return
        effect = effect_in_log(statement.node) or self._trainers.called_in(statement.node)
        if effect is not None:
            where = f"line {statement.unit.lineno}"
            raise Refused(f"{where} acts on the training when it logs: {effect}")

    def _best(self, draft: Draft, placer: Placer) -> Patch:
        """The patch for the first place, from the likeliest on, that the draft fits."""
        places = placer.places(draft.unit)
        reasons: list[Refused] = []
        for place in places[:_MOST_PLACES]:
            if place.weight < _WORTH_TRYING * places[0].weight:
                break
            try:
                patch, fit = self._patch(draft, placer, place, _witnesses(place))
            except Refused as refused:
                reasons.append(refused)
                continue
            if fit.block is place.block:
                no_doubt(draft, place, fit, places, placer)
            return patch
        if reasons:
            raise reasons[0]
        raise _placeless(draft.statement.unit, placer)

    def _placer(self, hidden: frozenset[Unit]) -> Placer:
        if hidden not in self._matchings:
            self._matchings[hidden] = Matching(self._old, self._new, hidden)
        return Placer(self._matchings[hidden], list(self._old.values()), list(self._new.values()))

    def _patch(
        self, draft: Draft, placer: Placer, place: Place, note: str, wrapped: Unit | None = None
    ) -> tuple[Patch, Fit]:
        """The patch for a place, and the slot in it; ``wrapped``: as `_round_own_call` does."""
        statement, block = draft.statement, place.block
        source = block.owner.source
        known = logs_already(statement, block, self._logs) if statement.name else None
        if known is not None:
            raise Refused(
                f"line {known.lineno} of {source.path} already logs `{statement.name}` there"
            )
        fit = self._fitter.fit(draft, placer, place)
        node, support = self._written(draft, fit, source)
        block = fit.block
        line = line_of_slot(block, fit.index)
        if wrapped is None:
            text = written(statement.unit, node, block.indent)
            lines = [Edit(source.path, line, text, "statement")]
        else:
            lines = lines_round(wrapped, node, statement.unit.source, block.indent)
        edits = [*support, *fit.support, *lines]
        patched, where = apply(source.lines, edits)
        insertions = [Insertion(source.path, a, b, kind) for a, b, kind in where]
        for path, whole in fit.files.items():
            insertions.append(Insertion(path, 1, len(split_lines(whole)), "support"))
        files = {source.path: patched, **fit.files}
        return Patch(files, tuple(insertions), fit.table, (f"{source.path}:{line}: {note}",)), fit

    def _written(self, draft: Draft, fit: Fit, source: Source) -> tuple[ast.AST, list[Edit]]:
        """The rewritten statement, and an import of flor if needed."""
        before = ast.dump(draft.node)
        calls = FlorCalls(draft.statement.flor, bound_flor(source, fit.block, fit.index))
        node = calls.visit(Renamer(fit.table).visit(copy.deepcopy(draft.node)))
        support = []
        if calls.wanted:
            if not self._support:
                raise Refused(f"flor is not imported in {source.path}")
            text = flor_import(draft.unit.source, source) + "\n"
            support.append(Edit(source.path, _head(source), text, "support"))
        return (draft.node if ast.dump(node) == before else node), support


def _logs(sources: Mapping[str, Source]) -> dict[Unit, str]:
    """The names that a version logs, by statement."""
    found: dict[Unit, str] = {}
    for source in sources.values():
        flor = source.flor
        for unit in source.units if flor.modules or flor.direct else []:
            for call in ast.walk(unit.node) if not unit.blocks else []:
                if isinstance(call, ast.Call) and flor.function_of(call) == "log":
                    found[unit] = logged_name(call) or ""
    return found


def _fresh_logs(sources: Mapping[str, Source], known: set[str]) -> frozenset[Unit]:
    """The log calls that are statements of their own and log what the older version does not."""
    return frozenset(
        unit
        for unit, name in _logs(sources).items()
        if name and name not in known and isinstance(unit.node, ast.Expr)
    )


def _placeless(unit: Unit, placer: Placer) -> Refused:
    """The refusal of a statement that nothing in the older version speaks for."""
    where, owner = f"line {unit.lineno} of {unit.source.path}", unit.parent
    if owner is not None and owner.block is not None and owner not in placer.matching.to_old:
        header = unit.source.lines[owner.lineno - 1].strip()
        return Refused(f"{where} stands in a block that only the newer version has: `{header}`")
    return Refused(f"no neighbour of {where} exists in the older version")


def _swap(pair: tuple[Draft, Place], placer: Placer) -> tuple[Draft, Placer, Place]:
    draft, place = pair
    return draft, placer, place


def _witnesses(place: Place) -> str:
    """The nearest witnesses in words."""
    said = []
    for before in (True, False):
        side = (w for w in place.witnesses if w.before == before and w.index < len(w.block.units))
        near = max(side, key=lambda w: w.weight, default=None)
        if near is not None:
            line = near.block.units[near.index].lineno
            said.append(f"{'after' if before else 'before'} line {line}")
    return " and ".join(said) or "in the same block"


def _head(source: Source) -> int:
    """The line before which an import can stand."""
    if not source.root.blocks:
        return 1
    block = source.root.blocks[0]
    return line_of_slot(block, block.lowest)


def _parsed(texts: Mapping[str, str]) -> dict[str, Source]:
    found = {}
    for path, text in texts.items():
        try:
            found[path] = read_source(path, text)
        except (SyntaxError, ValueError, RecursionError):
            continue
    return found
