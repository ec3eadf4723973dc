"""The objects whose state a snapshot keeps: what kind each is, and which others are below it.

Objects with an identity that others may refer to (tensors, modules, optimizers, containers,
instances of the project's classes, …) are *anchors*. Each has a path, by which a replay finds its
live counterpart, and a number, by which the pickles of others refer to it.
"""

from __future__ import annotations

import argparse
import collections
import copyreg
import enum
import io
import random
import sys
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from types import (
    BuiltinFunctionType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

from flordb.record.reach import Path, Step

MOST_ELEMENTS = 10_000
"""Of larger containers the elements are no anchors."""

ATOMS = (type(None), bool, int, float, complex, str, bytes, range, type, type(...), slice)
_METHODS = (MethodType, BuiltinFunctionType, MethodWrapperType)
CONTAINERS = (
    *(list, dict, set, bytearray),
    *(collections.deque, collections.OrderedDict, collections.defaultdict, collections.Counter),
)
_FILES = (io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO)
_RECORDS = (
    *(argparse.Namespace, SimpleNamespace),
    *(collections.UserDict, collections.UserList, collections.ChainMap),
)
"""Classes of Python's own that are no more than their attributes."""
_SPANS = frozenset(("module", "optimizer"))
_NO_ANCHORS = (*ATOMS, ModuleType, enum.Enum)

Kinds = dict[type, tuple[tuple[type, ...], str]]
"""What objects of a class are to a snapshot, where that follows from the classes it is made of,
which are these."""


@dataclass(slots=True)
class Anchor:
    """``owner``: the path of the library's object around it, whose code may look at it unseen."""

    kind: str
    path: Path
    value: Any
    owner: Path | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """The anchors from ``first`` until ``end`` are those below a module or an optimizer. ``tree``
    is what was known of them."""

    path: Path
    first: int
    end: int
    tree: Any


class Walk:
    """Finds the anchors below the roots, each once, parents before their children.

    Parameters: ``is_project``, whether a source file is the project's; ``find_tree`` is asked for
    what is known below a module or an optimizer (path, object, number, numbers by ids); ``kinds``,
    what is known of classes, to which this adds.
    """

    def __init__(
        self,
        is_project: Callable[[str], bool],
        find_tree: Callable[[Path, Any, int, dict[int, int]], Any],
        kinds: Kinds,
    ) -> None:
        self.is_project = is_project
        self.anchors: list[Anchor] = []
        self.numbers: dict[int, int] = {}
        self.spans: list[Span] = []
        self._kinds: dict[type, str] = {}
        self._known = kinds
        self._find_tree = find_tree
        self._in_span = False

    def visit(self, value: Any, path: Path) -> None:
        waiting: list[tuple[Any, Path, Path | None]] = [(value, path, None)]
        while waiting:
            value, path, owner = waiting.pop()
            if id(value) in self.numbers or isinstance(value, _NO_ANCHORS):
                continue
            kind = self.classify(value)
            if kind in _SPANS and not self._in_span:
                self._span(value, path)
                continue
            if kind not in _PASSED_THROUGH:
                self.numbers[id(value)] = len(self.anchors)
                self.anchors.append(Anchor(kind, path, value, owner))
            if kind == "instance" and owner is None and not self._is_of_project(type(value)):
                owner = path
            children = [(c, (*path, *steps), owner) for steps, c in children_of(kind, value)]
            waiting.extend(reversed(children))

    def _span(self, value: Any, path: Path) -> None:
        first = len(self.anchors)
        tree = self._find_tree(path, value, first, self.numbers)
        if tree is None:
            self._in_span = True
            self.visit(value, path)
            self._in_span = False
        else:
            self.anchors.extend(tree.anchors)
            self.numbers.update(tree.numbers)
        self.spans.append(Span(path, first, len(self.anchors), tree))

    def anchor_of(self, value: Any) -> int | None:
        number = self.numbers.get(id(value))
        if number is None or self.anchors[number].value is not value:
            return None
        return number

    def classify(self, value: Any) -> str:
        kind = type(value)
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = self._kind_of(kind)
        if found == "tensor":
            return "tensor" if plain_tensor(sys.modules["torch"], value) else "object"
        if found == "array":
            return "array" if plain_array(sys.modules["numpy"], value) else "object"
        if found == "function" and _is_found_by_name(value):
            return "code"
        return found

    def _kind_of(self, kind: type) -> str:
        """What objects of a type are to a snapshot, as far as their type tells."""
        bases, found = self._known.get(kind, ((), ""))
        if bases is kind.__mro__:
            return found
        by_bases = _kind_by_bases(kind)
        if by_bases is not None:
            if len(self._known) > _MOST_KINDS:
                self._known.clear()
            self._known[kind] = kind.__mro__, by_bases
            return by_bases
        if self._is_of_project(kind):
            return _kind_of_own(kind)
        if all(callable(getattr(kind, name, None)) for name in ("state_dict", "load_state_dict")):
            return "stateful"
        return "instance" if kind in _RECORDS or _is_its_attributes(kind) else "object"

    def _is_of_project(self, kind: type) -> bool:
        module = sys.modules.get(kind.__module__)
        return self.is_project(getattr(module, "__file__", None) or "")


def _kind_by_bases(kind: type) -> str | None:
    torch = sys.modules.get("torch")
    if torch is not None:
        found = _torch_kind(torch, kind)
        if found is not None:
            return found
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if issubclass(kind, numpy.ndarray):
            return "array"
        if issubclass(kind, (numpy.random.Generator, numpy.random.RandomState)):
            return "generator"
    if issubclass(kind, random.Random):
        return "generator"
    if kind in CONTAINERS:
        return "container"
    if kind is weakref.ref:
        return "weakref"
    if issubclass(kind, (tuple, partial)):
        return "tuple" if issubclass(kind, tuple) else "partial"
    if kind is FunctionType:
        return "function"
    if kind in _METHODS:
        return "method"
    return "file" if kind in _FILES else None


_MOST_KINDS = 10_000

_PASSED_THROUGH = frozenset(("tuple", "partial", "method", "code"))
"""Made anew with what refers to them; what they refer to has an identity."""


def _kind_of_own(kind: type) -> str:
    """What objects of a class of the project's are: all of their attributes, whatever their
    ``state_dict`` says, unless a class written in C is below it."""
    base = next((b for b in kind.__mro__ if not b.__flags__ & _IS_MADE_BY_CLASS), object)
    if base is object:
        reduces = (getattr(kind, name) for name in ("__reduce__", "__reduce_ex__"))
        own = all(isinstance(r, FunctionType) or r in _REDUCE for r in reduces)
        return "instance" if own else "object"
    container = next((b for b in kind.__mro__ if b in CONTAINERS), None)
    if container and getattr(kind, "__reduce__", None) is getattr(container, "__reduce__", None):
        return "container"
    return "object"


_IS_MADE_BY_CLASS = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_REDUCE: tuple[Any, ...] = (object.__reduce__, object.__reduce_ex__)


def _is_its_attributes(kind: type) -> bool:
    """Whether a library's object is no more than its attributes, as far as pickling it goes."""
    return (
        kind.__module__.partition(".")[0] not in sys.stdlib_module_names
        and all(base.__flags__ & _IS_MADE_BY_CLASS for base in kind.__mro__[:-1])
        and getattr(kind, "__reduce__", None) in _REDUCE
        and getattr(kind, "__reduce_ex__", None) in _REDUCE
        and getattr(kind, "__getstate__", None) is getattr(object, "__getstate__", None)
        and not any(hasattr(kind, name) for name in _OWN_WAYS)
        and kind not in copyreg.dispatch_table
    )


_OWN_WAYS = ("__setstate__", "__getnewargs__", "__getnewargs_ex__")


def _is_found_by_name(function: FunctionType) -> bool:
    """Whether a function is what its module has under its name."""
    found: Any = sys.modules.get(function.__module__ or "")
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


def _torch_kind(torch: Any, kind: type) -> str | None:
    if issubclass(kind, torch.Tensor):
        return "tensor"
    if issubclass(kind, torch.jit.ScriptModule):
        return "scripted"
    if issubclass(kind, torch.nn.Module):
        return "module"
    if issubclass(kind, torch.optim.Optimizer):
        return "optimizer"
    if issubclass(kind, torch.Generator):
        return "generator"
    if issubclass(kind, torch.utils.data.DataLoader):
        return "loader"
    if kind is torch.utils.hooks.RemovableHandle:
        return "handle"
    return None


def plain_tensor(torch: Any, value: Any) -> bool:
    return (
        type(value) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_meta
        and not value.is_inference()
    )


def is_parameter(tensor: Any) -> bool:
    torch = sys.modules["torch"]
    if type(tensor) is torch.Tensor:  # torch asks in Python, which takes longer
        return bool(getattr(tensor, "_is_param", False))
    return isinstance(tensor, torch.nn.Parameter)


OF_TENSOR = "an attribute of the tensor "
"""How the reason begins for which such an attribute is missing in a snapshot."""


def attributes_not_kept(tensor: Any) -> list[str]:
    """The attributes that were put on a plain tensor, of which a snapshot keeps none. Marks of
    libraries, which say what it is for, do not count."""
    return [
        name
        for name, value in tensor.__dict__.items()
        if not (type(value) is bool and (name.startswith("_") or name == "persistent"))
    ]


def plain_array(numpy: Any, value: Any) -> bool:
    return type(value) is numpy.ndarray and not value.dtype.hasobject


def children_of(kind: str, value: Any) -> Iterator[tuple[tuple[Step, ...], Any]]:
    """The objects directly below one, with the steps that lead to them."""
    if kind in ("container", "tuple"):
        yield from _elements(value)
    elif kind == "module":
        for group in ("_parameters", "_buffers", "_modules"):
            for name, child in getattr(value, group).items():
                yield (("a", group), ("i", name)), child
        for name, child in own_attributes(value).items():
            yield (("a", name),), child
    elif kind == "instance":
        for name, child in attributes_of(value).items():
            yield (("a", name),), child
    elif kind == "method":
        yield (("a", "__self__"),), value.__self__
    elif kind == "partial":
        for name in ("func", "args", "keywords"):
            yield (("a", name),), getattr(value, name)
    elif kind in ("function", "code"):
        for number, cell in enumerate(value.__closure__ or ()):
            with suppress(ValueError):  # not bound yet
                yield (
                    (("a", "__closure__"), ("i", number), ("a", "cell_contents")),
                    (cell.cell_contents),
                )
    elif kind == "optimizer":
        for g, group in enumerate(value.param_groups):
            for p, parameter in enumerate(group["params"]):
                yield (("a", "param_groups"), ("i", g), ("i", "params"), ("i", p)), parameter
        for name, child in optimizer_attributes(value).items():
            yield (("a", name),), child
    elif kind == "stateful":
        # A scheduler changes its optimizer, and through it the model (4.3).
        if "optimizer" in getattr(value, "__dict__", {}):
            yield (("a", "optimizer"),), value.optimizer
    elif kind == "loader":
        yield from _parts_of_loader(value)


def _elements(value: Any) -> Iterator[tuple[tuple[Step, ...], Any]]:
    for name, child in getattr(value, "__dict__", {}).items():
        yield (("a", name),), child
    if isinstance(value, (bytearray, set)) or len(value) > MOST_ELEMENTS:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in items:
        if isinstance(key, (str, int)):
            yield (("i", key),), child


def _parts_of_loader(loader: Any) -> Iterator[tuple[tuple[Step, ...], Any]]:
    for holder in ("sampler", "batch_sampler"):
        part = getattr(loader, holder, None)
        for name in ("generator", "sampler"):
            child = getattr(part, name, None)
            inner = getattr(child, "generator", None)
            if name == "generator" and child is not None:
                yield (("a", holder), ("a", name)), child
            elif inner is not None:
                yield (("a", holder), ("a", name), ("a", "generator")), inner
    if getattr(loader, "generator", None) is not None:
        yield (("a", "generator"),), loader.generator


def own_attributes(module: Any) -> dict[str, Any]:
    """A torch module's attributes without torch's own bookkeeping; ``training`` is one of them."""
    internal = _internal_attributes()
    return {name: value for name, value in vars(module).items() if name not in internal}


@cache
def _internal_attributes() -> frozenset[str]:
    return frozenset(vars(sys.modules["torch"].nn.Module()).keys() - {"training"})


def attributes_of(value: Any) -> dict[str, Any]:
    """All attributes that an object has of its own, also those in ``__slots__``."""
    found = dict(getattr(value, "__dict__", {}))
    for name in slots_of(type(value)):
        with suppress(AttributeError):  # not set yet
            found[name] = getattr(value, name)
    return found


def slots_of(kind: type) -> tuple[str, ...]:
    """The names of the attributes that objects of a class keep in slots, without a dict."""
    return _slots_of(kind)


@cache
def _slots_of(kind: Hashable) -> tuple[str, ...]:
    names: list[str] = []
    for base in getattr(kind, "__mro__", ())[:-1]:
        declared = vars(base).get("__slots__", ())
        for name in (declared,) if isinstance(declared, str) else declared:
            is_private = name.startswith("__") and not name.endswith("__")
            names.append(f"_{base.__name__.lstrip('_')}{name}" if is_private else name)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def optimizer_attributes(optimizer: Any) -> dict[str, Any]:
    """What an optimizer keeps besides its state and its groups: LBFGS, the project's own ones."""
    internal = _attributes_of_optimizers()
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in internal and not isinstance(value, (FunctionType, *_METHODS))
    }


@cache
def _attributes_of_optimizers() -> frozenset[str]:
    torch = sys.modules["torch"]
    plain = torch.optim.SGD([torch.nn.Parameter(torch.empty(0))], lr=0.1)
    return frozenset((*vars(plain), "_opt_called", "_step_count"))
