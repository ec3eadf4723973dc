"""What is in an object: all that decides what is pickled of it, or the objects below it."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from operator import itemgetter
from types import FunctionType
from typing import Any

from flordb.record.anchors import (
    CONTAINERS,
    MOST_ELEMENTS,
    children_of,
    optimizer_attributes,
    own_attributes,
    slots_of,
)

_CONSTANTS = frozenset((type(None), bool, int, float, complex, str, bytes, range, type(...)))
_LONGEST_CONSTANT = 10_000

Contents = Callable[[Any], Sequence[Any]]


def is_constant(value: Any, library: Container[Any]) -> bool:
    """Whether a value is what it is for as long as it has its id."""
    kind = type(value)
    if kind in _CONSTANTS:
        return kind not in (str, bytes) or len(value) <= _LONGEST_CONSTANT
    if kind is tuple:
        return len(value) < 100 and all(is_constant(item, library) for item in value)
    return isinstance(value, (FunctionType, type)) and value in library


def contents_of(kind: str, value: Any) -> Contents | None:
    """How to list all that decides what is pickled of an object; None where that isn't known."""
    if kind == "module":
        return _of_module(value)
    if kind == "optimizer":
        return None if optimizer_attributes(value) else _of_optimizer
    if kind == "instance":
        if slots_of(type(value)):
            return None
        return lambda found: [*vars(found).values(), *vars(found)]
    if kind == "container":
        return _of_container(value)
    if kind == "weakref":
        return lambda found: [found()]
    torch = sys.modules["torch"]
    if kind == "object" and type(value) in (torch.dtype, torch.device, torch.layout):
        return lambda found: []
    return None


# Where lists of different things follow one another, dots are between them.


def _of_module(module: Any) -> Contents:
    # At least two names: itemgetter gives one value by itself.
    own_of = itemgetter("training", "training", *own_attributes(module))
    size = len(vars(module))

    def contents(found: Any) -> Sequence[Any]:
        attributes = found.__dict__
        if len(attributes) != size:
            raise LookupError("another attribute")
        own: tuple[Any, ...] = own_of(attributes)
        parameters, buffers = attributes["_parameters"], attributes["_buffers"]
        modules = attributes["_modules"]
        if not (parameters or buffers or modules):
            return own
        values = (*parameters.values(), ..., *buffers.values(), ..., *modules.values())
        return (*own, *values, *parameters, *buffers, *modules)

    return contents


def _of_container(value: Any) -> Contents | None:
    kind = type(value)
    if kind not in CONTAINERS or kind is bytearray or len(value) > MOST_ELEMENTS:
        return None
    if kind is defaultdict:
        return lambda found: [*_of_dict(found), found.default_factory]
    if not issubclass(kind, dict):
        return list
    if not hasattr(value, "__dict__"):
        return _of_dict
    return lambda found: [*_of_dict(found), ..., *vars(found).values(), *vars(found)]


def _of_dict(found: Any) -> list[Any]:
    return [*found.values(), *found]


def _of_optimizer(optimizer: Any) -> list[Any]:
    found = [*optimizer.defaults.values(), *optimizer.defaults, ...]
    attributes = optimizer_attributes(optimizer)
    found += (*attributes.values(), *attributes, ...)
    for group in optimizer.param_groups:
        found += (value for name, value in group.items() if name != "params")
        found += (*group, ..., *group["params"], ...)
    for parameter, state in optimizer.state.items():
        found.append(parameter)
        if type(state) is dict:
            found += (*state.values(), *state, ...)
        else:
            found += (state, ...)
    return found


def children(kind: str) -> Contents:
    """Lists the objects below one. That they are the same says nothing of the object itself."""

    def contents(found: Any) -> list[Any]:
        return list(_flat(child for _, child in children_of(kind, found)))

    return contents


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if type(value) is tuple:
            yield from _flat(value)
        else:
            yield value
