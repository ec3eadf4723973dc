"""What an expression depends on: the names whose values may reach it, through assignments, calls
and methods, in whatever order they run. It takes in too much rather than too little; what it
leaves out cannot matter to the expression as far as names go.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from flordb.analysis.program import Function, Module, Program


@dataclass(frozen=True)
class Flow:
    """One statement's flow: the names it may change, and the names these changes come from."""

    writes: frozenset[str]
    reads: frozenset[str]


def names_read(node: ast.AST) -> frozenset[str]:
    """All names that a statement or expression loads; attributes as ``.name``."""
    found: set[str] = set()
    for n in ast.walk(node):
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load):
            found.add(n.id)
        elif isinstance(n, ast.Attribute):
            found.add(f".{n.attr}")
    return frozenset(found)


def dependencies(program: Program, names: Iterable[str]) -> frozenset[str]:
    """The names that may influence ``names``, themselves included; attributes as ``.name``.

    Scopes are merged by name: `net` in one function is `net` in all, `.net` of one object of all.
    """
    flows = [flow for module in program.modules.values() for flow in _flows(program, module)]
    needed = frozenset(names)
    while True:
        more = needed.union(*(flow.reads for flow in flows if flow.writes & needed))
        if more == needed:
            return needed
        needed = more


def changeable(program: Program) -> frozenset[str]:
    """The names that some statement may change: what is no constant, function or import."""
    flows = (flow for module in program.modules.values() for flow in _flows(program, module))
    return frozenset[str]().union(*(flow.writes for flow in flows))


def definitions(program: Program, names: Iterable[str]) -> list[ast.AST]:
    """The functions and classes of the project with these names, and those they use, in order."""
    found: dict[str, ast.AST] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        for module in program.modules.values():
            nodes = [*module.functions.get(name, []), *filter(None, [module.classes.get(name)])]
            for position, node in enumerate(nodes):
                key = f"{module.path}:{name}:{position}"
                if key not in found:
                    found[key] = node
                    waiting.extend(_mentioned(node))
    return [found[key] for key in sorted(found)]


def _mentioned(node: ast.AST) -> set[str]:
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return names | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}


def _flows(program: Program, module: Module) -> Iterable[Flow]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.stmt):
            yield from _statement(program, module, node)
        elif isinstance(node, ast.NamedExpr):
            yield Flow(frozenset({node.target.id}), names_read(node.value))


def _statement(program: Program, module: Module, node: ast.stmt) -> Iterable[Flow]:
    match node:
        case ast.Assign():
            yield Flow(_targets(node.targets), names_read(node))
            yield from _calls(program, module, node.value, _targets(node.targets))
        case ast.AnnAssign() | ast.AugAssign():
            written = _targets([node.target])
            yield Flow(written, names_read(node) | written)
            if node.value is not None:
                yield from _calls(program, module, node.value, written)
        case ast.For() | ast.AsyncFor():
            yield Flow(_targets([node.target]), names_read(node.iter))
            yield from _calls(program, module, node.iter, _targets([node.target]))
        case ast.With() | ast.AsyncWith():
            for item in node.items:
                target = [item.optional_vars] if item.optional_vars else []
                yield Flow(_targets(target), names_read(item.context_expr))
                yield from _calls(program, module, item.context_expr, _targets(target))
        case ast.Expr() | ast.Return() | ast.Delete() | ast.Assert():
            yield from _calls(program, module, node, frozenset())
        case ast.If() | ast.While():
            # What is changed under a condition depends on the condition.
            written = frozenset[str]().union(*(_changed(child) for child in node.body))
            yield Flow(written, names_read(node.test))
            yield from _calls(program, module, node.test, frozenset())


def _changed(node: ast.AST) -> frozenset[str]:
    return frozenset(
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    )


def _targets(targets: Iterable[ast.expr]) -> frozenset[str]:
    """The names that an assignment changes: bound, or the owner of what is stored into."""
    return frozenset[str]().union(*(_owner(target) for target in targets))


def _owner(target: ast.expr) -> frozenset[str]:
    """The name, or the last attribute, that a change of ``target`` changes."""
    match target:
        case ast.Name():
            return frozenset({target.id})
        case ast.Attribute():
            return frozenset({f".{target.attr}"})
        case ast.Subscript() | ast.Starred():
            return _owner(target.value)
        case ast.Tuple() | ast.List():
            return frozenset[str]().union(*(_owner(item) for item in target.elts))
        case _:
            return names_read(target)


def _calls(
    program: Program, module: Module, node: ast.AST, results: frozenset[str]
) -> Iterable[Flow]:
    for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
        given = (*call.args, *(k.value for k in call.keywords))
        # A call may change the object whose method it is (Table 4.2, rules 1 and 4), and what it
        # is handed by name (rule 5 gives no estimate).
        changed = {a.id for a in given if isinstance(a, ast.Name)}
        if isinstance(call.func, ast.Attribute):
            changed |= _owner(call.func.value)
        if module.flor_call(call) is None:
            yield Flow(frozenset(changed), names_read(call))
        for _, function in program.called(module, call):
            yield from _call(call, function, results)


def _call(call: ast.Call, function: Function, results: frozenset[str]) -> Iterable[Flow]:
    """Arguments flow into parameters and back (they may be changed), and returns into results."""
    spec = function.args
    parameters = [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    given = frozenset[str]().union(
        *(names_read(a) for a in (*call.args, *(k.value for k in call.keywords)))
    )
    if isinstance(call.func, ast.Attribute):
        given |= names_read(call.func.value)
    yield Flow(frozenset(parameters), given)
    yield Flow(given, frozenset(parameters))
    for node in ast.walk(function):
        if isinstance(node, (ast.Return, ast.Yield)) and node.value is not None:
            yield Flow(results, names_read(node.value))
