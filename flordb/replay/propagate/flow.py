"""Which names are bound when control reaches a slot.

A loop is taken to run at least once and a `try` to reach its end: what a user writes right after
them counts on that; so is the script's own `if __name__ == "__main__"`. A branch that leaves
(return, raise, break, continue, `sys.exit()`) binds everything for those that go on. A name that
the code itself reads on the way, or as soon as it goes on, is bound: it would fail else.
"""

from __future__ import annotations

import ast
from enum import IntEnum

from flordb.replay.propagate.names import BUILTINS, binds, binds_in, parameters, surely_reads
from flordb.replay.propagate.units import FUNCTIONS, LOOPS, Block, Unit, Words, blocks_of


class Bound(IntEnum):
    """How surely a name is bound at a slot."""

    NEVER = 0
    MAYBE = 1
    ALWAYS = 2


class _Everything(frozenset[str]):
    """The names bound on a path that never arrives: all of them."""


_GONE = _Everything()
_LEAVES = (ast.Return, ast.Raise, ast.Break, ast.Continue)


def how_bound(name: str, block: Block, index: int, *, by_reads: bool = False) -> Bound:
    """How surely ``name`` has a value just before statement ``index`` of a block.

    ``by_reads``: whether the code's own reads count, which fail where the name is not bound.
    """
    scope = block.scope
    if name in _bound_in(scope):
        given = isinstance(scope.node, FUNCTIONS) and name in parameters(scope.node)
        return Bound.ALWAYS if given else _on_the_way(name, scope, block, index, by_reads)
    # What an outer scope binds counts wherever it binds it: the function is called later.
    while scope.block is not None:
        scope = scope.scope
        if name in _bound_in(scope):
            return Bound.ALWAYS
    return Bound.ALWAYS if name in BUILTINS else Bound.NEVER


def _bound_in(scope: Unit) -> set[str]:
    """The names that a function or a module binds as its own, anywhere in it."""
    node = scope.node
    if not isinstance(node, FUNCTIONS):
        return module_names(scope)
    return (parameters(node) | binds_in(node.body)) - declared_elsewhere(scope)


def module_names(root: Unit) -> set[str]:
    """The names that a module binds, functions' `global` statements included."""
    found: set[str] = set()
    for unit in (u for block in root.blocks for u in block.units):
        found |= binds(unit.node)
    for unit in root.source.units:
        if isinstance(unit.node, ast.Global):
            found |= set(unit.node.names)
    return found


def declared_elsewhere(scope: Unit) -> set[str]:
    """The names that a function declares global or nonlocal."""
    return {
        name
        for part in ast.walk(scope.node)
        if isinstance(part, (ast.Global, ast.Nonlocal))
        for name in part.names
    }


def _on_the_way(name: str, scope: Unit, block: Block, index: int, by_reads: bool) -> Bound:
    """Follow the way from the head of the scope down to the slot."""
    best = Bound.NEVER
    if by_reads and name not in BUILTINS and _is_read_next(name, block, index):
        return Bound.ALWAYS
    here, position = block, index
    tests: set[Words] = set()
    while True:
        done = _run([unit.node for unit in here.units[:position]], by_reads)
        if name in done or done is _GONE:
            return Bound.ALWAYS
        if _bound_under_the_same_test(name, here.units[:position], tests):
            return Bound.ALWAYS
        if any(name in binds(unit.node) for unit in here.units[:position]):
            best = Bound.MAYBE
        owner = here.owner
        if owner is scope or owner.block is None:
            break
        state = _from_header(name, owner, here)
        if state is Bound.ALWAYS:
            return state
        best = max(best, state)
        if isinstance(owner.node, ast.If) and here.part == "body":
            tests.add(owner.words)
        here, position = owner.block, owner.index
    if best is Bound.NEVER and _bound_later_in_a_loop(name, block, scope):
        best = Bound.MAYBE
    return best


def _bound_under_the_same_test(name: str, units: list[Unit], tests: set[Words]) -> bool:
    """Whether an earlier `if` of the same test as one round the slot binds the name."""
    return any(
        unit.words in tests
        and isinstance(unit.node, ast.If)
        and name in _run(unit.node.body, False)
        for unit in units
    )


def _from_header(name: str, owner: Unit, block: Block) -> Bound:
    """What the header of a compound statement has bound when control enters one of its blocks."""
    node = owner.node
    if isinstance(node, ast.ClassDef):
        return Bound.NEVER
    if name in _header_binds(node) and (block.part == "body" or not isinstance(node, LOOPS)):
        return Bound.ALWAYS
    if block.part.startswith(("handlers", "cases")):
        parts = getattr(node, "handlers", None) or getattr(node, "cases", [])
        part = parts[int(block.part.lstrip("handlersc"))]
        if name in binds(part.pattern if isinstance(part, ast.match_case) else part):
            inside = any(name in binds(u.node) for u in block.units)
            return Bound.MAYBE if inside else Bound.ALWAYS
    if isinstance(node, (ast.Try, ast.TryStar)) and block.part in ("orelse", "finalbody"):
        if name in _run(node.body, False):
            return Bound.ALWAYS
        return Bound.MAYBE if any(name in binds(part) for part in node.body) else Bound.NEVER
    if isinstance(node, LOOPS) and block.part == "orelse":
        return Bound.ALWAYS if name in _run(node.body, False) | _header_binds(node) else Bound.NEVER
    if isinstance(node, (ast.Try, ast.TryStar)) and block.part.startswith("handlers"):
        return Bound.MAYBE if any(name in binds(part) for part in node.body) else Bound.NEVER
    return Bound.NEVER


def _bound_later_in_a_loop(name: str, block: Block, scope: Unit) -> bool:
    owner: Unit | None = block.owner
    while owner is not None and owner is not scope:
        if isinstance(owner.node, LOOPS) and name in binds(owner.node):
            return True
        owner = owner.parent
    return False


def _run(statements: list[ast.AST] | list[ast.stmt], by_reads: bool) -> frozenset[str]:
    """The names bound once some statements have run."""
    bound: frozenset[str] = frozenset()
    for node in statements:
        if isinstance(node, (ast.Return, ast.Raise, ast.Break, ast.Continue)):
            return _GONE
        if isinstance(node, ast.Delete):
            bound -= {t.id for t in node.targets if isinstance(t, ast.Name)}
            continue
        after = _after(node, by_reads)
        if after is _GONE:
            return _GONE
        bound |= after
    return bound


def _after(node: ast.AST, by_reads: bool) -> frozenset[str]:
    if _exits(node):
        return _GONE
    header = frozenset(_header_binds(node))
    if by_reads:
        header |= surely_reads(node)
    if isinstance(node, ast.If) and is_main(node.test):
        inside = _run(node.body, by_reads)
        return inside if inside is _GONE else header | inside
    if isinstance(node, ast.If):
        return _either(_run(node.body, by_reads), _run(node.orelse, by_reads)) | header
    if isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
        return frozenset(header | _run(node.body, by_reads) | _run(node.orelse, by_reads))
    if isinstance(node, (ast.With, ast.AsyncWith)):
        inside = _run(node.body, by_reads)
        return inside if inside is _GONE else header | inside
    if isinstance(node, (ast.Try, ast.TryStar)):
        whole = _run([*node.body, *node.orelse], by_reads)
        for handler in node.handlers:
            whole = _either(whole, _run(handler.body, by_reads))
        last = _run(node.finalbody, by_reads)
        return _GONE if whole is _GONE or last is _GONE else whole | last
    if isinstance(node, ast.Match):
        cases = [_run(case.body, by_reads) for case in node.cases]
        wild = any(
            isinstance(c.pattern, ast.MatchAs) and c.pattern.pattern is None and not c.guard
            for c in node.cases
        )
        whole = cases[0] if wild else frozenset()
        for case in cases[1:] if wild else []:
            whole = _either(whole, case)
        return whole
    return header


def is_main(test: ast.expr) -> bool:
    """Whether a test asks if this file is the script that runs."""
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq):
        return False
    sides = [test.left, *test.comparators]
    names = [side.id for side in sides if isinstance(side, ast.Name)]
    values = [side.value for side in sides if isinstance(side, ast.Constant)]
    return names == ["__name__"] and values == ["__main__"]


def _exits(node: ast.AST) -> bool:
    """Whether a statement ends the program."""
    call = node.value if isinstance(node, ast.Expr) else None
    func = call.func if isinstance(call, ast.Call) else None
    if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name):
        return (func.value.id, func.attr) in (("sys", "exit"), ("os", "_exit"))
    return isinstance(func, ast.Name) and func.id in ("exit", "quit")


def _is_read_next(name: str, block: Block, index: int) -> bool:
    """Whether the code that goes on at a slot reads a name before anything may bind it."""
    while True:
        for unit in block.units[index:]:
            if name in surely_reads(unit.node):
                return True
            leaves = any(isinstance(part, (ast.Try, *_LEAVES)) for part in ast.walk(unit.node))
            if leaves or _exits(unit.node) or name in binds(unit.node):
                return False
        owner = block.owner
        if owner.block is None or not isinstance(owner.node, (ast.If, ast.With, ast.AsyncWith)):
            return False
        block, index = owner.block, owner.index + 1


def _either(a: frozenset[str], b: frozenset[str]) -> frozenset[str]:
    if a is _GONE:
        return b
    return a if b is _GONE else a & b


def _header_binds(node: ast.AST) -> set[str]:
    """What a statement binds itself, its blocks left out."""
    if not any(True for _ in blocks_of(node)) or isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return binds(node)
    found: set[str] = set()
    for field in node._fields:
        if field in ("body", "orelse", "finalbody", "handlers", "cases"):
            continue
        value = getattr(node, field)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST):
                found |= binds(part)
    return found
