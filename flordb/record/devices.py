"""Copies from accelerators, on a stream of their own, so that the training thread does not wait.

The device itself orders the copy: after the kernels that were launched before the snapshot, and
before those that the training launches next.
"""

from __future__ import annotations

import sys
from typing import Any

from flordb.record.buffers import Buffer, Buffers, Stored
from flordb.record.tensors import Range

_streams: dict[str, Any] = {}


class Copying:
    """Begins the copies of one snapshot's blocks; those from CUDA end behind the training."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._used: set[str] = set()

    def __enter__(self) -> Copying:
        return self

    def __exit__(self, *error: object) -> None:
        torch = sys.modules.get("torch")
        for device in self._used:
            stream = _streams[device]
            torch.cuda.current_stream(device).wait_stream(stream)  # type: ignore[union-attr]

    def from_device(self, block: Range, tensor: Any) -> Stored:
        """An object with the bytes of a block on a device, still to be hashed.

        Parameters: ``tensor``, one that lies in it.
        """
        torch = sys.modules["torch"]
        storage = tensor.untyped_storage()
        start = block.address - storage.data_ptr()
        source = torch.empty(0, dtype=torch.uint8, device=tensor.device)
        source.set_(storage, start, (block.size,), (1,))
        buffer = self._buffers.take(block.size)
        target = torch.frombuffer(buffer.memory, dtype=torch.uint8, count=block.size)
        if tensor.device.type != "cuda":
            target.copy_(source)
            return Stored(None, block.size, buffer)
        stream = self._stream(torch, block.device)
        _pin(torch, buffer)
        source.record_stream(stream)
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        return Stored(None, block.size, buffer, ready=stream.record_event())

    def _stream(self, torch: Any, device: str) -> Any:
        if device not in _streams:
            _streams[device] = torch.cuda.Stream(device)
        stream = _streams[device]
        if device not in self._used:
            self._used.add(device)
            stream.wait_stream(torch.cuda.current_stream(device))
        return stream


def _pin(torch: Any, buffer: Buffer) -> None:
    """Let the device write to a buffer directly; without it the copy waits for the device."""
    if buffer.when_dropped is None:
        runtime = torch.cuda.cudart()
        runtime.cudaHostRegister(buffer.address, buffer.capacity, 0)
        buffer.when_dropped = lambda: runtime.cudaHostUnregister(buffer.address)
