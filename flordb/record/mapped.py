"""A snapshot's tensors and arrays: views of its blocks, which are mapped from the store."""

from __future__ import annotations

import ast
import importlib
import sys
from typing import Any

from flordb.store.objects import ObjectStore
from flordb.store.snapshots import Manifest, TensorRef


class MappedBlocks:
    """A snapshot's tensors: each block is mapped once, and tensors that shared memory share it.

    The mappings are private: what is written to a restored tensor never reaches the store.
    """

    def __init__(self, manifest: Manifest, objects: ObjectStore) -> None:
        self._manifest = manifest
        self._objects = objects
        self._mapped: dict[str, memoryview] = {}
        self._owners: dict[tuple[str, int], int] = {}
        self._blocks: dict[int, memoryview] = {}
        self._bytes: dict[tuple[int, str], Any] = {}
        self._made: dict[int, Any] = {}
        self._places: dict[int, memoryview] = {}

    def place(self, places: dict[int, memoryview]) -> None:
        """Let blocks be in live memory from when they are first asked for, and not be mapped."""
        self._places = places

    def tensor(self, number: int) -> Any:
        """The tensor or array with this number, always the same one."""
        if number not in self._made:
            reference = self._manifest.tensors[number]
            make = self._array if reference.kind == "numpy" else self._tensor
            self._made[number] = make(reference)
        return self._made[number]

    def _memory(self, number: int) -> memoryview:
        if number not in self._blocks:
            self._blocks[number] = data = self._block(number)
            if number in self._places:
                self._blocks[number] = self._places[number]
                self._blocks[number][:] = data
        return self._blocks[number]

    def _block(self, number: int) -> memoryview:
        block = self._manifest.blocks[number]
        if block.object not in self._mapped:
            self._mapped[block.object] = self._objects.get(block.object)
        data = self._mapped[block.object][block.offset : block.offset + block.size]
        if self._owners.setdefault((block.object, block.offset), number) != number:
            # Equal bytes are stored once, but these were not the same memory.
            return memoryview(bytearray(data))
        return data

    def _array(self, reference: TensorRef) -> Any:
        numpy = importlib.import_module("numpy")
        text = reference.dtype
        dtype = numpy.dtype(ast.literal_eval(text) if text.startswith("[") else text)
        if reference.block < 0:
            return numpy.empty(reference.shape, dtype)
        data = self._memory(reference.block)
        return numpy.ndarray(reference.shape, dtype, data, reference.offset, reference.strides)

    def _tensor(self, reference: TensorRef) -> Any:
        torch = sys.modules.get("torch") or importlib.import_module("torch")
        dtype = getattr(torch, reference.dtype)
        if reference.block < 0:
            return torch.empty(reference.shape, dtype=dtype, device=reference.device)
        block = self._on_device(torch, reference.block, reference.device)
        made = torch.empty(0, dtype=dtype, device=block.device)
        size = dtype.itemsize
        start = block.storage_offset() + reference.offset
        strides = tuple(stride // size for stride in reference.strides)
        return made.set_(block.untyped_storage(), start // size, reference.shape, strides)

    def _on_device(self, torch: Any, number: int, device: str) -> Any:
        if (number, device) not in self._bytes:
            data = torch.frombuffer(self._memory(number), dtype=torch.uint8)
            if device != "cpu":
                data = data.to(_available(torch, device))
            self._bytes[number, device] = data
        return self._bytes[number, device]


def _available(torch: Any, device: str) -> str:
    """Where a tensor of ``device`` goes on this machine."""
    kind = device.partition(":")[0]
    if kind in ("cpu", "meta"):
        return device
    backend = getattr(torch, kind, None)
    if backend is None or not backend.is_available():
        return "cpu"
    _, _, index = device.partition(":")
    return kind if index and int(index) >= backend.device_count() else device
