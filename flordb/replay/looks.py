"""Hindsight statements that only look: `flor.log("h", loss.item())` draws no random number.

Copying the states of the generators around each statement takes longer than many a step of a
training. So it is left out where nothing but this happens: variables of known types are read, also
out of attributes, lists and dicts, and asked for what numbers, arrays and tensors compute by
themselves. The source says what is read (`operands`), and the values say each time whether
somebody else's code could run (`only_look`).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import flordb

_METHODS = frozenset(
    (
        *("item", "tolist", "sum", "mean", "norm", "std", "var", "max", "min", "abs", "argmax"),
        *("detach", "cpu", "numpy", "float", "double", "int", "long", "numel", "square", "sqrt"),
    )
)
_ATTRIBUTES = frozenset(("grad", "data", "shape", "T"))
_BUILTINS = {float, int, len, abs, round, str, bool}
_MOST_ITEMS = 16


def operands(body: list[ast.stmt]) -> list[ast.expr]:
    """The log function of a statement, and what it reads, as `only_look` takes it; nothing where
    the statement does more than to look, or there are several."""
    match body:
        case [ast.Expr(ast.Call(ast.Name() | ast.Attribute(ast.Name()) as log, [name, value], []))]:
            found: dict[str, ast.expr] = {}
            if isinstance(name, ast.Constant) and _looks(value, found):
                return [log, *found.values()]
    return []


def only_look(log: Any, *places: tuple[Any, ...]) -> bool:
    """Whether to log these runs nobody's code.

    Parameters: ``places``, each a variable's value and the way from there: a string for an
    attribute, a tuple of one for an item.
    """
    return log is flordb.log and all(_known_at(*place) for place in places)


def _looks(node: ast.expr, found: dict[str, ast.expr]) -> bool:
    """Whether an expression only looks; what it reads is gathered. All of it is evaluated whatever
    the rest is, so that it can be evaluated before."""

    def all_look(*nodes: ast.expr) -> bool:
        return all(_looks(each, found) for each in nodes)

    match node:
        case ast.Constant():
            return True
        case ast.Attribute(value, name) if name in _ATTRIBUTES:
            return _looks(value, found)
        case ast.Name() | ast.Attribute() | ast.Subscript():
            place = _place(node)
            if place is not None:
                found[ast.unparse(node)] = ast.Tuple(place, ast.Load())
            return place is not None
        case ast.BinOp(left, _, right) | ast.Compare(left, [_], [right]):
            return all_look(left, right)
        case ast.UnaryOp(_, operand):
            return _looks(operand, found)
        case ast.Tuple(parts) | ast.List(parts):
            return all_look(*parts)
        case ast.Call(ast.Attribute(value, name), arguments, []):
            return name in _METHODS and all_look(value, *arguments)
        case ast.Call(ast.Name() as function, arguments, []):
            return all_look(function, *arguments)
    return False


def _place(node: ast.expr) -> list[ast.expr] | None:
    match node:
        case ast.Name():
            return [node]
        case ast.Attribute(value, name):
            outer, step = _place(value), ast.Constant(name)
            return None if outer is None else [*outer, step]
        case ast.Subscript(value, ast.Constant() | ast.UnaryOp(ast.USub(), ast.Constant()) as key):
            outer, item = _place(value), ast.Tuple([key], ast.Load())
            return None if outer is None else [*outer, item]
    return None


def _known_at(value: Any, *way: str | tuple[Any]) -> bool:
    for step in way:
        try:
            value = _attribute(value, step) if isinstance(step, str) else _item(value, *step)
        except (LookupError, TypeError):
            return False
    return _is_known(value)


def _attribute(owner: Any, name: str) -> Any:
    """An attribute that is in the object itself. Raises LookupError where code could give it."""
    kind: Any = type(owner)
    if kind is ModuleType:
        return vars(owner)[name]
    if kind.__getattribute__ is not object.__getattribute__:
        raise LookupError(name)
    of_class = next((vars(c)[name] for c in kind.__mro__ if name in vars(c)), None)
    if hasattr(type(of_class), "__get__"):
        raise LookupError(name)
    own = vars(owner) if hasattr(owner, "__dict__") else {}
    if name in own:
        return own[name]
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(owner, torch.nn.Module):
        raise LookupError(name)
    if kind.__getattr__ is not torch.nn.Module.__getattr__:
        raise LookupError(name)
    return {**own["_parameters"], **own["_buffers"], **own["_modules"]}[name]


def _item(owner: Any, key: Any) -> Any:
    if type(owner) not in (list, tuple, dict):
        raise LookupError(key)
    return owner[key]


def _is_known(value: Any) -> bool:
    kind = type(value)
    if kind in (float, int, bool, str, type(None)):
        return True
    if kind in (tuple, list):
        items: Sequence[Any] = value
        return len(items) <= _MOST_ITEMS and all(_is_known(item) for item in items)
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and kind in (torch.Tensor, torch.nn.Parameter):
        return True
    if numpy is not None and (kind is numpy.ndarray or isinstance(value, numpy.generic)):
        return bool(value.dtype.kind != "O" and kind.__module__ == "numpy")
    return kind in (type, type(len)) and value in _BUILTINS
