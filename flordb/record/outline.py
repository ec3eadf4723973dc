"""The contents of all objects of a tree, compared at once.

To look into each object by itself (`tree`) takes Python some microseconds. Here a generation of
objects after the other (the root, what is directly in it, and so on) is listed by a few calls that
run in C, and compared as one piece of memory: the pointers in a tuple. That all are as they were is
a proof that the tree still fits; where they are not, the objects are asked one by one.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import chain, compress, count
from operator import attrgetter, call, itemgetter, methodcaller, ne
from typing import Any, Protocol

from flordb.record.anchors import own_attributes
from flordb.record.contents import Contents, is_constant

_POINTER = ctypes.sizeof(ctypes.c_void_p)
_IS_CPYTHON = sys.implementation.name == "cpython"

_dict_of = attrgetter("__dict__")
_BELOW = ("_parameters", "_buffers", "_modules")
_below = itemgetter(0, 1, 2)
_values = methodcaller("values")
_is_leaf = attrgetter("is_leaf")
_grad = attrgetter("grad")


class Part(Protocol):
    """An object of a tree, and how its contents are listed."""

    kind: str
    listed: Contents
    leaf_ids: list[int]

    def verify(self, value: Any, objects: list[Any], tensors: list[Any]) -> None: ...


class _Changed(Exception):
    """Something is not what it was."""


def pointers(values: tuple[Any, ...]) -> bytes | tuple[int, ...]:
    """The identities of objects, to be compared."""
    if not _IS_CPYTHON:
        return tuple(map(id, values))
    return ctypes.string_at(id(values) + tuple.__basicsize__, len(values) * _POINTER)


def _several(positions: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if len(positions) > 1:
        return itemgetter(*positions)
    return lambda pool: [pool[position] for position in positions]


class _Generation:
    """Objects of a tree that were first met in the same generation.

    Parameters: ``positions``, where in the pool they are; ``parts``, theirs; ``objects``, as they
    are now: first ``modules`` torch modules, then others.
    """

    def __init__(
        self,
        positions: Sequence[int],
        parts: Sequence[Part],
        objects: Sequence[Any],
        library: Container[Any],
    ) -> None:
        self._objects = _several(positions)
        self._parts = parts
        count = self._modules = sum(part.kind == "module" for part in parts)
        self._own = [itemgetter(*_BELOW, *own_attributes(value)) for value in objects[:count]]
        self._lists = [part.listed for part in parts[count:]]
        self._library = library
        self._types = tuple(map(type, objects))
        self._lengths, flat = self._contents(objects)
        self._remember(flat)

    def _remember(self, flat: tuple[Any, ...]) -> None:
        self._known = pointers(flat)
        # Others may get the ids of what is dropped: constants, of which only the id is known, not.
        self._constants = {
            at: value for at, value in enumerate(flat) if is_constant(value, self._library)
        }

    def _contents(self, objects: Sequence[Any]) -> tuple[list[int], tuple[Any, ...]]:
        """How many items there are, object by object, and all of them."""
        spaces = list(map(_dict_of, objects[: self._modules]))
        own: list[tuple[Any, ...]] = list(map(call, self._own, spaces))
        dicts = list(chain.from_iterable(map(_below, own)))
        rest = objects[self._modules :]
        others = [of(value) for of, value in zip(self._lists, rest, strict=True)]
        lengths = [*map(len, spaces), *map(len, dicts), *map(len, others)]
        values = map(_values, dicts)
        return lengths, tuple(chain.from_iterable(chain(own, values, dicts, others)))

    def look(self, pool: list[Any]) -> None:
        """Add what is in these objects to the pool. Raises _Changed."""
        objects = self._objects(pool)
        if tuple(map(type, objects)) != self._types:
            raise _Changed
        lengths, flat = self._contents(objects)
        if lengths != self._lengths:
            raise _Changed
        if pointers(flat) != self._known:
            self._renew(objects, flat)
        pool += flat

    def _renew(self, objects: Sequence[Any], flat: tuple[Any, ...]) -> None:
        """Have those objects pickled anew in which constants differ. Raises _Changed."""
        known: Iterable[int] = (
            memoryview(self._known).cast("P") if isinstance(self._known, bytes) else self._known
        )
        differing = list(compress(count(), map(ne, known, map(id, flat))))
        for at in differing:
            if at not in self._constants or not is_constant(flat[at], self._library):
                raise _Changed
        owners = self._owners(objects)
        for number in {owners[at] for at in differing}:
            self._parts[number].verify(objects[number], _Nowhere(), [])
        self._remember(flat)

    def _owners(self, objects: Sequence[Any]) -> list[int]:
        """For each item the number of the object that it is in."""
        modules = range(self._modules)
        sizes = [len(of(value.__dict__)) for of, value in zip(self._own, objects, strict=False)]
        own = _repeated(modules, sizes)
        below = [number for number in modules for _ in _BELOW]
        lengths = self._lengths[self._modules :]
        dicts = _repeated(below, lengths)
        others = _repeated(count(self._modules), lengths[len(below) :])
        return [*own, *dicts, *dicts, *others]


def _repeated(numbers: Iterable[int], times: Sequence[int]) -> list[int]:
    return [number for number, many in zip(numbers, times, strict=False) for _ in range(many)]


class _Nowhere(list[Any]):
    """Takes objects that are already known."""

    def __setitem__(self, at: Any, value: Any) -> None:
        return


class Outline:
    """The generations of a tree. Parameters: its objects and their parts."""

    def __init__(
        self, objects: Sequence[Any], parts: Sequence[Any], library: Container[Any]
    ) -> None:
        waiting = {id(value): number for number, value in enumerate(objects)}
        pool: list[Any] = [objects[0]]
        self._generations: list[_Generation] = []
        at: dict[int, int] = {}
        met = 0
        while met < len(pool):
            new: list[tuple[int, int]] = []
            for position in range(met, len(pool)):
                i = id(pool[position])
                at.setdefault(i, position)
                if i in waiting:
                    number = waiting.pop(i)
                    if parts[number].kind != "tensor":
                        new.append((number, position))
            met = len(pool)
            if new:
                new.sort(key=lambda found: parts[found[0]].kind != "module")
                generation = _Generation(
                    [position for _, position in new],
                    [parts[number] for number, _ in new],
                    [objects[number] for number, _ in new],
                    library,
                )
                self._generations.append(generation)
                generation.look(pool)
        if waiting:
            raise LookupError("an object that none leads to")
        self._add_tensors(objects, parts, pool, at)

    def _add_tensors(
        self, objects: Sequence[Any], parts: Sequence[Any], pool: list[Any], at: dict[int, int]
    ) -> None:
        numbers = [number for number, part in enumerate(parts) if part.kind == "tensor"]
        own = [at[id(objects[number])] for number in numbers]
        self._tensors = _several(own)
        self._are_leaves = [objects[number].is_leaf for number in numbers]
        leaves = [number for number in numbers if objects[number].is_leaf]
        self._leaves = _several([at[id(objects[number])] for number in leaves])
        self._have_grads = [objects[number].grad is not None for number in leaves]
        grads = {number: len(pool) + nth for nth, number in enumerate(leaves)}
        order: list[int] = []
        for number, part in enumerate(parts):
            if part.kind == "tensor":
                order.append(at[id(objects[number])])
                if number in grads and objects[number].grad is not None:
                    order.append(grads[number])
            else:
                order += (at[i] for i in part.leaf_ids)
        self._in_order = _several(order)
        self._anchors = _several([at[id(value)] for value in objects])

    def look(self, root: Any) -> tuple[Sequence[Any], Sequence[Any]] | None:
        """The objects of the tree and its tensors, still to be verified. None: not as they were.

        Raises what looking into an object raises.
        """
        pool = [root]
        try:
            for generation in self._generations:
                generation.look(pool)
        except _Changed:
            return None
        if list(map(_is_leaf, self._tensors(pool))) != self._are_leaves:
            return None  # asking it for its gradient would be a warning
        grads: Iterable[Any] = list(map(_grad, self._leaves(pool)))
        if [grad is not None for grad in grads] != self._have_grads:
            return None
        pool += grads
        return self._anchors(pool), self._in_order(pool)
