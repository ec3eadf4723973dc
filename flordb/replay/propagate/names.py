"""Which names a piece of code reads from outside, binds, and may change."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator

BUILTINS = frozenset(dir(builtins)) | {"__file__", "__name__", "__doc__", "__builtins__"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

_QUIET = """
T abs add_histogram add_image add_images add_scalar add_scalars add_text all any argmax argmin
argsort astype basename bool buffers capitalize center children clamp clone contiguous copy
count cpu cumsum debug decode detach device_count diff difference dim dirname dot double
element_size encode endswith eq exists exp expand flat flatten float format gather get
get_device get_last_lr getcwd gt half index info int intersection is_available is_cuda isdigit
isdir isfile isinf isnan isoformat item items join keys ljust log long lower lstrip lt matmul
max max_memory_allocated mean mean_ median memory_allocated memory_reserved min modules
monotonic named_buffers named_children named_modules named_parameters ne nelement nonzero norm
now numel numpy parameters perf_counter permute pow prod ravel replace reshape rjust round
rsplit rstrip shape sigmoid size softmax sort split sqrt squeeze startswith state_dict std
strftime strip sum t time title to today tolist topk total_seconds transpose type union unique
unsqueeze upper values var view warning zfill
"""
READS_ONLY = frozenset(_QUIET.split())
"""Methods that change nothing that a training reads (the logging calls among them)."""


def header(node: ast.AST) -> ast.AST:
    """A statement without its blocks; functions and classes whole."""
    if isinstance(node, (ast.If, ast.While)):
        return node.test
    if isinstance(node, (ast.For, ast.AsyncFor)):
        return ast.Tuple([node.iter, node.target], ast.Load())
    if isinstance(node, (ast.With, ast.AsyncWith)):
        parts = [p for i in node.items for p in (i.context_expr, i.optional_vars) if p is not None]
        return ast.Tuple(parts, ast.Load())
    if isinstance(node, ast.Match):
        return node.subject
    if isinstance(node, (ast.Try, ast.TryStar)):
        return ast.Pass()
    return node


def reads(node: ast.AST) -> set[str]:
    """The names that a piece of code loads from outside itself, built-ins included."""
    return set(_reads(node, frozenset()))


def outside(node: ast.AST) -> set[str]:
    """What `reads` finds, without Python's built-in names."""
    return reads(node) - BUILTINS


def surely_reads(node: ast.AST) -> set[str]:
    """The names that a statement reads whenever it runs, its blocks and built-ins left out."""
    return set(_surely_reads(header(node))) - BUILTINS


def _surely_reads(node: ast.AST) -> Iterator[str]:
    """Not what is read under a condition, once for each of what may be nothing, or later."""
    parts: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Assert)):
        return
    elif isinstance(node, ast.BoolOp):
        parts = node.values[:1]
    elif isinstance(node, ast.IfExp):
        parts = [node.test]
    elif isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators[:1]]
    elif isinstance(node, _COMPREHENSIONS):
        parts = [node.generators[0].iter]
    elif isinstance(node, ast.AugAssign):
        parts = [_loaded(node.target), node.value]
    for part in parts:
        yield from _surely_reads(part)


def _reads(node: ast.AST, inner: frozenset[str]) -> Iterator[str]:
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load) and node.id not in inner:
            yield node.id
        return
    if isinstance(node, ast.AugAssign):
        yield from _reads(_loaded(node.target), inner)
    if isinstance(node, _FUNCTIONS):
        yield from _function_reads(node, inner)
        return
    if isinstance(node, _COMPREHENSIONS):
        inner |= {name for g in node.generators for name in binds(g.target)}
    if isinstance(node, ast.ClassDef):
        inner |= binds_in(node.body)
    for child in ast.iter_child_nodes(node):
        yield from _reads(child, inner)


def _loaded(target: ast.expr) -> ast.expr:
    """A target that is also read."""
    return ast.Name(target.id, ast.Load()) if isinstance(target, ast.Name) else target


def _function_reads(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, inner: frozenset[str]
) -> Iterator[str]:
    spec = node.args
    for value in (*spec.defaults, *spec.kw_defaults):
        if value is not None:
            yield from _reads(value, inner)
    hidden = inner | parameters(node)
    if isinstance(node, ast.Lambda):
        yield from _reads(node.body, hidden)
        return
    for decorator in node.decorator_list:
        yield from _reads(decorator, inner)
    hidden |= {node.name} | binds_in(node.body)
    for statement in node.body:
        yield from _reads(statement, hidden)


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    """The names of a function's parameters."""
    spec = node.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
    return {a.arg for a in every if a is not None}


def binds(node: ast.AST) -> set[str]:
    """The names that a piece of code binds in the scope it stands in."""
    return set(_binds(node))


def binds_in(statements: list[ast.stmt]) -> set[str]:
    """The names that some statements bind in their scope."""
    return {name for statement in statements for name in _binds(statement)}


def _binds(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store):
            yield node.id
        return
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
        return
    if isinstance(node, ast.Lambda):
        return
    if isinstance(node, _COMPREHENSIONS):
        yield from (n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
        return
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from ((a.asname or a.name).split(".")[0] for a in node.names)
        return
    if isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name
    if isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
        yield node.name
    if isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest
    for child in ast.iter_child_nodes(node):
        yield from _binds(child)


def root_of(node: ast.AST) -> str | None:
    """The variable that an attribute or item is taken from, or None."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def stores(node: ast.AST) -> set[str]:
    """The names that a statement binds, or into whose value it stores an attribute or item."""
    stored = {
        root_of(part)
        for part in ast.walk(node)
        if isinstance(part, (ast.Attribute, ast.Subscript)) and not isinstance(part.ctx, ast.Load)
    }
    return binds(node) | {name for name in stored if name is not None}


def changes(node: ast.AST) -> set[str]:
    """The names whose value a statement may change: bound, stored into, or acted on by a call."""
    found: set[str | None] = set(binds(node))
    for part in ast.walk(node):
        if isinstance(part, (ast.Attribute, ast.Subscript)) and not isinstance(part.ctx, ast.Load):
            found.add(root_of(part))
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            found |= set() if _only_reads(part) else {root_of(part.func)}
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
            handed = [] if _only_reads(part.value) else part.value.args
            found |= {root_of(a) for a in handed}
    return {name for name in found if name is not None}


def hands_on(node: ast.AST, name: str) -> bool:
    """Whether a statement gives the object of a name to others, who may change it."""
    for part in ast.walk(node):
        given: list[ast.expr | None] = []
        if isinstance(part, ast.Call) and not _only_reads(part):
            given = [*part.args, *(keyword.value for keyword in part.keywords)]
        elif isinstance(part, (ast.Assign, ast.AnnAssign, ast.Return, ast.NamedExpr)):
            given = [part.value]
        if any(isinstance(value, ast.Name) and value.id == name for value in given):
            return True
    return False


def _only_reads(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Name):
        return call.func.id in BUILTINS
    return isinstance(call.func, ast.Attribute) and call.func.attr in READS_ONLY
