"""Pickles in which other anchors are references, and tensors and arrays numbers of pieces."""

from __future__ import annotations

import io
import pickle
import sys
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, ClassVar

import cloudpickle

from flordb.errors import SnapshotError
from flordb.record.anchors import ATOMS, Walk, plain_array, plain_tensor
from flordb.record.reach import Path
from flordb.record.tensors import Piece, piece_of

_VIEWS: tuple[type, ...] = (
    memoryview,
    MappingProxyType,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)


@dataclass(frozen=True)
class Raw:
    """A tensor or an array that is to be stored by its bytes, wherever it is referred to."""

    value: Any


class Limited(io.BytesIO):
    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self.limit = limit

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        if self.limit is not None and self.tell() > self.limit:
            raise SnapshotError(f"larger than max_variable_bytes = {self.limit}")
        return written


@dataclass(frozen=True)
class _Mark:
    pieces: int
    total: int


class Gathered:
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

    def again(self, piece: Piece, value: Any) -> int:
        """The number of a tensor that is as it was when ``piece`` was made of it."""
        number = self._numbers[id(value)] = len(self.pieces)
        piece.value, piece.address = value, value.data_ptr()
        self.total += piece.extent
        self.pieces.append(piece)
        self.origins.append(value)
        return number

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


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles one anchor's state; other anchors, tensors and the project's code are references."""

    _roles: ClassVar[dict[type, str]] = {}
    library: ClassVar[dict[Any, tuple[str, str, str]]] = {}

    def __init__(self, file: Any, walk: Walk, gathered: Gathered, own: Any) -> None:
        super().__init__(file, protocol=5)
        self._walk = walk
        self._gathered = gathered
        self._own = own
        self._seen = False
        self.refers_to_itself = False

    def persistent_id(self, obj: Any) -> Any:
        kind = type(obj)
        role = self._roles.get(kind)
        if role is None:
            role = self._roles[kind] = _role_of(kind)
        if role == "atom":
            return None
        if role == "view":
            raise SnapshotError(f"a {type(obj).__name__} would look at a copy")
        if role == "raw":
            return ("raw", self._gathered.add(obj.value, obj.value))
        if role == "code":
            name = self._code(obj)
            if name is not None or obj is self._own:
                return name
            number = self._walk.anchor_of(obj)
            return None if number is None else ("anchor", number)
        if obj is self._own:
            self.refers_to_itself, self._seen = self._seen, True
            return None
        number = self._walk.anchor_of(obj)
        if number is not None:
            return ("anchor", number)
        return self._value(role, obj)

    @classmethod
    def anchor_of(cls, obj: Any, walk: Walk) -> int | None:
        """The number of an anchor as which an object is pickled, wherever it is referred to."""
        is_value = cls._roles.get(type(obj)) in ("tensor", "array", "other")
        return walk.anchor_of(obj) if is_value else None

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


class _Referring(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.value if type(obj) is Raw else None


@lru_cache(maxsize=1024)
def reference_to(number: int) -> bytes:
    """The pickle of an anchor, as which others refer to it."""
    buffer = io.BytesIO()
    _Referring(buffer, protocol=5).dump(Raw(("anchor", number)))
    return buffer.getvalue()


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
    if kind in _VIEWS:
        return "view"
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None:
        if issubclass(kind, torch.Tensor):
            return "tensor"
        if issubclass(kind, (torch.UntypedStorage, torch.TypedStorage)):
            return "storage"
    if numpy is not None and issubclass(kind, numpy.ndarray):
        return "array"
    return "other"
