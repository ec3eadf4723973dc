"""Lets what is restored in place share memory exactly where the snapshot's tensors and arrays do.

A replay's live objects are those of the set-up. What the loop has parted since (a best state, first
a view of the model's) still shares memory there, and what it has joined does not yet. So each block
of a snapshot gets one place: the live memory that the first of its tensors has, if the others are
where they have to be; what does not fit there gets new memory.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flordb.record.present import is_writable
from flordb.record.tensors import Piece, has_gaps, piece_of
from flordb.store.snapshots import Manifest


@dataclass
class Sharing:
    """``parted``: the live objects, by their numbers, that cannot keep their memory; ``memory``: of
    blocks that several tensors share, the live memory that is to hold them."""

    parted: set[int] = field(default_factory=set)
    memory: dict[int, memoryview] = field(default_factory=dict)


def sharing_of(live: Iterable[tuple[int, Any, int]], manifest: Manifest) -> Sharing:
    """Where in live memory the blocks of a snapshot are to be.

    Parameters: ``live``, in the order in which they may choose: the number of a live object, the
    tensor or array, and the number of the snapshot's tensor that is to be restored into it.
    """
    return _Places(manifest).take(live)


class _Places:
    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.uses = Counter(reference.block for reference in manifest.tensors)
        self.found = Sharing()
        self._bases: dict[int, int | None] = {}
        self._taken: list[tuple[str, int, int]] = []

    def take(self, live: Iterable[tuple[int, Any, int]]) -> Sharing:
        for number, value, tensor in live:
            reference = self.manifest.tensors[tensor]
            piece = _piece(value) if reference.block >= 0 else None
            if piece is None or (piece.shape, piece.dtype) != (reference.shape, reference.dtype):
                continue  # what is of another form gets other memory anyway
            is_shared = self.uses[reference.block] > 1
            if is_shared:
                base = piece.address - reference.offset
                fits = piece.strides == reference.strides
                fits = fits and self._is_at(reference.block, piece.device, base, value)
            else:
                fits = self._is_free(piece.device, piece.address, piece.extent)
            if not fits:
                self.found.parted.add(number)
        return self.found

    def _is_at(self, block: int, device: str, base: int, value: Any) -> bool:
        """Whether a block that several share is at this address, or can be from now on."""
        if block not in self._bases:
            size = self.manifest.blocks[block].size
            memory = _memory(value, base, size) if device == "cpu" else None
            can_be = memory is not None or device != "cpu"
            self._bases[block] = base if can_be and self._is_free(device, base, size) else None
            if memory is not None and self._bases[block] is not None:
                self.found.memory[block] = memory
        return self._bases[block] == base

    def _is_free(self, device: str, address: int, size: int) -> bool:
        """Whether no other block is there. If so, it is taken."""
        at = bisect_right(self._taken, (device, address, size))
        before, after = self._taken[at - 1 : at], self._taken[at : at + 1]
        if before and before[0][0] == device and sum(before[0][1:]) > address:
            return False
        if after and after[0][0] == device and after[0][1] < address + size:
            return False
        insort(self._taken, (device, address, size))
        return True


def _piece(value: Any) -> Piece | None:
    """Where a tensor or an array lies, if its bytes are one range, and it can be written to."""
    if _is_array(value):
        if not value.flags.writeable or any(stride < 0 for stride in value.strides):
            return None
    elif value.is_conj() or value.is_neg() or value.is_meta:
        return None
    piece = piece_of(value, None)
    return None if not piece.extent or has_gaps(piece) or 0 in piece.strides else piece


def _memory(value: Any, address: int, size: int) -> memoryview | None:
    """Main memory around a tensor or an array, where all of it belongs to the same owner."""
    owner = value
    while hasattr(base := getattr(owner, "base", None), "data_ptr") or _is_array(base):
        owner = base
    if hasattr(owner, "untyped_storage"):
        owner = owner.untyped_storage()
        start, whole = owner.data_ptr(), owner.nbytes()
    else:
        start, whole = owner.__array_interface__["data"][0], owner.nbytes
    if address < start or address + size > start + whole:
        return None
    if hasattr(value, "untyped_storage") and not is_writable(value):
        return None
    view = (ctypes.c_char * size).from_address(address)
    view.owner = owner  # type: ignore[attr-defined]
    return memoryview(view).cast("B")


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array_interface__")
