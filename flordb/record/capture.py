"""Objects to bytes: the state of everything that a loop can reach, as a snapshot.

Objects with an identity that others may refer to (tensors, modules, optimizers, containers,
instances of the project's classes, …) become *anchors*: each has a path, by which a replay finds
its live counterpart and restores it in place, and a state in which other anchors are references.
So aliases stay aliases: an optimizer goes on pointing at its model's parameters. Tensors and arrays
stay outside the pickle, as `tensors.Piece`. What cannot be kept is named in ``missing``, with the
reason.
"""

from __future__ import annotations

import collections
import pickle
import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from flordb.errors import SnapshotError
from flordb.record.anchors import (
    OF_TENSOR,
    Anchor,
    Span,
    Walk,
    attributes_not_kept,
    attributes_of,
    is_parameter,
    optimizer_attributes,
    own_attributes,
)
from flordb.record.hooks import Hooks
from flordb.record.modes import Modes
from flordb.record.pickling import Gathered, Limited, Pickler, Raw, reference_to
from flordb.record.reach import Path, Reach, spell
from flordb.record.rng import plain, take_states
from flordb.record.tensors import Piece
from flordb.record.tree import State, Taken, Tree
from flordb.record.trees import Trees

_NUMBERS = frozenset((type(None), bool, int, float))


@dataclass(frozen=True)
class Unpickled:
    """What a snapshot says of the objects; it refers to nothing of the program's.

    ``states``: the anchors', in which tensors are numbers of pieces; ``roots``: the paths by which
    the loop reaches objects, ``bound``: those that it binds anew; ``bindings``: what they are bound
    to, pickled or themselves numbers; ``named``: variables that have an anchor,
    and its number; ``rng``, ``modes``: of the process.
    """

    states: list[State]
    roots: tuple[Path, ...]
    bound: tuple[Path, ...]
    bindings: list[tuple[Path, Any]]
    named: dict[Path, int]
    rng: dict[str, Any]
    modes: dict[str, Any]

    def state(self) -> dict[str, Any]:
        """What is pickled of it, behind the training."""
        anchors = _by_name(self.states, self.named, self.bound)
        bindings = [
            (path, value if type(value) is bytes else pickle.dumps(value, protocol=5))
            for path, value in self.bindings
        ]
        found = {"anchors": anchors, "bindings": bindings}
        return found | {"rng": plain(self.rng), "modes": self.modes}

    def names(self) -> set[str]:
        """The variables whose objects are in it."""
        return set(map(spell, (*self.roots, *self.bound, *self.named)))


@dataclass
class Captured:
    """What a snapshot is to hold; the bytes of its pieces are still those of the program.

    ``averages``: how many tensors of its size an optimizer is going to keep for a parameter.
    """

    said: Unpickled
    pieces: list[Piece]
    averages: int
    missing: dict[str, str] = field(default_factory=dict)


def capture(
    found: Reach,
    is_project: Callable[[str], bool],
    max_bytes: int,
    given_up: dict[str, str],
    trees: Trees,
    modes: Modes,
    hooks: Hooks,
    boundary: str,
) -> Captured:
    """Take the states of all that a loop reaches.

    Parameters: ``max_bytes``, the largest variable that is kept; ``given_up``, paths known not to
    be kept, to which this adds; ``trees``, what earlier snapshots know; ``modes``, the process's.
    ``hooks`` are not kept: where they differ at the ``boundary``, what may have them is missing.
    """
    walk = Walk(is_project, trees.find, trees.kinds)
    bound = found.bound
    # What the loop does not bind anew comes first: by these names a replay finds the objects that
    # have been there since before the loop.
    for path, value in sorted(found.roots.items(), key=lambda item: item[0] in bound):
        walk.visit(value, path)
    taking = _Taking(walk, max_bytes, given_up, trees)
    said = Unpickled(
        *(taking.anchors(), tuple(found.roots), tuple(bound), taking.bindings(found)),
        *(_named(found, walk), take_states(), modes.now()),
    )
    if hooks.differ(boundary, walk.anchors):
        hooked = [span.path for span in walk.spans]
        hooked += [a.path for a in walk.anchors if len(a.path) == 1 and a.kind == "tensor"]
        taking.missing |= dict.fromkeys(map(spell, hooked), "its hooks differ from the set-up's")
    optimizers = [anchor.value for anchor in walk.anchors if anchor.kind == "optimizer"]
    averages = max((_averages(optimizer) for optimizer in optimizers), default=0)
    return Captured(said, taking.gathered.pieces, averages, taking.missing)


def _named(found: Reach, walk: Walk) -> dict[Path, int]:
    """The variables that have an anchor, which the loop may have got at by another way."""
    numbers = walk.numbers
    named: dict[Path, int] = {}
    seen: set[str] = set()
    for kind, prefix, variables in found.scopes:
        with_anchor = [(n, v) for n, v in tuple(variables.items()) if id(v) in numbers]
        for name, value in with_anchor:
            number = walk.anchor_of(value) if kind == "global" or name not in seen else None
            if number is not None:
                named[((kind, prefix + name),)] = number
        if kind != "global":
            seen |= variables.keys()
    return named


def _by_name(states: list[State], named: dict[Path, int], bound: Iterable[Path]) -> list[State]:
    """States with the paths of variables, where there are some that the loop does not bind: an
    object may be elsewhere in a list meanwhile, or under another key."""
    anew = {spell(path) for path in bound}
    shorter = {
        states[number][1]: path
        for path, number in named.items()
        if spell(path) not in anew and len(states[number][1]) > 1
    }
    if not shorter:
        return states
    found = []
    for kind, path, name, data in states:
        for length in range(len(path), 1, -1):
            if path[:length] in shorter:
                path = (*shorter[path[:length]], *path[length:])
                break
        found.append((kind, path, name, data))
    return found


class _Taking:
    """Takes the states of the anchors that a walk has found."""

    def __init__(self, walk: Walk, max_bytes: int, given_up: dict[str, str], trees: Trees) -> None:
        self.gathered = Gathered()
        self.missing: dict[str, str] = {}
        self._walk = walk
        self._max_bytes = max_bytes
        self._given_up = given_up
        self._trees = trees

    def anchors(self) -> list[State]:
        states: list[State] = []
        at = 0
        for span in self._walk.spans:
            states += map(self._take_by_itself, self._walk.anchors[at : span.first])
            states += self._span(span)
            at = span.end
        states += map(self._take_by_itself, self._walk.anchors[at:])
        return states

    def bindings(self, found: Reach) -> list[tuple[Path, Any]]:
        """What is bound anew; numbers are left to be pickled later."""
        bindings: list[tuple[Path, Any]] = []
        for path in found.bound:
            if path not in found.roots:
                continue
            value = found.roots[path]
            if type(value) not in _NUMBERS:
                number = Pickler.anchor_of(value, self._walk)
                value = (
                    self._attempt(Anchor("binding", path, value), self._max_bytes)
                    if number is None
                    else reference_to(number)
                )
                if value is None:
                    continue
            bindings.append((path, value))
        return bindings

    def _span(self, span: Span) -> list[State]:
        """The states of a module or an optimizer, with all below it."""
        mark = self.gathered.mark(span.path)
        anchors = self._walk.anchors[span.first : span.end]
        if span.tree is not None:
            if span.tree.piece == mark.pieces:
                states: list[State] | None = span.tree.repeat(
                    self._walk.numbers, self.gathered.extend, self._take
                )
                if states is not None:
                    return states
            self.gathered.go_back(mark)
            self._trees.drop(span.path)
        known = len(self.missing)
        taken = [self._take(anchor) for anchor in anchors]
        if len(self.missing) == known:
            self._trees.keep(
                span.path,
                lambda: Tree(
                    *(span.first, mark.pieces, anchors, taken),
                    *(self._walk.numbers, Pickler.library),
                ),
            )
        return [made.state for made in taken]

    def _take_by_itself(self, anchor: Anchor) -> State:
        """The state of an anchor that no tree has."""
        if anchor.kind != "tensor":
            return self._take(anchor).state
        known = self._trees.tensor_at(anchor.path, anchor.value)
        if known is not None:
            kind, path, name, data = known.state
            number = self.gathered.again(known.leaf.piece, anchor.value)
            return kind, path, name, (number, *data[1:])
        taken = self._take(anchor)
        self._trees.keep_tensor(anchor.path, taken)
        return taken.state

    def _take(self, anchor: Anchor) -> Taken:
        limit = None if anchor.path[0][0] == "checkpoint" else self._max_bytes
        first = len(self.gathered.pieces)
        data = self._attempt(anchor, limit)
        if anchor.kind == "tensor" and anchor.value.__dict__:
            for name in attributes_not_kept(anchor.value):
                # Named as the code that reads it does, whatever leads from the variable there.
                place = spell((anchor.path[0], ("a", name)))
                self.missing[place] = f"{OF_TENSOR}{spell(anchor.path)}"
        return Taken(
            (anchor.kind, anchor.path, type_name(anchor.value), data),
            self.gathered.pieces[first:],
            self.gathered.origins[first:],
        )

    def _attempt(self, anchor: Anchor, limit: int | None) -> Any:
        gathered = self.gathered
        mark = gathered.mark(anchor.path, anchor.kind == "optimizer")
        try:
            if self._given_up:
                _refuse_again(anchor, self._given_up)
            if anchor.kind == "tensor":
                state: Any = _tensor_state(anchor.value, gathered)
            else:
                state = _pickle(self._walk, gathered, anchor, limit)
            if limit is not None and gathered.total - mark.total > limit:
                raise SnapshotError(f"larger than max_variable_bytes = {limit}")
            return state
        except Exception as error:  # any object's __reduce__ may raise anything
            gathered.go_back(mark)
            reason = f"{type_name(anchor.value)}: {type(error).__name__}: {error}"
            place = spell(anchor.path)
            why = self._given_up.setdefault(_key(anchor), reason.splitlines()[0][:200])
            self.missing[place] = why
            if anchor.owner is not None:
                self.missing.setdefault(spell(anchor.owner), f"{place}: {why}")
            return None


def _averages(optimizer: Any) -> int:
    if "betas" in optimizer.defaults:
        return 2
    return int(bool(optimizer.defaults.get("momentum")))


def _key(anchor: Anchor) -> str:
    return f"{anchor.kind} {spell(anchor.path)} {type_name(anchor.value)}"


def _refuse_again(anchor: Anchor, given_up: dict[str, str]) -> None:
    """What could not be kept once is not tried again: trying may take long."""
    reason = given_up.get(_key(anchor))
    if reason is not None:
        raise SnapshotError(reason)


def type_name(value: Any) -> str:
    kind = type(value)
    if kind is FunctionType:
        code = value.__code__
        text = code.co_code + repr((code.co_names, code.co_freevars)).encode()
        own = f" {zlib.crc32(text)}" if value.__name__ == "<lambda>" else ""
        return f"function {value.__module__}.{value.__qualname__}{own}"
    return f"{kind.__module__}.{kind.__qualname__}"


def _pickle(walk: Walk, gathered: Gathered, anchor: Anchor, limit: int | None) -> bytes:
    buffer = Limited(limit)
    own = anchor.value if anchor.kind in ("object", "whole", "function") else None
    state = anchor.value if anchor.kind == "binding" else state_of(anchor.kind, anchor.value)
    if anchor.kind == "weakref" and state is not None and walk.anchor_of(state) is None:
        raise SnapshotError("what it refers to is not kept")
    pickler = Pickler(buffer, walk, gathered, own)
    pickler.dump(state)
    if anchor.kind == "object" and pickler.refers_to_itself:
        # Its attributes, given to a live object, would still lead to the one made of the pickle.
        anchor.kind = "whole"
    return buffer.getvalue()


def state_of(kind: str, value: Any) -> Any:
    """What of an anchor is pickled; anchors inside it become references."""
    match kind:
        case "array":
            return Raw(value)
        case "generator":
            return generator_state(value)
        case "container":
            return _contents(value)
        case "module":
            return {
                "parameters": dict(value._parameters),
                "buffers": dict(value._buffers),
                "modules": dict(value._modules),
                "attributes": own_attributes(value),
                "class": type(value),
            }
        case "scripted":
            raise SnapshotError("TorchScript compiles it anew after some calls, to other rounding")
        case "instance":
            return {"attributes": attributes_of(value), "class": type(value)}
        case "optimizer":
            return {
                "state": dict(value.state),
                "groups": [dict(group) for group in value.param_groups],
                "defaults": value.defaults,
                "class": type(value),
                "attributes": optimizer_attributes(value),
            }
        case "stateful":
            return value.state_dict()
        case "file":
            if not value.readable() or value.writable():
                raise SnapshotError("a file that is written to")
            return value.name, value.tell()
        case "loader":
            return _loader_state(value)
        case "weakref":
            return value()
        case "handle":
            return None  # another one would remove a hook from a copy of the module's
        case _:
            return value


def _tensor_state(value: Any, gathered: Gathered) -> tuple[int, int | None, bool, bool]:
    """Numbers of its data and its gradient, whether it requires one, whether it is a parameter."""
    is_leaf = value.is_leaf
    grad = value.grad if is_leaf else None
    requires_grad = value.requires_grad
    data = value.detach() if requires_grad else value
    trains = bool(requires_grad and is_leaf)
    return (
        gathered.add(data, value, trains=trains),
        gathered.add(grad.detach(), grad, changes=True) if grad is not None else None,
        # What has a graph loses it: a later backward through it fails instead of being wrong.
        trains,
        is_parameter(value),
    )


def generator_state(value: Any) -> Any:
    """The state of a generator object of Python, NumPy or torch."""
    if isinstance(value, random.Random):
        attributes = attributes_of(value)  # of the project's own class
        state: Any = value.getstate()
        return {"state": state, "attributes": attributes} if attributes else state
    if hasattr(value, "bit_generator"):
        return value.bit_generator.state
    state = value.get_state()
    return state.numpy().tobytes() if hasattr(state, "numpy") else state


def _contents(value: Any) -> Any:
    """A container's contents in a container that is not itself an anchor."""
    found: dict[str, Any] = {"class": type(value)}
    if isinstance(value, dict):
        ordered = isinstance(value, collections.OrderedDict)
        found["items"] = list((collections.OrderedDict if ordered else dict).items(value))
        found["default"] = getattr(value, "default_factory", None)
    elif isinstance(value, bytearray):
        found["items"] = bytes(value)
    else:
        found["items"] = list(_iterates(value)(value))
    if isinstance(value, collections.deque):
        found["maxlen"] = value.maxlen
    # An OrderedDict has some: that of a module's `state_dict` says which version it is of.
    attributes = attributes_of(value)
    return found | {"attributes": attributes} if attributes else found


def _iterates(value: Any) -> Any:
    """How to list a container as its base class does, whatever the project's class makes of it."""
    bases = (list, set, collections.deque)
    return next(base.__iter__ for base in bases if isinstance(value, base))


def _loader_state(loader: Any) -> dict[str, Any]:
    if getattr(loader, "_iterator", None) is not None:
        raise SnapshotError("a DataLoader with persistent workers keeps its state in processes")
    return {
        place: {k: v for k, v in vars(part).items() if type(v) in (bool, int, float, str)}
        for place in ("dataset", "sampler")
        if hasattr(part := getattr(loader, place, None), "__dict__")
    }
