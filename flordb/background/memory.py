"""Memory that a process and its child share: tensors and arrays travel through it.

An anonymous file (Linux's ``memfd``) mapped into both: nothing remains of it however they end, and
its pages are used again, for copies into fresh ones take three times as long.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from typing import Any

ALIGNED = 64


def aligned(nbytes: int) -> int:
    """``nbytes``, rounded up to where the next tensor may begin."""
    return -(-nbytes // ALIGNED) * ALIGNED


class Mapping:
    """A view of the shared file that follows its growth."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.bytes: Any = b""

    def at_least(self, size: int) -> Any:
        """The mapped bytes, of which there are ``size``. Raises OSError."""
        if len(self.bytes) < size:
            # The old mapping goes when the last tensor over it has gone.
            self.bytes = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
        return self.bytes


class Ring:
    """Places in the shared file, given in order and mostly freed in order, the lowest one first.

    Parameters: ``nbytes``, its size; it takes no memory before it is used. Raises OSError.
    """

    def __init__(self, nbytes: int) -> None:
        self.descriptor = os.memfd_create("flordb-background", os.MFD_CLOEXEC)
        self._mapping = Mapping(self.descriptor)
        self._held: deque[tuple[int, int]] = deque()
        self._freed: set[int] = set()
        self.size = 0
        try:
            self.grow(nbytes)
        except OSError:
            self.close()
            raise

    def grow(self, nbytes: int) -> None:
        """Be of at least this size. Only while nothing is held. Raises OSError."""
        if nbytes > self.size:
            size = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
            os.ftruncate(self.descriptor, size)
            self._mapping.at_least(size)
            self.size = size

    @property
    def bytes(self) -> Any:
        """The shared memory."""
        return self._mapping.bytes

    def start_for(self, nbytes: int) -> int | None:
        """Where ``nbytes`` could be placed now; None: nowhere."""
        if not self._held:
            return 0 if nbytes <= self.size else None
        first, last = self._held[0][0], self._held[-1][1]
        if last <= first:  # it goes round
            return last if first - last >= nbytes else None
        if first >= nbytes:
            return 0
        return last if self.size - last >= nbytes else None

    def hold(self, start: int, nbytes: int) -> None:
        """Take a place that `start_for` gave."""
        self._held.append((start, start + nbytes))

    def free(self, start: int) -> None:
        """Give back the place that begins there."""
        self._freed.add(start)
        while self._held and self._held[0][0] in self._freed:
            self._freed.remove(self._held.popleft()[0])

    def close(self) -> None:
        """Let go of the file; a mapping stays until nothing refers to it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            self._mapping.bytes = b""
