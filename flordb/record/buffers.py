"""Buffers of our own for what changes: page-aligned, reused, and bounded together.

Copying into memory that is used for the first time takes several times as long as into memory that
was used before, so buffers come back here. Their alignment lets the disk read them directly.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_PAGE = 4096
_FIRST_BYTES = 128_000_000


class Buffer:
    """``size`` bytes at ``address``, within a mapping of whole pages."""

    def __init__(self, capacity: int) -> None:
        self.memory = _memory(capacity)
        self.capacity = capacity
        self.size = 0
        self.when_dropped: Callable[[], None] | None = None
        self._start = ctypes.c_char.from_buffer(self.memory)
        self.address = ctypes.addressof(self._start)

    @property
    def view(self) -> memoryview:
        """The bytes in use."""
        return memoryview(self.memory)[: self.size]


def _memory(capacity: int) -> mmap.mmap:
    """New memory, which forks of this process neither share nor copy.

    Linux finds private memory in two thirds of the time that it needs for shared memory, but would
    copy each page that is written while a fork lives: so forks do without it.
    """
    if not hasattr(mmap, "MADV_DONTFORK"):
        return mmap.mmap(-1, capacity)
    memory = mmap.mmap(-1, capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)
    return memory


@dataclass(slots=True, eq=False)
class Stored:
    """An object on its way into the store, with its bytes in a buffer.

    ``name`` is None until it is hashed, ``stored`` None until it is written (False: it could not
    be). ``ready`` is an event of the device that still copies into the buffer.
    """

    name: str | None
    size: int
    buffer: Buffer | None = None
    stored: bool | None = None
    ready: Any = None


class Buffers:
    """Hands out buffers of at most ``limit`` bytes together; waits for some to come back.

    One that is larger than the limit is handed out when all others are back. Until `prepare`, there
    are only a few: what is copied first is copied once, most of it never changes, and waiting for
    the disk is no slower than waiting for new memory.
    """

    def __init__(self, limit: int) -> None:
        self.limit = min(limit, _FIRST_BYTES)
        self._later = limit
        self._free: list[Buffer] = []
        self._allocated = 0
        self._used = 0
        self._changed = threading.Condition()
        self.prepared = False
        self.when_short: Callable[[], None] = lambda: None
        """Called where a buffer has to be waited for."""

    def take(self, size: int) -> Buffer:
        """A buffer of ``size`` bytes. Waits while too many are out."""
        capacity = max(_PAGE, -(-size // _PAGE) * _PAGE)
        with self._changed:
            if self._used and self._used + capacity > self.limit:
                self.when_short()
            while self._used and self._used + capacity > self.limit:
                self._changed.wait()
            buffer = self._fitting(capacity) or self._allocate(capacity)
            self._used += buffer.capacity
        buffer.size = size
        return buffer

    def give_back(self, buffer: Buffer) -> None:
        with self._changed:
            self._used -= buffer.capacity
            self._free.append(buffer)
            self._changed.notify_all()

    def prepare(self, sizes: list[int]) -> None:
        """Have buffers of these sizes ready, with memory behind them, as far as the limit goes.

        To be called behind the training: the system takes long to find the memory.
        """
        with self._changed:
            self.limit, self.prepared = self._later, True
            self._changed.notify_all()
        for size in sizes:
            capacity = max(_PAGE, -(-size // _PAGE) * _PAGE)
            with self._changed:
                if self._allocated + capacity > self.limit:
                    return
                self._allocated += capacity
            buffer = Buffer(capacity)
            ctypes.memset(buffer.address, 0, capacity)
            with self._changed:
                self._free.append(buffer)

    def _fitting(self, capacity: int) -> Buffer | None:
        fitting = [b for b in self._free if capacity <= b.capacity <= 2 * capacity]
        if not fitting:
            return None
        best = min(fitting, key=lambda buffer: buffer.capacity)
        self._free.remove(best)
        return best

    def _allocate(self, capacity: int) -> Buffer:
        while self._free and self._allocated + capacity > self.limit:
            dropped = self._free.pop(0)
            self._allocated -= dropped.capacity
            if dropped.when_dropped is not None:
                dropped.when_dropped()
        self._allocated += capacity
        return Buffer(capacity)
