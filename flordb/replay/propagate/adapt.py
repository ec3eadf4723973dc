"""A statement's calls of flor, written as the older version writes them."""

from __future__ import annotations

import ast

from flordb.replay.propagate.flor import FlorNames, flor_names
from flordb.replay.propagate.flow import Bound, how_bound
from flordb.replay.propagate.model import Refused
from flordb.replay.propagate.units import Block, Source
from flordb.replay.propagate.write import instead


class FlorCalls(ast.NodeTransformer):
    """Rewrites calls of flor's functions.

    Parameters: ``new``, how the newer version names flor; ``old``, how the older one does. What
    the older version does not import keeps its name; `wanted` collects the functions concerned.
    """

    def __init__(self, new: FlorNames, old: FlorNames) -> None:
        self._new, self._old = new, old
        self.wanted: set[str] = set()

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Rewrite one call and what is inside it."""
        self.generic_visit(node)
        function = self._new.function_of(node)
        if function is None:
            return node
        alias = next((k for k, v in self._old.direct.items() if v == function), None)
        if self._old.modules:
            module = ast.Name(self._old.modules[0], ast.Load())
            node.func = instead(ast.Attribute(module, function, ast.Load()), node.func)
        elif alias is not None:
            node.func = instead(ast.Name(alias, ast.Load()), node.func)
        else:
            self.wanted.add(function)
        return node


def bound_flor(source: Source, block: Block, index: int) -> FlorNames:
    """The names of flor in the older file that are bound at a slot."""
    names = source.flor
    return FlorNames(
        tuple(n for n in names.modules if how_bound(n, block, index) is Bound.ALWAYS),
        {k: v for k, v in names.direct.items() if how_bound(k, block, index) is Bound.ALWAYS},
    )


def flor_import(new: Source, old: Source) -> str:
    """The import of flor that the newer version has, for an older file that has none.

    Raises Refused where the older file means something else by that name.
    """
    for unit in new.units:
        if isinstance(unit.node, (ast.Import, ast.ImportFrom)):
            names = flor_names(unit.node)
            taken = {*names.modules, *names.direct}
            if taken:
                _free(taken, old)
                return _only_flor(unit.node)
    raise Refused(f"{new.path} does not import flor")


def _only_flor(node: ast.Import | ast.ImportFrom) -> str:
    if isinstance(node, ast.ImportFrom):
        return ast.unparse(node)
    aliases = [a for a in node.names if a.name in ("flor", "flordb")]
    return ast.unparse(ast.Import(aliases))


def _free(names: set[str], source: Source) -> None:
    for unit in source.units:
        for name in names & set(unit.words):
            raise Refused(f"`{name}` is a name of its own in {source.path}, not flor")
