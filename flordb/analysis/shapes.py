"""Which loops a replay may pass over, by how they stand in the code.

A skipped `flor.loop` ends at once, as one that has run out of items: its ``for`` goes on behind it.
What the code around it makes of the items, or of the way in which the loop was left, is lost.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from flordb.analysis.program import Module, Program, string_argument

_KEEPS_ITEMS = frozenset({"list", "tuple", "sorted", "set", "frozenset", "dict", "reversed", "sum"})
_PASSES_ITEMS = frozenset({"tqdm", "track", "progress_bar", "master_bar", "auto", "iter"})
"""Progress bars: what they hand on is what they get."""


@dataclass(frozen=True)
class Shape:
    """How the loops of a name stand. ``wholly``: why they must always be run, if they must;
    ``to_its_end``: why one that the code left must be run to where it was left, if it must.
    ``counted``: what it is inside of (``enumerate``) and so must be run from its first item for the
    names ``counts``, or (empty) for all.
    """

    wholly: str | None = None
    to_its_end: str | None = None
    counted: str | None = None
    counts: frozenset[str] = frozenset()

    def worse(self, other: Shape) -> Shape:
        """The shape of two loops of one name."""
        counts = self.counts | other.counts
        if any(each.counted and not each.counts for each in (self, other)):
            counts = frozenset()
        return Shape(
            self.wholly or other.wholly,
            self.to_its_end or other.to_its_end,
            self.counted or other.counted,
            counts,
        )


def shapes(program: Program) -> dict[str, Shape]:
    """The shapes of a program's loops by name; of several loops of one name, the worst."""
    found: dict[str, Shape] = {}
    for module in program.modules.values():
        for name, shape in _in_module(module):
            found[name] = found[name].worse(shape) if name in found else shape
    return found


def _in_module(module: Module) -> Iterator[tuple[str, Shape]]:
    plain: set[ast.Call] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.For, ast.AsyncFor)):
            for call in header_calls(module, node.iter):
                plain.add(call)
                name = string_argument(call, 0, "name")
                if name is not None:
                    yield name, _shape(node).worse(_counting(node, call))
    for node in ast.walk(module.tree):
        if module.flor_call(node) == "loop" and node not in plain:
            assert isinstance(node, ast.Call)
            name = string_argument(node, 0, "name")
            if name is not None:
                yield name, Shape(wholly="its items are used by an expression")


def header_calls(module: Module, iterable: ast.expr) -> Iterator[ast.Call]:
    """The calls of `flor.loop` that a ``for`` goes through item by item, also inside ``enumerate``
    and its like."""
    if module.flor_call(iterable) == "loop":
        assert isinstance(iterable, ast.Call)
        yield iterable
    elif isinstance(iterable, ast.Call):
        if not (isinstance(iterable.func, ast.Name) and iterable.func.id in _KEEPS_ITEMS):
            for argument in (*iterable.args, *(k.value for k in iterable.keywords)):
                yield from header_calls(module, argument)
    elif isinstance(iterable, (ast.NamedExpr, ast.Starred)):
        yield from header_calls(module, iterable.value)


def _counting(node: ast.For | ast.AsyncFor, call: ast.Call) -> Shape:
    """What a call around `flor.loop` makes of the items: it does not see those that are skipped."""
    outer = node.iter
    if outer is call or not isinstance(outer, ast.Call):
        return Shape()
    name = ast.unparse(outer.func)
    if name.rpartition(".")[2] in _PASSES_ITEMS:
        return Shape()
    if name == "enumerate" and isinstance(node.target, ast.Tuple) and outer.args[:1] == [call]:
        first = frozenset(n.id for n in ast.walk(node.target.elts[0]) if isinstance(n, ast.Name))
        return Shape(counted=name, counts=first)
    return Shape(counted=name)


def _shape(node: ast.For | ast.AsyncFor) -> Shape:
    own = [n for statement in node.body for n in _own(statement)]
    if any(isinstance(n, (ast.Yield, ast.YieldFrom, ast.Await)) for n in own):
        return Shape(wholly="it hands its items on to other code")
    if node.orelse:
        return Shape(to_its_end="it has an else")
    if any(isinstance(n, ast.Return) for n in own):
        return Shape(to_its_end="it may be left by return")
    return Shape()


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """A node and those below it that belong to the same function."""
    yield node
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
        for child in ast.iter_child_nodes(node):
            yield from _own(child)
