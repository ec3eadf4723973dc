"""What is in an object: all that decides what is pickled of it, or the objects below it."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from operator import itemgetter
from types import CodeType, FunctionType, MethodType, ModuleType
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
    if kind is ModuleType:
        return True  # pickled as its name
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
    if kind == "function":
        return _of_function(value)
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


def _of_function(function: FunctionType) -> Contents | None:
    """A function that no module has, such as `get_ema_multi_avg_fn` returns: its code, and all that
    cloudpickle takes along for it."""
    if "<locals>" not in function.__qualname__:
        return None
    code = function.__code__
    names = tuple(sorted(_names_in(code)))

    def contents(found: Any) -> list[Any]:
        if found.__code__ is not code:
            raise LookupError("another code")
        space, keywords, notes = found.__globals__, found.__kwdefaults__, found.__annotations__
        try:
            cells = [cell.cell_contents for cell in found.__closure__ or ()]
        except ValueError as error:
            raise LookupError("a variable that is not bound yet") from error
        used = [space.get(name, ...) for name in names]
        listed = [found.__name__, found.__qualname__, found.__module__, found.__doc__]
        for mapping in (keywords or {}, notes, vars(found)):
            listed += (*mapping.values(), *mapping, ...)
        listed += (*(found.__defaults__ or ()), ..., *cells, ..., *used)
        if any(isinstance(value, ModuleType) for value in (*cells, *used)):
            # Those of its submodules that are imported are named in the pickle.
            listed.append(_same_number(len(sys.modules)))
        return list(chain.from_iterable(map(_apart, listed)))

    return contents


def _apart(value: Any) -> tuple[Any, ...]:
    """A method is made anew with what refers to it: its function and its object count."""
    is_method = type(value) is MethodType
    return (value.__func__, value.__self__, ...) if is_method else (value,)


@lru_cache(maxsize=16)
def _same_number(number: int) -> int:
    """An object of its own for each number, to be compared by its id."""
    return number


_MODULE_NAMES = frozenset(("__package__", "__name__", "__path__", "__file__"))


def _names_in(code: CodeType) -> frozenset[str]:
    """The names of globals (and attributes) in a function and in those that it defines."""
    inner = (_names_in(const) for const in code.co_consts if isinstance(const, CodeType))
    return _MODULE_NAMES.union(code.co_names, *inner)


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
    states = tuple(optimizer.state.values())
    found += (*optimizer.state, ...)
    if set(map(type, states)) <= {dict}:
        for listed in (map(dict.values, states), states):
            found += (*chain.from_iterable(listed), ...)
        found += map(len, states)
    else:
        for state in states:
            found += (*state.values(), *state, ...) if type(state) is dict else (state, ...)
    return found


def children(kind: str) -> Contents:
    """Lists the objects below one. That they are the same says nothing of the object itself."""

    def contents(found: Any) -> list[Any]:
        return list(_flat(child for _, child in children_of(kind, found)))

    return contents


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """Instead of what is made anew with what refers to it: what it refers to."""
    for value in values:
        kind = type(value)
        if kind is tuple:
            yield from _flat(value)
        elif kind is MethodType:
            yield value.__func__
            yield value.__self__
        elif kind is partial:
            yield from _flat((value.func, value.args, value.keywords))
        else:
            yield value
