"""The statement that a site names, in the form in which it can stand in another version.

A log call that is a statement of its own is taken as it stands. One inside a larger statement
(`x = flor.log("n", e)`, `return flor.log("n", e)`) is taken out: the older version keeps its own
statement, and the call alone is put beside it.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from flordb.replay.propagate.flor import FlorNames, logged_name
from flordb.replay.propagate.model import Refused, Site
from flordb.replay.propagate.units import LOOPS, Source, Unit


@dataclass(frozen=True)
class Statement:
    """A statement of the newer version: where it stands, what is to be put in.

    ``log`` is its flor.log call, if it has one; ``call`` is the same where it is taken out of a
    larger statement, and None where the whole statement goes. ``name`` is the name that it logs, as
    `flor.logged_name` has it.
    """

    unit: Unit
    flor: FlorNames
    log: ast.Call | None
    call: ast.Call | None
    name: str | None

    @property
    def logs(self) -> bool:
        """Whether it logs at all: any statement can be placed."""
        return self.log is not None

    @property
    def node(self) -> ast.AST:
        """What is to be put into the older version, in the newer version's names."""
        return self.unit.node if self.call is None else ast.Expr(self.call)


def statement_at(source: Source, site: Site) -> Statement:
    """The statement that a site names. Raises Refused where none can move."""
    unit = _unit_at(source, site.lineno)
    if unit is None:
        raise Refused(f"no statement begins on line {site.lineno} of {site.file}")
    flor = source.flor
    calls = _log_calls(unit, flor)
    if unit.blocks and not calls:
        raise Refused(
            f"line {site.lineno} of {site.file} begins a block: only single statements can move"
        )
    name = logged_name(calls[0]) if calls else None
    plain = isinstance(unit.node, ast.Expr) and bool(calls) and unit.node.value is calls[0]
    if not calls or plain:
        return Statement(unit, flor, calls[0] if calls else None, None, name)
    return Statement(unit, flor, calls[0], _taken_out(unit, calls[0], site), name)


def _unit_at(source: Source, lineno: int) -> Unit | None:
    """The outermost statement that begins on a line, or the one on its header's line that logs."""
    unit = source.beginning_at(lineno)
    if unit is None:
        around = [u for u in source.units if u.lineno <= lineno <= u.last and not u.blocks]
        return around[-1] if around else None
    flor = source.flor
    if unit.blocks and not _log_calls(unit, flor):
        for inner in unit.inside():
            if inner.lineno == lineno and _log_calls(inner, flor):
                return inner
    return unit


def _log_calls(unit: Unit, flor: FlorNames) -> list[ast.Call]:
    """The flor.log calls in a statement, outermost first, those in its blocks left out."""
    found: list[ast.Call] = []
    waiting: list[ast.AST] = [unit.node]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Call) and flor.function_of(node) == "log":
            found.append(node)
        waiting += [
            child
            for child in ast.iter_child_nodes(node)
            if not isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case))
        ]
    return found


def _taken_out(unit: Unit, call: ast.Call, site: Site) -> ast.Call:
    where = f"the log call on line {site.lineno} of {site.file}"
    if isinstance(unit.node, LOOPS) and not isinstance(unit.node, (ast.For, ast.AsyncFor)):
        raise Refused(f"{where} runs on every turn of a `while`: let it stand alone")
    for node in ast.walk(unit.node):
        inner = isinstance(
            node,
            (
                ast.ListComp,
                ast.SetComp,
                ast.DictComp,
                ast.GeneratorExp,
                ast.Lambda,
                ast.IfExp,
                ast.BoolOp,
            ),
        )
        if inner and any(part is call for part in ast.walk(node)):
            raise Refused(
                f"{where} stands inside a {type(node).__name__}, which may run it any number of "
                "times: put it into a statement of its own"
            )
    return call
