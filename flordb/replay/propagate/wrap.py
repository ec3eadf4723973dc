"""A log statement round a call that the older version makes without logging what it returns.

`flor.log("loss", train_step(batch))` calls what `train_step(batch)` called before: running it once
more would train twice. So the older version's own call is put inside the log call, by a line
before it and one after it; or, where the older version keeps the value in a variable, that is
logged behind it.
"""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass

from flordb.replay.propagate.draft import Draft, logged_value, set_value
from flordb.replay.propagate.edit import Edit, stands_alone
from flordb.replay.propagate.effects import last_name
from flordb.replay.propagate.flor import literal_argument
from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.model import Refused
from flordb.replay.propagate.place import Place
from flordb.replay.propagate.statement import Statement
from flordb.replay.propagate.units import Source, Unit
from flordb.replay.propagate.write import instead

OPENING, CLOSING = "opening", "closing"
"""Kinds of insertions: the lines round a statement of the older version that is wrapped."""


@dataclass(frozen=True)
class Wrap:
    """``own``: the older version's statement that makes the call; ``target``: the variable to
    which it gives the value, if any."""

    own: Unit
    target: str | None


def wrap(statement: Statement, matching: Matching) -> Wrap | None:
    """The statement of the older version that makes the same call, in the same block, where there
    is one that the newer version has not; ``matching``: without the log statement."""
    if statement.log is None or literal_argument(statement.log) is None:
        return None
    called, block = _called(logged_value(statement.log)), statement.unit.block
    owner = matching.to_old.get(block.owner) if block is not None else None
    if not called or block is None or owner is None:
        return None
    found = [
        unit
        for own in owner.blocks
        for unit in own.units
        if own.part == block.part and unit not in matching.to_new and _called(_made(unit)) == called
    ]
    if len(found) != 1:
        return None
    target = found[0].node.targets[0] if isinstance(found[0].node, ast.Assign) else None
    return Wrap(found[0], target.id if isinstance(target, ast.Name) else None)


def logging_target(statement: Statement, found: Wrap) -> tuple[Draft, Place]:
    """A log statement of the variable that has the value, and its place right behind."""
    assert found.target is not None
    assert found.own.block is not None
    node = ast.Expr(_log_of(statement, ast.Name(found.target, ast.Load())))
    index = found.own.index + 1
    return Draft(statement, statement.unit, node), Place(found.own.block, low=index, high=index)


def wrapping(statement: Statement, found: Wrap) -> tuple[Draft, Place]:
    """A log statement of nothing yet, whose place is that of the statement that it wraps."""
    assert found.own.block is not None
    node = ast.Expr(_log_of(statement, ast.Constant(None)))
    index = found.own.index
    return Draft(statement, statement.unit, node), Place(found.own.block, low=index, high=index)


def lines_round(own: Unit, node: ast.AST, source: Source, indent: str) -> list[Edit]:
    """The lines that put a statement inside a log call (one that logs ``None`` so far).

    Parameters: ``source``, where the log call comes from.

    Raises Refused where it shares its lines with others.
    """
    if not stands_alone(own):
        raise Refused(
            f"line {own.lineno} of {own.source.path} holds more than the call that is to be logged"
        )
    assert isinstance(node, ast.Expr)
    assert isinstance(node.value, ast.Call)
    log = node.value
    (name,) = log.args[:1] or [k.value for k in log.keywords if k.arg == "name"]
    text = ast.get_source_segment(source.text, name) or ast.unparse(name)
    opening = f"{indent}{ast.unparse(log.func)}({text},\n"
    path = own.source.path
    return [
        Edit(path, own.lineno, opening, OPENING),
        Edit(path, own.last + 1, f"{indent})\n", CLOSING),
    ]


def _log_of(statement: Statement, value: ast.expr) -> ast.Call:
    assert statement.log is not None
    before = logged_value(statement.log)
    assert before is not None
    log = copy.deepcopy(statement.log)
    set_value(log, instead(value, before))
    return log


def _made(unit: Unit) -> ast.expr | None:
    """The value of a statement that is one call, alone or given to one variable."""
    node = unit.node
    if isinstance(node, ast.Expr):
        return node.value
    if isinstance(node, ast.Assign) and [type(t) for t in node.targets] == [ast.Name]:
        return node.value
    return None


def _called(value: ast.expr | None) -> str:
    """The name of the function or method that an expression is a call of, or ``""``."""
    if isinstance(value, ast.Await):
        value = value.value
    return last_name(value) if isinstance(value, ast.Call) else ""
