"""Tensors and arrays as strided views of *blocks*, contiguous ranges of memory.

Tensors that overlap in memory (views, tied weights, a NumPy array of a tensor) share a block, so
what shares memory is stored once and comes back sharing it. A view with gaps that nothing else
covers is compacted first: a column does not drag its whole matrix into the store.
"""

from __future__ import annotations

import ctypes
import sys
from bisect import bisect_right
from dataclasses import dataclass
from itertools import starmap
from operator import add, attrgetter, gt, itemgetter
from typing import Any

from flordb.store.snapshots import TensorRef


@dataclass(slots=True)
class Piece:
    """One tensor or array of a snapshot, and where it lies: in ``block``, ``offset`` bytes in.

    ``strides`` and ``extent`` are in bytes; ``key`` names it from snapshot to snapshot. ``trains``:
    it requires a gradient; ``changes``: it is likely to be written between two snapshots.
    """

    value: Any
    key: Any
    kind: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: str
    address: int
    extent: int
    block: int = -1
    offset: int = 0
    trains: bool = False
    changes: bool = False
    _form: tuple[Any, ...] | None = None

    @property
    def form(self) -> tuple[Any, ...]:
        """All of it but its bytes and their address."""
        if self._form is None:
            self._form = (self.extent, self.strides, self.shape, self.dtype, self.kind, self.device)
        return self._form


_known_form = attrgetter("_form")
_address = attrgetter("address")


@dataclass(slots=True)
class Range:
    """A block: ``size`` bytes from ``address`` on ``device``.

    ``first`` is the number of the piece that begins it; ``changes``: it is likely to be written
    between two snapshots; ``learned``: what was learned of it.
    """

    address: int
    size: int
    device: str
    first: int
    changes: bool
    learned: Any = None
    _view: Any = None

    @property
    def view(self) -> Any:
        """The bytes, where they are in main memory."""
        if self._view is None:
            self._view = (ctypes.c_char * self.size).from_address(self.address)
        return self._view

    def move(self, address: int) -> None:
        self.address, self._view = address, None


@dataclass(slots=True)
class Layout:
    """The blocks that hold the pieces of a snapshot, in the order of these, and where in them the
    pieces are. ``groups``: the small blocks (`small`)."""

    ranges: list[Range]
    refs: tuple[TensorRef, ...]
    forms: list[tuple[Any, ...]]
    addresses: list[int]
    is_repeatable: bool
    is_disjoint: bool
    groups: Any = None

    @classmethod
    def of(cls, pieces: list[Piece], last: Layout | None) -> Layout:
        """The layout of these pieces, which is the ``last`` one if they are what they were and lie
        where they lay, or elsewhere but still apart."""
        forms = list(map(_known_form, pieces))
        if None in forms:
            forms = [piece.form for piece in pieces]
        addresses = list(map(_address, pieces))
        same = last is not None and last.is_repeatable and forms == last.forms
        if last is not None and same and (addresses == last.addresses or last._move(addresses)):
            return last
        ranges = _ranges_of(pieces)
        # What was copied together will be elsewhere the next time.
        is_repeatable = [piece.address for piece in pieces] == addresses
        is_disjoint = len(ranges) == sum(piece.extent > 0 for piece in pieces)
        refs = tuple(map(_ref, pieces))
        return cls(ranges, refs, forms, addresses, is_repeatable, is_disjoint)

    def _move(self, addresses: list[int]) -> bool:
        """Let the blocks lie elsewhere, one for each piece as before. False: they overlap there."""
        if not self.is_disjoint:
            return False
        moved = [addresses[block.first] for block in self.ranges]
        devices = {block.device for block in self.ranges}
        for device in devices:
            spans = sorted(
                [
                    (at, b.size)
                    for at, b in zip(moved, self.ranges, strict=True)
                    if b.device == device
                ]
            )
            starts = map(itemgetter(0), spans[1:])
            if any(map(gt, starmap(add, spans), starts)):
                return False
        for block, address in zip(self.ranges, moved, strict=True):
            if block.address != address:
                block.move(address)
        self.addresses = addresses
        return True


def _ref(piece: Piece) -> TensorRef:
    return TensorRef(
        *(piece.kind, piece.dtype, piece.shape, piece.strides),
        *(piece.block, piece.offset, piece.device),
    )


def piece_of(value: Any, key: Any) -> Piece:
    """Where a tensor's or an array's bytes are."""
    if hasattr(value, "__array_interface__"):
        return _of_array(value, key)
    return _of_tensor(value, key)


def _of_array(value: Any, key: Any) -> Piece:
    numpy = sys.modules["numpy"]
    if any(stride < 0 for stride in value.strides):
        value = numpy.ascontiguousarray(value)
    address = value.__array_interface__["data"][0]
    size = value.dtype.itemsize
    extent = _extent(value.shape, value.strides, size)
    dtype = value.dtype.str if value.dtype.fields is None else repr(value.dtype.descr)
    return Piece(value, key, "numpy", dtype, value.shape, value.strides, "cpu", address, extent)


def _of_tensor(value: Any, key: Any) -> Piece:
    if value.is_conj() or value.is_neg():
        value = value.resolve_conj().resolve_neg()
    dtype = value.dtype
    shape = tuple(value.shape)
    size = dtype.itemsize
    strides = tuple([stride * size for stride in value.stride()])
    device = "cpu" if value.is_cpu else str(value.device)
    extent = _extent(shape, strides, size)
    name = str(dtype).removeprefix("torch.")
    return Piece(value, key, "torch", name, shape, strides, device, value.data_ptr(), extent)


def _extent(shape: tuple[int, ...], strides: tuple[int, ...], size: int) -> int:
    if 0 in shape:
        return 0
    extent = size
    for length, stride in zip(shape, strides, strict=True):
        extent += (length - 1) * stride
    return extent


def has_gaps(piece: Piece) -> bool:
    """Whether a piece leaves out bytes between its first and its last."""
    count = 1
    for length, stride in zip(piece.shape, piece.strides, strict=True):
        count *= length if stride else 1
    return piece.extent > count * _item_size(piece)


def _item_size(piece: Piece) -> int:
    size: int = piece.value.dtype.itemsize
    return size


def _ranges_of(pieces: list[Piece]) -> list[Range]:
    """The blocks that hold these pieces; sets ``block`` and ``offset`` of each piece."""
    whole: list[int] = []
    gappy: list[int] = []
    for number, piece in enumerate(pieces):
        if piece.extent:
            (gappy if has_gaps(piece) else whole).append(number)
    ranges = _merge(pieces, whole)
    if gappy:
        _add_gappy(pieces, gappy, ranges)
    return _in_order(pieces, ranges)


def _add_gappy(pieces: list[Piece], gappy: list[int], ranges: list[Range]) -> None:
    starts = [(r.device, r.address) for r in ranges]
    for number in gappy:
        piece = pieces[number]
        at = bisect_right(starts, (piece.device, piece.address)) - 1
        if at >= 0 and _covers(ranges[at], piece):
            piece.block, piece.offset = at, piece.address - ranges[at].address
        else:
            _compact(piece)
            piece.block = len(ranges)
            ranges.append(_range(piece, number))


def _in_order(pieces: list[Piece], ranges: list[Range]) -> list[Range]:
    """The blocks by the numbers of their first pieces, which do not change where memory moves."""
    order = sorted(range(len(ranges)), key=lambda at: ranges[at].first)
    numbers = {old: new for new, old in enumerate(order)}
    for piece in pieces:
        piece.block = numbers.get(piece.block, -1)
    return [ranges[at] for at in order]


def _merge(pieces: list[Piece], whole: list[int]) -> list[Range]:
    ranges: list[Range] = []
    order = sorted((pieces[n].device, pieces[n].address, -pieces[n].extent, n) for n in whole)
    for *_, number in order:
        piece = pieces[number]
        last = ranges[-1] if ranges else None
        if (
            last is not None
            and last.device == piece.device
            and piece.address < last.address + last.size
        ):
            last.size = max(last.size, piece.address + piece.extent - last.address)
            last.changes |= piece.changes
        else:
            last = _range(piece, number)
            ranges.append(last)
        piece.block, piece.offset = len(ranges) - 1, piece.address - last.address
    return ranges


def _range(piece: Piece, number: int) -> Range:
    return Range(piece.address, piece.extent, piece.device, number, piece.changes)


def _covers(block: Range, piece: Piece) -> bool:
    return (
        block.device == piece.device and piece.address + piece.extent <= block.address + block.size
    )


def _compact(piece: Piece) -> None:
    numpy = sys.modules.get("numpy")
    if piece.kind == "numpy" and numpy is not None:
        compact = _of_array(numpy.ascontiguousarray(piece.value), piece.key)
    else:
        compact = _of_tensor(piece.value.contiguous(), piece.key)
    piece.value, piece.strides = compact.value, compact.strides
    piece.address, piece.extent = compact.address, compact.extent
