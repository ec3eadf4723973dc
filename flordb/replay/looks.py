"""Hindsight statements that only look: `flor.log("h", loss.item())` draws no random number.

Copying the states of the generators around each statement takes longer than many a step of a
training. So it is left out where nothing but this happens: variables of known types are read, also
out of attributes, lists and dicts, and asked for what numbers, arrays and tensors compute by
themselves, also one after the other in a comprehension: `sum(p.grad.norm() for p in
net.parameters())`. The source says what is read (`operands`), and the values say each time whether
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
_BUILTINS = {float, int, len, abs, round, str, bool, sum, max, min, any, all, sorted}
_OF_MODULES = ("parameters", "named_parameters", "buffers", "named_buffers")
_WALKING = (*_OF_MODULES, "_named_members", "named_modules", "__getattr__", "__getattribute__")
_MOST_ITEMS = 16
_MOST_EACH = 10_000

Step = str | tuple[Any, ...]
"""From a value to one in it: a string for an attribute, ``(key,)`` for an item, ``()`` for each
item, ``(method, None)`` for each that a method of a module gives."""


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

    Parameters: ``places``, each a variable's value and the steps from there.
    """
    return log is flordb.log and all(_known_at(*place) for place in places)


def _looks(node: ast.expr, found: dict[str, ast.expr], items: frozenset[str] = frozenset()) -> bool:
    """Whether an expression only looks; what it reads is gathered. All of it is evaluated whatever
    the rest is, so that it can be evaluated before.

    Parameters: ``items``, variables of a comprehension around it.
    """

    def all_look(*nodes: ast.expr) -> bool:
        return all(_looks(each, found, items) for each in nodes)

    match node:
        case ast.Constant():
            return True
        case ast.Name(name) if name in items:
            return True
        case ast.Attribute(value, name) if name in _ATTRIBUTES:
            return all_look(value)
        case ast.Name() | ast.Attribute() | ast.Subscript():
            return _gather(_place(node, items), found, node)
        case ast.BinOp(left, _, right) | ast.Compare(left, [_], [right]):
            return all_look(left, right)
        case ast.UnaryOp(_, operand):
            return all_look(operand)
        case ast.Tuple(parts) | ast.List(parts):
            return all_look(*parts)
        case ast.Call(ast.Attribute(value, name), arguments, []):
            return name in _METHODS and all_look(value, *arguments)
        case ast.Call(ast.Name() as function, arguments, []):
            return all_look(function, *arguments)
        case ast.GeneratorExp(part, [each]) | ast.ListComp(part, [each]) if not items:
            names = _targets(each.target)
            inside = (part, *each.ifs)
            return (
                _gather(_each(each.iter), found, each.iter, "each ")
                and bool(names)
                and all(_looks(inner, found, names) for inner in inside)
            )
    return False


def _gather(
    place: list[ast.expr] | None, found: dict[str, ast.expr], node: ast.expr, how: str = ""
) -> bool:
    if place is not None:
        found[how + ast.unparse(node)] = ast.Tuple(place, ast.Load())
    return place is not None


def _targets(target: ast.expr) -> frozenset[str]:
    """The variables that a comprehension binds; none where they are not plain names."""
    parts = target.elts if isinstance(target, ast.Tuple) else [target]
    names = [part.id for part in parts if isinstance(part, ast.Name)]
    return frozenset(names) if len(names) == len(parts) else frozenset()


def _each(node: ast.expr) -> list[ast.expr] | None:
    """The place of what a comprehension goes through."""
    step: list[ast.expr] = []
    match node:
        case ast.Call(ast.Attribute(node, name), [], []) if name in _OF_MODULES:
            step = [ast.Constant(name), ast.Constant(None)]
    place = _place(node)
    return None if place is None else [*place, ast.Tuple(step, ast.Load())]


def _place(node: ast.expr, items: frozenset[str] = frozenset()) -> list[ast.expr] | None:
    match node:
        case ast.Name(name) if name not in items:
            return [node]
        case ast.Attribute(value, name):
            outer, step = _place(value, items), ast.Constant(name)
            return None if outer is None else [*outer, step]
        case ast.Subscript(value, ast.Constant() | ast.UnaryOp(ast.USub(), ast.Constant()) as key):
            outer, item = _place(value, items), ast.Tuple([key], ast.Load())
            return None if outer is None else [*outer, item]
    return None


def _known_at(value: Any, *way: Step) -> bool:
    for number, step in enumerate(way, 1):
        try:
            match step:
                case str(name):
                    value = _attribute(value, name)
                case (key,):
                    value = _item(value, key)
                case (method, None):
                    return number == len(way) and _walks(value, method)
                case ():
                    return number == len(way) and _are_known(value)
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
    kind = type(owner)
    if kind in (list, tuple, dict):
        return owner[key]
    torch = sys.modules.get("torch")
    if torch is not None and kind in (torch.nn.Sequential, torch.nn.ModuleList):
        return list(vars(owner)["_modules"].values())[key]
    if torch is not None and kind is torch.nn.ModuleDict:
        return vars(owner)["_modules"][key]
    raise LookupError(key)


def _walks(owner: Any, method: str) -> bool:
    """Whether a method of a module goes through its tensors, and those of the modules below, and
    all of that is torch's own."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(owner, torch.nn.Module) or method in vars(owner):
        return False
    waiting, seen, kinds = [owner], set[int](), set[Any]()
    while waiting:
        module = waiting.pop()
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        kind = type(module)
        if len(seen) > _MOST_EACH or (kind not in kinds and not _is_torchs_walk(kind)):
            return False
        kinds.add(kind)
        own = vars(module)
        tensors = [*own["_parameters"].values(), *own["_buffers"].values()]
        if not all(map(_is_known, tensors)):
            return False
        waiting += own["_modules"].values()
    return True


def _is_torchs_walk(kind: Any) -> bool:
    base = sys.modules["torch"].nn.Module
    return all(getattr(kind, name) is getattr(base, name) for name in _WALKING)


def _are_known(values: Any) -> bool:
    return (
        type(values) in (list, tuple, dict)
        and len(values) <= _MOST_EACH
        and all(map(_is_known, values))
    )


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
