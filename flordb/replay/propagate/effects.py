"""Whether running new code a first time, or old code a second time, could change a training."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from flordb.replay.propagate.names import READS_ONLY, parameters, root_of

_READS = """
abs all any bool bytes complex dict divmod enumerate float format frozenset getattr hasattr hash id
int isinstance len list map max min ord pow range repr reversed round set sorted str sum tuple type
zip print chr slice filter
"""
_ACTING = """
backward step zero_grad train eval requires_grad_ load_state_dict cuda set_grad_enabled manual_seed
seed shuffle remove unlink rmtree makedirs mkdir system save write fill_ copy_ zero_ add_ mul_
"""
_DRAWING = """
rand randn randint randperm random choice choices sample normal uniform multinomial bernoulli
dropout permutation rand_like randn_like
"""
_PURE_BUILTINS = frozenset(_READS.split())
_PURE_MODULES = frozenset({"math", "np", "numpy", "torch", "F", "os", "json", "re", "time"})
_ACTS = frozenset(_ACTING.split())
_DRAWS = frozenset(_DRAWING.split())
_HARMLESS_HERE = frozenset({"cuda", "save", "write", "mkdir", "makedirs"})
"""On a value that is logged, these move it to a device or write it to a file."""


def effect_of(node: ast.AST) -> str | None:
    """What in an expression may change something or draw a random number; None where nothing does.

    Only calls that are known to read are taken for harmless.
    """
    for part in ast.walk(node):
        if isinstance(part, (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)):
            return ast.unparse(part)
        if isinstance(part, ast.Call) and not _is_harmless(part):
            return ast.unparse(part.func) + "()"
    return None


def effect_in_log(node: ast.AST) -> str | None:
    """What in a log statement acts on the training: a step, a change of mode or in place.

    Functions of unknown effect may be called: the user wrote the statement to be run in hindsight.
    Random draws may be too: the replay puts the generators' state back.
    """
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and _last_name(part) in _ACTS - _HARMLESS_HERE:
            return ast.unparse(part.func) + "()"
    return None


def effect_in_helper(function: ast.AST) -> str | None:
    """What in a helper acts on the training: steps, draws, globals, stores into arguments."""
    given = parameters(function) if isinstance(function, _FUNCTIONS) else set()
    for part in ast.walk(function):
        if isinstance(part, (ast.Global, ast.Nonlocal)):
            return f"`global` or `nonlocal` {', '.join(part.names)}"
        if isinstance(part, ast.Call) and _last_name(part) in _ACTS | _DRAWS:
            return ast.unparse(part.func) + "()"
        stored = list(_stored_into(part))
        if any(root in given for root in stored):
            return f"a store into `{stored[0]}`"
    return None


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _stored_into(node: ast.AST) -> Iterator[str | None]:
    if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
        root = root_of(node)
        if root != "self":
            yield root


def _is_harmless(call: ast.Call) -> bool:
    name = _last_name(call)
    if isinstance(call.func, ast.Name):
        return name in _PURE_BUILTINS
    if name in _DRAWS or name in _ACTS:
        return False
    return name in READS_ONLY or (
        root_of(call.func) in _PURE_MODULES and "random" not in (ast.unparse(call.func))
    )


def _last_name(call: ast.Call) -> str:
    func = call.func
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
