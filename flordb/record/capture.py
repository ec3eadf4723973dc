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
import io
import pickle
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any, ClassVar

import cloudpickle

from flordb.errors import SnapshotError
from flordb.record.anchors import (
    ATOMS,
    Anchor,
    Span,
    Walk,
    own_attributes,
    plain_array,
    plain_tensor,
)
from flordb.record.reach import Path, Reach, spell
from flordb.record.rng import get_states
from flordb.record.tensors import Piece, piece_of
from flordb.record.trees import State, Taken, Tree, Trees

_NUMBERS = frozenset((type(None), bool, int, float))


@dataclass
class Captured:
    """What a snapshot is to hold; the bytes of its pieces are still those of the program.

    ``state``: the pickled anchors and bindings, in which tensors are numbers into ``pieces``; it
    refers to nothing of the program's. ``averages``: how many tensors of its size an optimizer is
    going to keep for a parameter.
    """

    state: dict[str, Any]
    pieces: list[Piece]
    averages: int
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """A tensor or an array that is to be stored by its bytes, wherever it is referred to."""

    value: Any


def capture(
    found: Reach,
    is_project: Callable[[str], bool],
    max_bytes: int,
    given_up: dict[str, str],
    trees: Trees,
) -> Captured:
    """Take the states of all that a loop reaches.

    Parameters: ``max_bytes``, the largest variable that is kept; ``given_up``, paths known not to
    be kept, to which this adds; ``trees``, what earlier snapshots know.
    """
    walk = Walk(is_project, trees.find)
    for path, value in found.roots.items():
        walk.visit(value, path)
    taking = _Taking(walk, max_bytes, given_up, trees)
    states = taking.anchors()
    bindings = taking.bindings(found)
    state = {"anchors": states, "bindings": bindings, "rng": get_states()}
    optimizers = [anchor.value for anchor in walk.anchors if anchor.kind == "optimizer"]
    averages = max((_averages(optimizer) for optimizer in optimizers), default=0)
    return Captured(state, taking.gathered.pieces, averages, taking.missing)


class _Taking:
    """Takes the states of the anchors that a walk has found."""

    def __init__(self, walk: Walk, max_bytes: int, given_up: dict[str, str], trees: Trees) -> None:
        self.gathered = _Gathered()
        self.missing: dict[str, str] = {}
        self._walk = walk
        self._max_bytes = max_bytes
        self._given_up = given_up
        self._trees = trees

    def anchors(self) -> list[State]:
        states: list[State] = []
        at = 0
        for span in self._walk.spans:
            states += [self._take(anchor).state for anchor in self._walk.anchors[at : span.first]]
            states += self._span(span)
            at = span.end
        states += [self._take(anchor).state for anchor in self._walk.anchors[at:]]
        return states

    def bindings(self, found: Reach) -> list[tuple[Path, bytes]]:
        bindings: list[tuple[Path, bytes]] = []
        for path in sorted(found.bound, key=repr):
            if path in found.roots:
                value = found.roots[path]
                if type(value) in _NUMBERS:
                    bindings.append((path, pickle.dumps(value, protocol=5)))
                    continue
                data = self._attempt(Anchor("binding", path, value), self._max_bytes)
                if data is not None:
                    bindings.append((path, data))
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
                    *(self._walk.numbers, _Pickler.library),
                ),
            )
        return [made.state for made in taken]

    def _take(self, anchor: Anchor) -> Taken:
        limit = None if anchor.path[0][0] == "checkpoint" else self._max_bytes
        first = len(self.gathered.pieces)
        data = self._attempt(anchor, limit)
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
    return f"{kind.__module__}.{kind.__qualname__}"


def _pickle(walk: Walk, gathered: _Gathered, anchor: Anchor, limit: int | None) -> bytes:
    buffer = _Limited(limit)
    own = anchor.value if anchor.kind == "object" else None
    state = anchor.value if anchor.kind == "binding" else state_of(anchor.kind, anchor.value)
    _Pickler(buffer, walk, gathered, own).dump(state)
    return buffer.getvalue()


class _Limited(io.BytesIO):
    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self.limit = limit

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        if self.limit is not None and self.tell() > self.limit:
            raise SnapshotError(f"larger than max_variable_bytes = {self.limit}")
        return written


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
        case "instance":
            return {"attributes": dict(vars(value)), "class": type(value)}
        case "optimizer":
            return {
                "state": dict(value.state),
                "groups": [dict(group) for group in value.param_groups],
                "defaults": value.defaults,
                "class": type(value),
            }
        case "stateful":
            return value.state_dict()
        case "loader":
            return _loader_state(value)
        case _:
            return value


def _tensor_state(value: Any, gathered: _Gathered) -> tuple[int, int | None, bool, bool]:
    """Numbers of its data and its gradient, whether it requires one, whether it is a parameter."""
    torch = sys.modules["torch"]
    grad = value.grad if value.is_leaf else None
    requires_grad = bool(value.requires_grad and value.is_leaf)
    return (
        gathered.add(value.detach(), value, trains=requires_grad),
        gathered.add(grad.detach(), grad, changes=True) if grad is not None else None,
        # What has a graph loses it: a later backward through it fails instead of being wrong.
        requires_grad,
        isinstance(value, torch.nn.Parameter),
    )


def generator_state(value: Any) -> Any:
    """The state of a generator object of Python, NumPy or torch."""
    if isinstance(value, random.Random):
        return value.getstate()
    if hasattr(value, "bit_generator"):
        return value.bit_generator.state
    state = value.get_state()
    return state.numpy().tobytes() if hasattr(state, "numpy") else state


def _contents(value: Any) -> Any:
    """A container's contents in a container that is not itself an anchor."""
    if isinstance(value, dict):
        default = getattr(value, "default_factory", None)
        found = {"items": list(value.items()), "default": default, "class": type(value)}
        # An OrderedDict has some: that of a module's `state_dict` says which version it is of.
        attributes = getattr(value, "__dict__", None)
        return found | {"attributes": dict(attributes)} if attributes else found
    if isinstance(value, collections.deque):
        return {"items": list(value), "maxlen": value.maxlen, "class": collections.deque}
    return {"items": bytes(value) if isinstance(value, bytearray) else list(value)} | {
        "class": type(value)
    }


def _loader_state(loader: Any) -> dict[str, Any]:
    if getattr(loader, "_iterator", None) is not None:
        raise SnapshotError("a DataLoader with persistent workers keeps its state in processes")
    return {
        place: {k: v for k, v in vars(part).items() if type(v) in (bool, int, float, str)}
        for place in ("dataset", "sampler")
        if hasattr(part := getattr(loader, place, None), "__dict__")
    }


@dataclass(frozen=True)
class _Mark:
    pieces: int
    total: int


class _Gathered:
    """The tensors and arrays met so far. Each is named by its anchor's path and a number."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.total = 0
        self.origins: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []
        self._path: Path = ()
        self._first = 0
        self._changes = False

    def add(self, value: Any, origin: Any, trains: bool = False, changes: bool = False) -> int:
        """The number of a tensor or array, which is ``origin`` or all that matters of it.

        Parameters: ``trains``, whether it requires a gradient; ``changes``, whether it is likely to
        be written between two snapshots.
        """
        known = self._numbers.get(id(value))
        if known is not None:
            return known
        number = len(self.pieces)
        piece = piece_of(value, (self._path, number - self._first))
        piece.trains = trains
        piece.changes = trains or changes or self._changes
        self.total += piece.extent
        self.pieces.append(piece)
        self.origins.append(origin)
        self._numbers[id(value)] = number
        self._alive.append(value)  # so that nothing else gets its id meanwhile
        return number

    def extend(self, pieces: list[Piece]) -> None:
        """Add pieces as they are."""
        self.pieces += pieces
        self.origins += [None] * len(pieces)

    def mark(self, path: Path, changes: bool = False) -> _Mark:
        """What follows belongs to the anchor with this path, and is likely to change or not."""
        self._changes = changes
        self._path, self._first = path, len(self.pieces)
        return _Mark(len(self.pieces), self.total)

    def go_back(self, mark: _Mark) -> None:
        """Forget what was added since."""
        del self.pieces[mark.pieces :]
        del self.origins[mark.pieces :]
        self.total = mark.total
        self._numbers = {i: n for i, n in self._numbers.items() if n < mark.pieces}


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles one anchor's state; other anchors, tensors and the project's code are references."""

    _roles: ClassVar[dict[type, str]] = {}
    library: ClassVar[dict[Any, tuple[str, str, str]]] = {}

    def __init__(self, file: Any, walk: Walk, gathered: _Gathered, own: Any) -> None:
        super().__init__(file, protocol=5)
        self._walk = walk
        self._gathered = gathered
        self._own = own

    def persistent_id(self, obj: Any) -> Any:
        kind = type(obj)
        role = self._roles.get(kind)
        if role is None:
            role = self._roles[kind] = _role_of(kind)
        if role == "atom":
            return None
        if role == "raw":
            return ("raw", self._gathered.add(obj.value, obj.value))
        if role == "code":
            return self._code(obj)
        if obj is self._own:
            return None
        number = self._walk.anchor_of(obj)
        if number is not None:
            return ("anchor", number)
        return self._value(role, obj)

    def _code(self, obj: Any) -> Any:
        """Functions and classes by name, where they have one: a replay has live ones."""
        if obj in self.library:
            return self.library[obj]
        module = sys.modules.get(obj.__module__ or "")
        own = self._walk.is_project(getattr(module, "__file__", None) or "")
        if module is None or (not own and module.__name__ == "__main__"):
            return None
        found: Any = module
        for part in obj.__qualname__.split("."):
            found = getattr(found, part, None)
        name = ("code", obj.__module__, obj.__qualname__) if found is obj else None
        if not own and name is not None:
            self.library[obj] = name  # what the project defines may be defined anew
        return name

    def _value(self, role: str, obj: Any) -> Any:
        if role == "tensor":
            torch = sys.modules["torch"]
            if not plain_tensor(torch, obj):
                return None
            leaf = bool(obj.requires_grad and obj.is_leaf)
            parameter = isinstance(obj, torch.nn.Parameter)
            return ("tensor", self._gathered.add(obj.detach(), obj), leaf, parameter)
        if role == "array":
            plain = plain_array(sys.modules["numpy"], obj)
            return ("array", self._gathered.add(obj, obj)) if plain else None
        if role == "storage":
            # What quantized tensors and subclasses consist of.
            return ("storage", *self._storage(sys.modules["torch"], obj))
        if role == "module":
            return ("module", obj.__name__)
        return None

    def _storage(self, torch: Any, obj: Any) -> tuple[int, str | None]:
        typed = isinstance(obj, torch.TypedStorage)
        untyped = obj._untyped_storage if typed else obj
        data = torch.empty(0, dtype=torch.uint8, device=untyped.device)
        data.set_(untyped, 0, (untyped.nbytes(),), (1,))
        name = str(obj.dtype).removeprefix("torch.") if typed else None
        return self._gathered.add(data, obj), name


def _role_of(kind: type) -> str:
    """How objects of a type are pickled."""
    if kind is Raw:
        return "raw"
    if issubclass(kind, (FunctionType, type)):
        return "code"
    if kind in ATOMS or kind is tuple:
        return "atom"
    if issubclass(kind, ModuleType):
        return "module"
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None:
        if issubclass(kind, torch.Tensor):
            return "tensor"
        if issubclass(kind, (torch.UntypedStorage, torch.TypedStorage)):
            return "storage"
    if numpy is not None and issubclass(kind, numpy.ndarray):
        return "array"
    return "other"
