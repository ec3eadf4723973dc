"""Under which names the older version knows what a statement of the newer version reads.

Evidence comes from statements that are matched: where both say the same but for their variables,
each pair of variables is a vote. Names are mapped one to one; a name that the older version binds
in the same role stays; and two names that are bound in different ways (by an import, by an
assignment) are not one another's, unless one is made of the other: a logger stands for `logging`.
Names of the module are the same in all its functions, so that statements of all of them vote.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import lru_cache

from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.names import binds, header, parameters, reads, root_of
from flordb.replay.propagate.tokens import is_variable
from flordb.replay.propagate.units import FUNCTIONS, Block, Unit

_LEAST = 2
"""The votes that a rename needs."""
_PROOF = 12
"""The undisputed votes that outweigh that two names are bound in different ways."""
_RUN = 3
"""Fewer words in a row than this are not the same part of two statements that differ."""


class Renames:
    """The votes of a matching for the names of one scope of the newer version in one of the older.

    Parameters: ``matching``; ``new``, the statement; ``old``, the block of the older version where
    it is to stand.
    """

    def __init__(self, matching: Matching, new: Unit, old: Block) -> None:
        self._unit = new
        self._mine, self._theirs = _chain(new.scope), _chain(old.scope)
        self._handed, self._handed_there = (
            _handed_over(matching, new.scope),
            _handed_over(matching, old.scope),
        )
        self._defined = _by_definition(matching, new, self._theirs)
        self._votes: dict[str, Counter[str]] = {}
        self._reverse: dict[str, Counter[str]] = {}
        self._collect(matching)

    def _collect(self, matching: Matching) -> None:
        mine = {**self._handed, **dict.fromkeys(self._mine)}
        theirs = {**self._handed_there, **dict.fromkeys(self._theirs)}
        for unit in (u for scope in mine for u in _own_units(scope)):
            other = matching.to_old.get(unit)
            if other is None or other.scope not in theirs or _is_definition(unit):
                continue
            given, given_there = mine[unit.scope], theirs[other.scope]
            for name, old_name, weight in _pairs(unit, other):
                here = name if given is None else given.get(name)
                there = old_name if given_there is None else given_there.get(old_name)
                if here is not None and there is not None:
                    self._vote(here, there, weight)
        self._collect_globals(matching)
        for scope in self._mine:
            other = matching.to_old.get(scope)
            if other in self._theirs:
                for name, old_name in _parameter_pairs(scope, other):
                    self._vote(name, old_name, 2)

    def _collect_globals(self, matching: Matching) -> None:
        """The votes for names of the module by functions that are not round the statement."""
        root, other_root = self._mine[-1], self._theirs[-1]
        mine, theirs = _bound_in(root), _bound_in(other_root)
        done = {*self._mine, *self._handed}
        for unit in root.source.units:
            other = matching.to_old.get(unit)
            if other is None or unit.scope in done or other.scope in self._theirs:
                continue
            if other.source is not other_root.source or unit.shape != other.shape:
                continue
            here, there = mine - _bound_round(unit), theirs - _bound_round(other)
            for name, old_name, weight in _pairs(unit, other):
                if name in here and old_name in there:
                    self._vote(name, old_name, weight)

    def _vote(self, name: str, old_name: str, weight: int) -> None:
        self._votes.setdefault(name, Counter())[old_name] += weight
        self._reverse.setdefault(old_name, Counter())[name] += weight

    def old_name(self, name: str) -> str | None:
        """The older version's name of a variable, or None where the evidence names none.

        The answer may be the same name. The definition that reaches the statement knows best.
        """
        defined = self._defined.get(name)
        if defined is not None:
            return defined
        votes = self._votes.get(name)
        if not votes:
            return None
        (best, count), *rest = votes.most_common(2)
        if best == name:
            return name
        if count < _LEAST or (rest and rest[0][1] * 2 > count):
            return None
        if self._reverse[best].most_common(1)[0][0] != name:
            return None
        return best if count >= _PROOF or self._same_role(name, best) else None

    def taken_by(self, old_name: str) -> str | None:
        """Which other name of the newer version the older one means by ``old_name``, if any."""
        votes = self._reverse.get(old_name)
        if not votes or old_name in votes:
            return None
        best, count = votes.most_common(1)[0]
        sure = count > 2 * _LEAST and self._votes[best].most_common(1)[0][0] == old_name
        return best if sure else None

    def _same_role(self, name: str, old_name: str) -> bool:
        """Whether both are bound in the same kind of way, so far as both are bound here."""
        mine = {kind for scope in self._mine for kind in _how_bound(name, scope)}
        theirs = {kind for scope in self._theirs for kind in _how_bound(old_name, scope)}
        if "import" in mine ^ theirs:
            return "import" not in mine and self._stands_for(name, old_name)
        return not mine or not theirs or bool(mine & theirs)

    def _stands_for(self, name: str, module: str) -> bool:
        """Whether a variable is what a call of that module gave, and the statement only calls
        what the older version calls of the module."""
        units = (u for scope in self._mine for u in _own_units(scope) if not u.blocks)
        definitions = [u.node for u in units if name in u.words and name in binds(u.node)]
        made = (
            isinstance(d, ast.Assign) and _module_called(d.value) == module for d in definitions
        )
        called, uses = _called_of(name, self._unit), self._unit.words.count(name)
        there = {c for u in self._theirs[-1].source.units for c in _called_of(module, u)}
        return bool(definitions) and all(made) and len(called) == uses and there.issuperset(called)


def _by_definition(matching: Matching, unit: Unit, scopes: list[Unit]) -> dict[str, str]:
    """What the older version calls the names whose last definition before a statement it has.

    A name that the older version still reads where the newer one does, since the definition, stays.
    """
    found: dict[str, str] = {}
    lost: set[str] = set()
    kept: set[str] = set()
    for definition in _before(unit):
        bound = binds(definition.node) if not definition.blocks else set(definition.words)
        bound -= found.keys() | lost
        other = matching.to_old.get(definition)
        if _is_definition(definition):
            continue
        if other is None or other.scope not in scopes:
            lost |= bound if not definition.blocks else set()
            continue
        theirs = binds(other.node)
        for name, old_name, _ in _pairs(definition, other):
            if name in bound and name in binds(definition.node) and old_name in theirs:
                found.setdefault(name, name if name in kept else old_name)
        lost |= bound - found.keys() if not definition.blocks else set()
        if not definition.blocks:
            kept |= reads(definition.node) & reads(other.node)
    head = matching.to_old.get(unit.scope)
    for name, old_name in _parameter_pairs(unit.scope, head) if head in scopes and head else ():
        if name not in lost:
            found.setdefault(name, old_name)
    return found


def _before(unit: Unit) -> Iterator[Unit]:
    """The statements of its function before one, the last first; headers after their blocks."""
    here = unit
    while here.block is not None and here is not unit.scope:
        for earlier in reversed(here.block.units[: here.index]):
            yield from (u for u in reversed(list(earlier.inside())) if u.scope is unit.scope)
            yield earlier
        here = here.block.owner
        if here is not unit.scope:
            yield here


def _how_bound(name: str, scope: Unit) -> Iterator[str]:
    """The kinds of statement that bind a name in a scope."""
    if isinstance(scope.node, FUNCTIONS) and name in parameters(scope.node):
        yield "variable"
    for unit in _own_units(scope):
        if _is_definition(unit):
            bound = name == getattr(unit.node, "name", None)
        else:
            bound = name in unit.words and (bool(unit.blocks) or name in binds(unit.node))
        if bound:
            yield _ROLES.get(unit.kind, "variable")


_ROLES = {"Import": "import", "ImportFrom": "import", "FunctionDef": "code", "ClassDef": "code"}


def _is_definition(unit: Unit) -> bool:
    return isinstance(unit.node, (*FUNCTIONS, ast.ClassDef))


def _chain(scope: Unit) -> list[Unit]:
    """A scope and those round it whose names it sees."""
    return [scope, *(u for u in scope.above() if u.block is None or isinstance(u.node, FUNCTIONS))]


def _handed_over(matching: Matching, scope: Unit) -> dict[Unit, dict[str, str]]:
    """The function that calls one that was moved out, with what its variables are called there."""
    call = next((call for call, function in matching.moved_out.items() if function is scope), None)
    if call is None or not isinstance(scope.node, FUNCTIONS):
        return {}
    names = [parameter.arg for parameter in scope.node.args.args]
    for part in ast.walk(call.node):
        if isinstance(part, ast.Call) and getattr(part.func, "id", None) == scope.node.name:
            given = zip(part.args, names, strict=False)
            return {call.scope: {a.id: name for a, name in given if isinstance(a, ast.Name)}}
    return {}


def _module_called(value: ast.expr) -> str | None:
    """The variable of which a value is a method's answer."""
    return root_of(value.func) if isinstance(value, ast.Call) else None


def _called_of(name: str, unit: Unit) -> list[str]:
    """The methods of a variable that a statement calls, once for each call."""
    words = unit.words
    return [words[i + 2] for i in range(len(words) - 2) if words[i : i + 2] == ("<Call>", name)]


@lru_cache(maxsize=1024)
def _bound_in(scope: Unit) -> frozenset[str]:
    """The names that a scope binds itself."""
    own = frozenset(n for u in _own_units(scope) if not u.blocks for n in binds(u.node))
    headers = {n for u in _own_units(scope) if u.blocks for n in binds(_head(u))}
    taken = parameters(scope.node) if isinstance(scope.node, FUNCTIONS) else set()
    return own | headers | taken


def _head(unit: Unit) -> ast.AST:
    """What binds names in a compound statement, its blocks left out."""
    if isinstance(unit.node, (*FUNCTIONS, ast.ClassDef)):
        return ast.Name(unit.node.name, ast.Store())
    return header(unit.node)


def _bound_round(unit: Unit) -> frozenset[str]:
    """The names that the functions round a statement bind."""
    functions = [scope for scope in _chain(unit.scope) if scope.block is not None]
    return frozenset(name for scope in functions for name in _bound_in(scope))


def _own_units(scope: Unit) -> Iterator[Unit]:
    """The statements of a scope that are not in a function inside it."""
    return (unit for unit in scope.inside() if unit.scope is scope)


def _pairs(new: Unit, old: Unit) -> Iterator[tuple[str, str, int]]:
    """Variables that stand for each other in two matched statements; a binding counts double."""
    same = new.shape == old.shape
    aligned = zip(new.words, old.words, strict=True) if same else _aligned(new, old)
    bound = binds(new.node) if not new.blocks else set()
    if not same and len(bound) != len(binds(old.node) if not old.blocks else set()):
        return
    for word, other in aligned:
        if is_variable(word) and is_variable(other):
            # A name that the older statement has as well is the same thing there.
            if word != other and (word in old.bag or other in new.bag):
                continue
            yield word, other, 3 if word in bound else 2 if same else 1


def _aligned(new: Unit, old: Unit) -> Iterator[tuple[str, str]]:
    matcher = SequenceMatcher(None, new.shape, old.shape, autojunk=False)
    if matcher.ratio() < 0.6:
        return
    for a, b, size in matcher.get_matching_blocks():
        for k in range(size if size >= _RUN else 0):
            yield new.words[a + k], old.words[b + k]


def _parameter_pairs(new: Unit, old: Unit) -> Iterator[tuple[str, str]]:
    if not isinstance(new.node, FUNCTIONS) or not isinstance(old.node, FUNCTIONS):
        return
    mine, theirs = parameters(new.node), parameters(old.node)
    for name in sorted(mine & theirs):
        yield name, name
    a = [p.arg for p in new.node.args.args if p.arg not in theirs]
    b = [p.arg for p in old.node.args.args if p.arg not in mine]
    if len(a) == len(b):
        yield from zip(a, b, strict=True)


class Renamer(ast.NodeTransformer):
    """Rewrites variables of a statement."""

    def __init__(self, table: dict[str, str]) -> None:
        self.table = table

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """Give a variable its older name."""
        return ast.copy_location(ast.Name(self.table.get(node.id, node.id), node.ctx), node)
