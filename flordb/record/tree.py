"""Modules and optimizers as the last snapshot met them, to be verified instead of pickled anew.

From one snapshot to the next a model of a thousand modules and tensors changes its numbers, and
hardly ever its structure. What is pickled of an object follows from its *contents*: the constants
in it, and the objects that it refers to. So a `Tree` remembers the contents of each object below a
module or an optimizer, with what was pickled of it. While the contents are the same, so is the
pickle. Where only constants differ, the object is pickled anew; where anything else does, the tree
no longer fits, and all below it is walked again. An object whose contents are not known to be all
of it (one of a foreign class, say) is pickled each time.

Trees keep nothing of the user's alive between two snapshots. They know objects by their ids. These
may be given to other objects meanwhile, which does no harm, since whatever a snapshot would hold of
an object is compared; constants, of which only the id is, are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flordb.record.anchors import Anchor, children_of
from flordb.record.contents import children, contents_of, is_constant
from flordb.record.leaves import Leaf, Leaves, Unfit
from flordb.record.outline import Outline
from flordb.record.reach import Classes, Path
from flordb.record.tensors import Piece

_MOST_OUTLINES = 5

State = tuple[str, Path, str, Any]
"""What a snapshot holds of an anchor: its kind, path and type, and what was pickled of it."""


@dataclass(slots=True)
class Taken:
    """What was made of an anchor: its state, its pieces, and the objects that these were of."""

    state: State
    pieces: list[Piece]
    origins: list[Any]


def _without_origins(taken: Taken) -> Taken:
    return Taken(taken.state, taken.pieces, [])


class _TensorPart:
    """An anchor that is a tensor, with its gradient."""

    kind = "tensor"
    fixed = True
    dirty = False

    def __init__(self, taken: Taken) -> None:
        self.taken = _without_origins(taken)
        tensor, *grads = taken.origins
        self.leaves = [Leaf.of(taken.pieces[0], tensor)]
        self.leaves += [Leaf.of(taken.pieces[1], grad) for grad in grads]
        self._is_leaf = self.leaves[0].is_leaf
        self.leaf_ids: list[int] = []

    def others(self) -> list[int]:
        return []

    def verify(self, tensor: Any, objects: list[Any], tensors: list[Any]) -> None:
        """Append its tensors, still to be verified. Raises Unfit, AttributeError."""
        if tensor.is_leaf is not self._is_leaf:
            raise Unfit  # asking it for its gradient would be a warning
        tensors.append(tensor)
        grad = tensor.grad if self._is_leaf else None
        if grad is not None:
            tensors.append(grad)
        if (grad is not None) != (len(self.leaves) > 1):
            raise Unfit


class _NodePart:
    """Any other anchor. ``fixed``: what is pickled of it follows from its contents; ``dirty``: but
    these have changed.

    Parameters: ``undefined``, the numbers of those anchors of the tree, by their ids, that no part
    before has led to; this takes out those in its contents. ``is_anchor`` has the ids of all
    anchors, ``library`` the functions and classes that are pickled by name; ``changed`` gets this
    when it becomes dirty.
    """

    def __init__(
        self,
        anchor: Anchor,
        taken: Taken,
        undefined: dict[int, int],
        is_anchor: Container[int],
        library: Container[Any],
        changed: list[Any],
    ) -> None:
        self.taken = taken
        self.dirty = False
        self._changed = changed
        self._type = type(anchor.value)
        self._library = library
        self.kind = anchor.kind
        self.leaves: list[Leaf] = []
        self.leaf_ids: list[int] = []
        self.defines: dict[int, int] = {}
        known = contents_of(anchor.kind, anchor.value)
        self.listed = known or children(anchor.kind)
        ids = self._list(anchor.value)
        self.fixed = known is not None and self._is_whole(is_anchor)
        if self.fixed:
            self._take_leaves(taken)
        elif known is not None:
            self.listed = children(anchor.kind)
            ids = self._list(anchor.value)
        self.taken = _without_origins(taken)
        self.defines = {i: undefined.pop(i) for i in ids if i in undefined}
        self._steps = self._steps_below(anchor.value)
        self._find_places()

    def _steps_below(self, value: Any) -> list[tuple[Any, int]]:
        """The steps to the objects directly below this one, and their ids."""
        return [
            (steps, id(child))
            for steps, child in children_of(self.kind, value)
            if not is_constant(child, self._library)
        ]

    def _is_whole(self, is_anchor: Container[int]) -> bool:
        """Whether each of the contents is a constant, an anchor, or a tensor that is a piece."""
        origins = set(map(id, self.taken.origins))
        return origins == {i for i in self._others if i not in is_anchor}

    def _list(self, value: Any) -> list[int]:
        """List the contents; their ids."""
        contents = self.listed(value)
        ids = list(map(id, contents))
        self._remember(ids, contents)
        return ids

    def others(self) -> list[int]:
        """The ids of what is not a constant."""
        return self._others

    def _remember(self, ids: list[int], contents: Sequence[Any]) -> None:
        self._ids = ids
        self._held: list[Any] = []
        self._others: list[int] = []
        for value in contents:
            if is_constant(value, self._library):
                self._held.append(value)
            else:
                self._others.append(id(value))

    def _find_places(self) -> None:
        """Where in the contents the objects are that this leads to first, and its tensors."""
        at = self._at = {i: position for position, i in enumerate(self._ids)}
        self._children = [(at[i], number) for i, number in self.defines.items()]
        self._places = [at[i] for i in self.leaf_ids]

    def _take_leaves(self, taken: Taken) -> None:
        self.leaves = list(map(Leaf.of, taken.pieces, taken.origins))
        self.leaf_ids = list(map(id, taken.origins))

    def renew(self, taken: Taken) -> bool:
        """Put another pickle in the place of the last one. False: it does not fit there."""
        if taken.state[-1] is None or len(taken.pieces) != len(self.taken.pieces):
            return False
        if self.fixed:
            if set(map(id, taken.origins)) != set(self.leaf_ids):
                return False
            self._take_leaves(taken)
            self._places = [self._at[i] for i in self.leaf_ids]
        self.taken, self.dirty = _without_origins(taken), False
        return True

    def verify(self, value: Any, objects: list[Any], tensors: list[Any]) -> None:
        """Append its tensors, still to be verified, and put its objects where they are looked for.
        Raises Unfit, or what looking into an object raises."""
        if type(value) is not self._type:
            raise Unfit
        contents = self.listed(value)
        ids = list(map(id, contents))
        if ids != self._ids:
            if [id(v) for v in contents if not is_constant(v, self._library)] != self._others:
                raise Unfit
            if self._steps_below(value) != self._steps:
                raise Unfit  # a path leads elsewhere
            self.dirty = True
            self._changed.append(self)
            self._remember(ids, contents)
            self._find_places()
        for position, number in self._children:
            objects[number] = contents[position]
        for position in self._places:
            tensors.append(contents[position])


class Tree:
    """All anchors below one, which has the number ``first``; their pieces begin with ``piece``.

    Parameters: ``numbers``, of all anchors by their ids. Raises an exception of its own where these
    anchors cannot be known again.
    """

    def __init__(
        self,
        first: int,
        piece: int,
        anchors: list[Anchor],
        taken: list[Taken],
        numbers: Mapping[int, int],
        library: Container[Any],
    ) -> None:
        self.first, self.piece, self.anchors = first, piece, anchors
        self.numbers = {id(anchor.value): first + at for at, anchor in enumerate(anchors)}
        self._library = library
        self._changed: list[Any] = []
        undefined = {i: number - first for i, number in self.numbers.items() if number != first}
        self._parts: list[_TensorPart | _NodePart] = [
            _TensorPart(made)
            if anchor.kind == "tensor"
            else _NodePart(anchor, made, undefined, numbers, library, self._changed)
            for anchor, made in zip(anchors, taken, strict=True)
        ]
        if undefined:
            raise Unfit
        used = {i for part in self._parts for i in part.others()}
        self._outside = {i: numbers[i] for i in used if i in numbers and i not in self.numbers}
        self._before = {i: number for i, number in self._outside.items() if number < first}
        self._outline: Outline | None = None
        self._outlines = 0
        self._looked: tuple[Any, tuple[Sequence[Any], Sequence[Any]]] | None = None
        self.classes: Classes | None = None
        self._own: Any = None
        self._gather()

    def _gather(self) -> None:
        self._states = [part.taken.state for part in self._parts]
        self._pieces = [piece for part in self._parts for piece in part.taken.pieces]
        self._fixed = all(part.fixed for part in self._parts)
        self._leaf_ids = [i for part in self._parts for i in part.leaf_ids]
        self._leaves = Leaves([leaf for part in self._parts for leaf in part.leaves])

    def fits(self, value: Any, numbers: Mapping[int, int]) -> bool:
        """Whether this is what is below ``value`` now. If so, its anchors and pieces are.

        Parameters: ``numbers``, of the anchors met before, by their ids.
        """
        if any(numbers.get(i) != number for i, number in self._before.items()):
            return False
        try:
            objects, tensors = self._look(value)
            self._leaves.take(tensors)
        except (Unfit, LookupError, AttributeError, TypeError, RuntimeError):
            return False
        for anchor, found in zip(self.anchors, objects, strict=True):
            anchor.value = found
        return True

    def _look(self, value: Any) -> tuple[Sequence[Any], Sequence[Any]]:
        """The objects of the tree, and its tensors, still to be verified. Raises Unfit, or what
        looking into an object raises."""
        if self._looked is not None and self._looked[0] is value:
            return self._looked[1]
        found = self._outline.look(value) if self._outline is not None else None
        if found is not None:
            return found
        objects: list[Any] = [None] * len(self._parts)
        objects[0] = value
        tensors: list[Any] = []
        for at, part in enumerate(self._parts):
            part.verify(objects[at], objects, tensors)
        self._outline = None
        if self._outlines < _MOST_OUTLINES:
            self._outlines += 1
            self._outline = Outline(objects, self._parts, self._library)
        return objects, tensors

    def learn(self, value: Any, classes: Classes) -> None:
        """These are the project's classes below ``value``, which this fits."""
        if self._fixed and self.is_clean:
            self.classes, self._own = classes, _hooked(value)

    def known(self, value: Any) -> Classes | None:
        """The project's classes below ``value``, if that is what it was."""
        if self.classes is None or self._outline is None or _hooked(value) != self._own:
            return None
        try:
            found = self._outline.look(value)
        except (Unfit, LookupError, AttributeError, TypeError, RuntimeError):
            return None
        if found is None or not self.is_clean:
            return None
        self._looked = value, found
        return self.classes

    @property
    def is_clean(self) -> bool:
        """Whether nothing but numbers has changed."""
        return not self._changed

    def repeat(
        self,
        numbers: Mapping[int, int],
        add: Callable[[list[Piece]], None],
        take: Callable[[Anchor], Taken],
    ) -> list[State] | None:
        """The states of a tree that `fits`. None where they would be others now.

        Parameters: ``numbers``, of all anchors by their ids; ``add`` is given the pieces that are
        to follow; ``take`` takes an anchor anew and adds its pieces.
        """
        if any(numbers.get(i) != number for i, number in self._outside.items()):
            return None
        if not numbers.keys().isdisjoint(self._leaf_ids):
            return None
        if self._fixed and self.is_clean:
            add(self._pieces)
            return self._states
        for anchor, part in zip(self.anchors, self._parts, strict=True):
            if part.fixed and not part.dirty:
                add(part.taken.pieces)
            elif isinstance(part, _NodePart) and not part.renew(take(anchor)):
                return None
        self._changed.clear()
        self._gather()
        return self._states

    def release(self) -> None:
        """Let go of the program's objects."""
        self._looked = None
        for anchor in self.anchors:
            anchor.value = None
        for piece in self._pieces:
            piece.value = None


def _hooked(value: Any) -> tuple[Any, ...]:
    """What tells, besides an outline, that no code was added below a module or an optimizer: each
    hook has a number in torch, and methods may be put over those of an optimizer."""
    torch = sys.modules["torch"]
    hooks = torch.utils.hooks.RemovableHandle.next_id
    is_optimizer = isinstance(value, torch.optim.Optimizer)
    return hooks, *(map(id, vars(value).values()) if is_optimizer else ())
