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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, ClassVar

import cloudpickle

from flordb.errors import SnapshotError
from flordb.record.reach import Path, Reach, Step, spell
from flordb.record.rng import get_states
from flordb.record.tensors import Piece, piece_of

_MOST_ELEMENTS = 10_000
_ATOMS = (type(None), bool, int, float, complex, str, bytes, range, type, type(...), slice)
_CODE = (FunctionType, BuiltinFunctionType, MethodType, ModuleType)
_CONTAINERS = (
    *(list, dict, set, bytearray),
    *(collections.deque, collections.OrderedDict, collections.defaultdict, collections.Counter),
)


@dataclass
class Anchor:
    kind: str
    path: Path
    value: Any


@dataclass
class Captured:
    """What a snapshot is to hold; the bytes of its pieces are still those of the program.

    ``state``: the pickled anchors and bindings, in which tensors are numbers into ``pieces``.
    ``averages``: how many tensors of its size an optimizer is going to keep for a parameter.
    """

    state: bytes
    pieces: list[Piece]
    averages: int
    missing: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Raw:
    """A tensor or an array that is to be stored by its bytes, wherever it is referred to."""

    value: Any


def capture(
    found: Reach,
    is_project: Callable[[str], bool],
    max_bytes: int,
    given_up: dict[str, str],
) -> Captured:
    """Take the states of all that a loop reaches.

    Parameters: ``max_bytes``, the largest variable that is kept; ``given_up``, paths known not to
    be kept, to which this adds.
    """
    walk = _Walk(is_project)
    for path, value in found.roots.items():
        walk.visit(value, path)
    gathered = _Gathered()
    states: list[tuple[str, Path, str, Any]] = []
    missing: dict[str, str] = {}
    for anchor in walk.anchors:
        limit = None if anchor.path[0][0] == "checkpoint" else max_bytes
        data = _attempt(walk, gathered, anchor, limit, missing, given_up)
        states.append((anchor.kind, anchor.path, type_name(anchor.value), data))
    bindings: list[tuple[Path, bytes]] = []
    for path in sorted(found.bound, key=repr):
        if path not in found.roots:
            continue
        binding = Anchor("binding", path, found.roots[path])
        bound = _attempt(walk, gathered, binding, max_bytes, missing, given_up)
        if bound is not None:
            bindings.append((path, bound))
    state = pickle.dumps({"anchors": states, "bindings": bindings, "rng": get_states()}, protocol=5)
    names = tuple(sorted({spell(path) for path in (*found.roots, *found.bound)}))
    optimizers = [anchor.value for anchor in walk.anchors if anchor.kind == "optimizer"]
    averages = max((_averages(optimizer) for optimizer in optimizers), default=0)
    return Captured(state, gathered.pieces, averages, missing, names)


def _averages(optimizer: Any) -> int:
    if "betas" in optimizer.defaults:
        return 2
    return int(bool(optimizer.defaults.get("momentum")))


def _attempt(
    walk: _Walk,
    gathered: _Gathered,
    anchor: Anchor,
    limit: int | None,
    missing: dict[str, str],
    given_up: dict[str, str],
) -> Any:
    mark = gathered.mark(anchor.path)
    try:
        if given_up:
            _refuse_again(anchor, given_up)
        if anchor.kind == "tensor":
            state: Any = _tensor_state(anchor.value, gathered)
        else:
            state = _pickle(walk, gathered, anchor, limit)
        if limit is not None and gathered.total - mark.total > limit:
            raise SnapshotError(f"larger than max_variable_bytes = {limit}")
        return state
    except Exception as error:  # any object's __reduce__ may raise anything
        gathered.go_back(mark)
        reason = f"{type_name(anchor.value)}: {type(error).__name__}: {error}"
        place = spell(anchor.path)
        missing[place] = given_up.setdefault(_key(anchor), reason.splitlines()[0][:200])
        return None


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


def _pickle(walk: _Walk, gathered: _Gathered, anchor: Anchor, limit: int | None) -> bytes:
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


class _Walk:
    """Finds the anchors below the roots, each once, parents before their children."""

    def __init__(self, is_project: Callable[[str], bool]) -> None:
        self.is_project = is_project
        self.kinds: dict[type, str] = {}
        self.anchors: list[Anchor] = []
        self.numbers: dict[int, int] = {}

    def visit(self, value: Any, path: Path) -> None:
        waiting: list[tuple[Any, Path]] = [(value, path)]
        while waiting:
            value, path = waiting.pop()
            if isinstance(value, (*_ATOMS, *_CODE)) or id(value) in self.numbers:
                continue
            kind = self.classify(value)
            if kind != "tuple":
                self.numbers[id(value)] = len(self.anchors)
                self.anchors.append(Anchor(kind, path, value))
            children = [(child, (*path, *steps)) for steps, child in children_of(kind, value)]
            waiting.extend(reversed(children))

    def anchor_of(self, value: Any) -> int | None:
        number = self.numbers.get(id(value))
        if number is None or self.anchors[number].value is not value:
            return None
        return number

    def classify(self, value: Any) -> str:
        kind = type(value)
        found = self.kinds.get(kind)
        if found is None:
            found = self.kinds[kind] = self.kind_of(kind)
        if found == "tensor":
            return "tensor" if _plain_tensor(sys.modules["torch"], value) else "object"
        if found == "array":
            return "array" if _plain_array(sys.modules["numpy"], value) else "object"
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
    if issubclass(kind, torch.nn.Module):
        return "module"
    if issubclass(kind, torch.optim.Optimizer):
        return "optimizer"
    if issubclass(kind, torch.Generator):
        return "generator"
    if issubclass(kind, torch.utils.data.DataLoader):
        return "loader"
    return None


def _plain_tensor(torch: Any, value: Any) -> bool:
    return (
        type(value) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.device.type != "meta"
        and not value.is_inference()
    )


def _plain_array(numpy: Any, value: Any) -> bool:
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
    if isinstance(value, (bytearray, set)) or len(value) > _MOST_ELEMENTS:
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
        gathered.add(value.detach(), trains=requires_grad),
        gathered.add(grad.detach()) if grad is not None else None,
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
        return {"items": list(value.items()), "default": default, "class": type(value)}
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
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []
        self._path: Path = ()
        self._first = 0

    def add(self, value: Any, trains: bool = False) -> int:
        """The number of a tensor or array. ``trains``: it requires a gradient."""
        known = self._numbers.get(id(value))
        if known is not None:
            return known
        number = len(self.pieces)
        piece = piece_of(value, (self._path, number - self._first))
        piece.trains = trains
        self.total += piece.extent
        self.pieces.append(piece)
        self._numbers[id(value)] = number
        self._alive.append(value)  # so that nothing else gets its id meanwhile
        return number

    def mark(self, path: Path) -> _Mark:
        """What follows belongs to the anchor with this path."""
        self._path, self._first = path, len(self.pieces)
        return _Mark(len(self.pieces), self.total)

    def go_back(self, mark: _Mark) -> None:
        """Forget what was added since."""
        del self.pieces[mark.pieces :]
        self.total = mark.total
        self._numbers = {i: n for i, n in self._numbers.items() if n < mark.pieces}


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles one anchor's state; other anchors, tensors and the project's code are references."""

    _roles: ClassVar[dict[type, str]] = {}
    _library: ClassVar[dict[Any, tuple[str, str, str]]] = {}

    def __init__(self, file: Any, walk: _Walk, gathered: _Gathered, own: Any) -> None:
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
            return ("raw", self._gathered.add(obj.value))
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
        if obj in self._library:
            return self._library[obj]
        module = sys.modules.get(obj.__module__ or "")
        own = self._walk.is_project(getattr(module, "__file__", None) or "")
        if module is None or (not own and module.__name__ == "__main__"):
            return None
        found: Any = module
        for part in obj.__qualname__.split("."):
            found = getattr(found, part, None)
        name = ("code", obj.__module__, obj.__qualname__) if found is obj else None
        if not own and name is not None:
            self._library[obj] = name  # what the project defines may be defined anew
        return name

    def _value(self, role: str, obj: Any) -> Any:
        if role == "tensor":
            torch = sys.modules["torch"]
            if not _plain_tensor(torch, obj):
                return None
            leaf = bool(obj.requires_grad and obj.is_leaf)
            parameter = isinstance(obj, torch.nn.Parameter)
            return ("tensor", self._gathered.add(obj.detach()), leaf, parameter)
        if role == "array":
            plain = _plain_array(sys.modules["numpy"], obj)
            return ("array", self._gathered.add(obj)) if plain else None
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
        return self._gathered.add(data), name


def _role_of(kind: type) -> str:
    """How objects of a type are pickled."""
    if kind is Raw:
        return "raw"
    if issubclass(kind, (FunctionType, type)):
        return "code"
    if kind in _ATOMS or kind is tuple:
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
