"""Which memory holds already what is to be restored into it, so that nothing of it need be read.

A data set, frozen layers, what the set-up has just made as it did in the run: much of a large
snapshot is there before it is restored. Its hash says so, which takes a fraction of what reading,
verifying and copying take; but where it says no, it was for nothing. So memory is hashed where it
is likely to say yes: where the same bytes were wanted the last time, or, at first, in what does not
train, and in everything before a loop has begun.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from flordb.store.objects import digest
from flordb.store.snapshots import Manifest, TensorRef

_SMALLEST = 1 << 16
"""Less is looked up faster than it is hashed by itself."""


class Present:
    """What was restored last, into which memory. One for all snapshots that a process restores."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], str] = {}

    def holds(self, live: Any, manifest: Manifest, number: int, trains: bool) -> bool:
        """Whether a live tensor or array has the bytes of the snapshot's with this number.

        False also where it is not worth finding out. Parameters: ``trains``, whether it requires a
        gradient.
        """
        reference = manifest.tensors[number]
        if reference.block < 0:
            return False
        block = manifest.blocks[reference.block]
        if block.size < _SMALLEST:
            return False
        memory = _memory(live, reference)
        if memory is None or reference.offset != 0 or memory[1] != block.size:
            return False
        wanted, last = block.contents, self._last.get(memory)
        self._last[memory] = wanted
        at_first = not trains or manifest.boundary.endswith("@enter")
        if (last is None and not at_first) or last not in (None, wanted):
            return False
        address, size = memory
        return digest(memoryview((ctypes.c_char * size).from_address(address))) == wanted


def _memory(live: Any, reference: TensorRef) -> tuple[int, int] | None:
    """The address and size of what a tensor or array consists of, where it is one range of main
    memory with the same layout as the other."""
    if tuple(live.shape) != reference.shape:
        return None
    if reference.kind == "numpy":
        same = live.dtype.str == reference.dtype and live.strides == reference.strides
        if not same or not live.flags.c_contiguous:
            return None
        return live.__array_interface__["data"][0], live.nbytes
    size = live.dtype.itemsize
    same = str(live.dtype) == f"torch.{reference.dtype}"
    if not same or tuple(s * size for s in live.stride()) != reference.strides:
        return None
    return (live.data_ptr(), live.nbytes) if is_plain_memory(live) else None


def is_writable(tensor: Any) -> bool:
    """Whether a tensor's memory can be written to: that of a file mapped for reading cannot, and
    writing would end the process."""
    if not tensor.is_cpu or not tensor.numel() or tensor.untyped_storage().resizable():
        return True  # it is torch's own
    first, whole = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
    return all(_takes_writes(address) for address in {first, first + whole - 1})


def _takes_writes(address: int) -> bool:
    """Whether the kernel writes what is there to there; a processor would end the process."""
    byte = (ctypes.c_char * 1).from_address(address)
    source, target = os.pipe()
    try:
        os.write(target, byte)
        os.readv(source, [byte])
    except OSError:
        return False
    finally:
        os.close(source)
        os.close(target)
    return True


def is_plain_memory(tensor: Any) -> bool:
    """Whether a tensor's elements are one range of main memory, as they are."""
    if not tensor.is_cpu or tensor.is_conj() or tensor.is_neg():
        return False
    in_order: bool = tensor.is_contiguous()
    if not in_order and tensor.dim() == 4:
        in_order = tensor.is_contiguous(memory_format=sys.modules["torch"].channels_last)
    return in_order
