"""The forms in which a statement can go into the older version.

As it stands; with the new `if` that guards it; with the new code that computes it (`slice.py`);
or, for a log call inside a larger statement that both versions have, alone and beside that.
"""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass

from flordb.replay.propagate.effects import effect_of
from flordb.replay.propagate.flor import loop_name
from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.model import Refused
from flordb.replay.propagate.names import BUILTINS, binds, changes, reads
from flordb.replay.propagate.place import Place
from flordb.replay.propagate.statement import Statement
from flordb.replay.propagate.units import Block, Unit
from flordb.replay.propagate.write import instead


@dataclass(frozen=True)
class Draft:
    """What is to be inserted, in the newer version's names.

    ``unit`` is the statement of the newer version whose place is looked for; ``node`` what goes
    there, one statement or a module of several.
    """

    statement: Statement
    unit: Unit
    node: ast.AST

    @property
    def names(self) -> set[str]:
        """The names that it reads, those of flor left out."""
        flor = self.statement.flor
        read = reads(self.node) - set(flor.modules) - set(flor.direct)
        if isinstance(self.node, ast.Module):
            read -= binds(self.node)
        taken = {n for n in read & BUILTINS if any(n in binds(u.node) for u in self._scope())}
        return (read - BUILTINS) | taken

    @property
    def variables(self) -> set[str]:
        """The names that it reads and that no import binds."""
        return self.names - self._imported

    @property
    def changed(self) -> set[str]:
        """The names whose value it may change: none for a log, which only looks."""
        return set() if self.statement.logs else changes(self.node) - self._imported

    @property
    def _imported(self) -> set[str]:
        units = self.unit.source.units
        imports = (u.node for u in units if isinstance(u.node, (ast.Import, ast.ImportFrom)))
        return {name for node in imports for name in binds(node)}

    def _scope(self) -> list[Unit]:
        """The statements among which a built-in name may get another meaning."""
        return [unit for unit in self.unit.source.units if not unit.blocks]


def draft_of(statement: Statement) -> Draft:
    """The statement as it stands, or its log call alone."""
    return Draft(statement, statement.unit, statement.node)


def guarded(draft: Draft, matching: Matching) -> Draft:
    """With the `if`s round it that only the newer version has and that hold nothing else it has."""
    unit, node = draft.unit, draft.node
    while unit.block is not None and _is_new_guard(unit.block, matching):
        owner = unit.block.owner
        test = guard_of(unit.block)
        body = node if isinstance(node, ast.stmt) else ast.Pass()
        unit, node = owner, ast.If(test, [body], [])
    return draft if unit is draft.unit else Draft(draft.statement, unit, node)


def guard_of(block: Block) -> ast.expr:
    """The test under which a branch of an `if` runs. Raises Refused where testing may act."""
    node = block.owner.node
    assert isinstance(node, ast.If)
    effect = effect_of(node.test)
    if effect is not None:
        raise Refused(f"the test round it would act a second time: {effect}")
    return node.test if block.part == "body" else ast.UnaryOp(ast.Not(), node.test)


def _is_new_guard(block: Block, matching: Matching) -> bool:
    return isinstance(block.owner.node, ast.If) and matching.is_new(block.owner)


def beside(statement: Statement, matching: Matching) -> tuple[Draft, Place] | None:
    """The log call alone, next to the older version's form of the statement that it is part of.

    None where the older version has no such statement. Raises Refused where the value that is
    logged would have to be computed twice and that may act.
    """
    call, other = statement.call, matching.to_old.get(statement.unit)
    if call is None or other is None or other.block is None:
        return None
    value = logged_value(call)
    if value is None:
        raise Refused("the log call does not say what it logs")
    target = _whole_target(statement.unit.node, call)
    if target is not None and _whole_target(other.node, None) is not None:
        alone = copy.deepcopy(call)
        set_value(alone, instead(ast.Name(target, ast.Load()), value))
        index = other.index + 1
    else:
        effect = effect_of(value)
        if effect is not None:
            raise Refused(f"logging beside line {other.lineno} would run {effect} a second time")
        alone, index = call, other.index
    draft = Draft(statement, statement.unit, ast.Expr(alone))
    return draft, Place(other.block, low=index, high=index)


def logged_value(call: ast.Call) -> ast.expr | None:
    """The value that a flor.log call logs."""
    if len(call.args) > 1:
        return call.args[1]
    return next((k.value for k in call.keywords if k.arg == "value"), None)


def set_value(call: ast.Call, value: ast.expr) -> None:
    """Let a flor.log call log another value."""
    if len(call.args) > 1:
        call.args[1] = value
    else:
        for keyword in call.keywords:
            keyword.value = value if keyword.arg == "value" else keyword.value


def _whole_target(node: ast.AST, call: ast.Call | None) -> str | None:
    """The variable that an assignment gives a value to, where that value is all of ``call``."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return None
    target = node.targets[0]
    whole = call is None or node.value is call
    return target.id if whole and isinstance(target, ast.Name) else None


def logs_already(statement: Statement, block: Block, old_logs: dict[Unit, str]) -> Unit | None:
    """The statement of the older version that logs the same name in the same place, if any."""
    loops = _loops(block)
    same = (unit for unit, name in old_logs.items() if name == statement.name)
    for unit in same:
        if unit.block is not None and unit.scope is block.scope and _loops(unit.block) == loops:
            return unit
    return None


def _loops(block: Block) -> list[Unit]:
    """The loops round a block, and the contexts that flor names."""
    chain = [block.owner, *block.owner.above()]
    return [u for u in chain if u.kind in ("For", "While") or loop_name(u.node) is not None]
