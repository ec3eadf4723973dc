"""Under which names the older version knows what a statement of the newer version reads.

Evidence comes from statements that are matched: where both say the same but for their variables,
each pair of variables is a vote. Names are mapped one to one, and a name that the older version
binds in the same role stays.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher

from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.names import binds, parameters
from flordb.replay.propagate.tokens import is_variable
from flordb.replay.propagate.units import FUNCTIONS, Block, Unit


class Renames:
    """The votes of a matching for the names of one scope of the newer version in one of the older.

    Parameters: ``matching``; ``new``, the function (or module) of the statement; ``old``, the
    block of the older version where it is to stand.
    """

    def __init__(self, matching: Matching, new: Unit, old: Block) -> None:
        self._mine, self._theirs = _chain(new), _chain(old.scope)
        self.votes: dict[str, Counter[str]] = {}
        self.reverse: dict[str, Counter[str]] = {}
        self._collect(matching)

    def _collect(self, matching: Matching) -> None:
        for unit in (u for scope in self._mine for u in _own_units(scope)):
            other = matching.to_old.get(unit)
            if other is None or other.scope not in self._theirs:
                continue
            for name, old_name, weight in _pairs(unit, other):
                self._vote(name, old_name, weight)
        for scope in self._mine:
            other = matching.to_old.get(scope)
            if other in self._theirs:
                for name, old_name in _parameter_pairs(scope, other):
                    self._vote(name, old_name, 2)

    def _vote(self, name: str, old_name: str, weight: int) -> None:
        self.votes.setdefault(name, Counter())[old_name] += weight
        self.reverse.setdefault(old_name, Counter())[name] += weight

    def old_name(self, name: str) -> str | None:
        """The older version's name of a variable, or None where the evidence names none.

        The answer may be the same name.
        """
        votes = self.votes.get(name)
        if not votes:
            return None
        (best, count), *rest = votes.most_common(2)
        if count < 2 or (rest and rest[0][1] * 2 > count):
            return None
        back, _ = self.reverse[best].most_common(1)[0]
        return best if back == name else None


def _chain(scope: Unit) -> list[Unit]:
    """A scope and those round it whose names it sees."""
    return [scope, *(u for u in scope.above() if u.block is None or isinstance(u.node, FUNCTIONS))]


def _own_units(scope: Unit) -> Iterator[Unit]:
    """The statements of a scope that are not in a function inside it."""
    return (unit for unit in scope.inside() if unit.scope is scope)


def _pairs(new: Unit, old: Unit) -> Iterator[tuple[str, str, int]]:
    """Variables that stand for each other in two matched statements; a binding counts double."""
    if new.shape == old.shape:
        aligned = list(zip(new.words, old.words, strict=True))
    else:
        aligned = list(_aligned(new, old))
    bound = binds(new.node) if not new.blocks else set()
    for word, other in aligned:
        if is_variable(word) and is_variable(other):
            yield word, other, 3 if word in bound else 2 if new.shape == old.shape else 1


def _aligned(new: Unit, old: Unit) -> Iterator[tuple[str, str]]:
    matcher = SequenceMatcher(None, new.shape, old.shape, autojunk=False)
    if matcher.ratio() < 0.6:
        return
    for a, b, size in matcher.get_matching_blocks():
        for k in range(size):
            yield new.words[a + k], old.words[b + k]


def _parameter_pairs(new: Unit, old: Unit) -> Iterator[tuple[str, str]]:
    if not isinstance(new.node, FUNCTIONS) or not isinstance(old.node, FUNCTIONS):
        return
    mine, theirs = parameters(new.node), parameters(old.node)
    for name in mine & theirs:
        yield name, name
    a = [p.arg for p in new.node.args.args]
    b = [p.arg for p in old.node.args.args]
    if len(a) == len(b):
        yield from ((x, y) for x, y in zip(a, b, strict=True) if x not in theirs and y not in mine)


class Renamer(ast.NodeTransformer):
    """Rewrites variables of a statement."""

    def __init__(self, table: dict[str, str]) -> None:
        self.table = table

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.copy_location(ast.Name(self.table.get(node.id, node.id), node.ctx), node)
