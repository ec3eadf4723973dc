"""The objects whose state a snapshot keeps: what kind each is, and which others are below it.

Objects with an identity that others may refer to (tensors, modules, optimizers, containers,
instances of the project's classes, …) are *anchors*. Each has a path, by which a replay finds its
live counterpart, and a number, by which the pickles of others refer to it.
"""

from __future__ import annotations

import collections
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from flordb.record.reach import Path, Step

MOST_ELEMENTS = 10_000
"""Of larger containers the elements are no anchors."""

ATOMS = (type(None), bool, int, float, complex, str, bytes, range, type, type(...), slice)
_CODE = (FunctionType, BuiltinFunctionType, MethodType, ModuleType)
_CONTAINERS = (
    *(list, dict, set, bytearray),
    *(collections.deque, collections.OrderedDict, collections.defaultdict, collections.Counter),
)
_SPANS = frozenset(("module", "optimizer"))


@dataclass(slots=True)
class Anchor:
    kind: str
    path: Path
    value: Any


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
    what is known below a module or an optimizer (path, object, number, numbers by ids).
    """

    def __init__(
        self,
        is_project: Callable[[str], bool],
        find_tree: Callable[[Path, Any, int, dict[int, int]], Any],
    ) -> None:
        self.is_project = is_project
        self.anchors: list[Anchor] = []
        self.numbers: dict[int, int] = {}
        self.spans: list[Span] = []
        self._kinds: dict[type, str] = {}
        self._find_tree = find_tree
        self._in_span = False

    def visit(self, value: Any, path: Path) -> None:
        waiting: list[tuple[Any, Path]] = [(value, path)]
        while waiting:
            value, path = waiting.pop()
            if isinstance(value, (*ATOMS, *_CODE)) or id(value) in self.numbers:
                continue
            kind = self.classify(value)
            if kind in _SPANS and not self._in_span:
                self._span(value, path)
                continue
            if kind != "tuple":
                self.numbers[id(value)] = len(self.anchors)
                self.anchors.append(Anchor(kind, path, value))
            children = [(child, (*path, *steps)) for steps, child in children_of(kind, value)]
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
            found = self._kinds[kind] = self.kind_of(kind)
        if found == "tensor":
            return "tensor" if plain_tensor(sys.modules["torch"], value) else "object"
        if found == "array":
            return "array" if plain_array(sys.modules["numpy"], value) else "object"
        if found == "instance" and not hasattr(value, "__dict__"):
            return "object"
        return found

    def kind_of(self, kind: type) -> str:
        """What objects of a type are to a snapshot, as far as their type tells."""
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
        if kind in _CONTAINERS:
            return "container"
        if kind is tuple:
            return "tuple"
        if all(callable(getattr(kind, name, None)) for name in ("state_dict", "load_state_dict")):
            return "stateful"
        module = sys.modules.get(kind.__module__)
        if self.is_project(getattr(module, "__file__", None) or ""):
            return "instance"
        return "object"


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
    return None


def plain_tensor(torch: Any, value: Any) -> bool:
    return (
        type(value) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.device.type != "meta"
        and not value.is_inference()
    )


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
        for name, child in vars(value).items():
            yield (("a", name),), child
    elif kind == "optimizer":
        for g, group in enumerate(value.param_groups):
            for p, parameter in enumerate(group["params"]):
                yield (("a", "param_groups"), ("i", g), ("i", "params"), ("i", p)), parameter
    elif kind == "stateful":
        # A scheduler changes its optimizer, and through it the model (4.3).
        if "optimizer" in getattr(value, "__dict__", {}):
            yield (("a", "optimizer"),), value.optimizer
    elif kind == "loader":
        yield from _parts_of_loader(value)


def _elements(value: Any) -> Iterator[tuple[tuple[Step, ...], Any]]:
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
