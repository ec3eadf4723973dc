"""Small blocks: copied, hashed and stored together, since one by one each costs the training more
than its bytes do.

A `Group` is the small blocks of a layout that are expected to change alike. The training hashes it
in place and copies the blocks that the store does not have, or copies all at once, where all are
likely to have changed, and has them hashed behind. The `Packer` puts what is new of a group's
copies into one object, behind the training.
"""

from __future__ import annotations

import mmap
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import xxhash

from flordb.record.buffers import Stored
from flordb.record.tensors import Range
from flordb.store.objects import digest

ALIGNMENT = 64
_ROUNDS_KEPT = 16
_FEWEST_KEPT = 1000


@dataclass(slots=True)
class Place:
    """Where a block is: ``size`` bytes at ``offset`` of an object. ``digest``: of a small block."""

    object: Stored
    offset: int
    size: int
    digest: str = ""
    round: int = 0


@dataclass(slots=True, eq=False)
class Staged(Stored):
    """A group of small blocks on its way into the store. Its name is all digests.

    ``slices``: where in the buffer each block is (None: it is not, its place is known); ``places``
    has the place of each, once it is packed.
    """

    digests: list[bytes] | None = None
    slices: list[slice | None] = field(default_factory=list)
    places: list[Place | None] = field(default_factory=list)

    def name_by(self, digests: list[bytes]) -> None:
        self.digests = digests
        self.name = name_of(digests)


def name_of(digests: list[bytes]) -> str:
    return b"".join(digests).hex()


class Group:
    """Small blocks with these numbers in their layout. ``learned``: what was learned of it."""

    def __init__(self, numbers: list[int], ranges: list[Range], learned: Any) -> None:
        self.numbers = numbers
        self.learned = learned
        self.changes = all(ranges[number].changes for number in numbers)
        self._ranges = [ranges[number] for number in numbers]
        self._slices, self.size = _apart([block.size for block in self._ranges])

    def digests(self) -> list[bytes]:
        """The hash of each block, as it is now."""
        return list(map(xxhash.xxh3_128_digest, [block.view for block in self._ranges]))

    def copy_all(self, buffer: Any) -> Staged:
        """Copy all blocks into a buffer of this group's size."""
        views = [block.view for block in self._ranges]
        # In one go, since a call for each would cost as much as its copy does.
        deque(map(buffer.memory.__setitem__, self._slices, views), maxlen=0)
        return Staged(
            None, self.size, buffer, slices=list(self._slices), places=[None] * len(views)
        )

    def lacking(self, digests: list[bytes], known: dict[bytes, Place]) -> tuple[Staged, int]:
        """This group with the places that are known, and the size of the others."""
        places = [known.get(hashed) for hashed in digests]
        places = [None if place and place.object.stored is False else place for place in places]
        sizes = [
            0 if place else block.size for place, block in zip(places, self._ranges, strict=True)
        ]
        apart, size = _apart(sizes)
        slices = [None if place else part for place, part in zip(places, apart, strict=True)]
        staged = Staged(None, size, slices=slices, places=places)
        staged.name_by(digests)
        return staged, size

    def copy(self, staged: Staged) -> None:
        """Copy the blocks whose place is not known into the buffer."""
        assert staged.buffer is not None
        for part, block in zip(staged.slices, self._ranges, strict=True):
            if part is not None:
                staged.buffer.memory[part] = block.view


def _apart(sizes: list[int]) -> tuple[list[slice], int]:
    """Where blocks of these sizes lie one after the other, and how many bytes they take."""
    slices: list[slice] = []
    end = 0
    for size in sizes:
        slices.append(slice(end, end + size))
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return slices, end


class Packer:
    """Puts what is new of staged groups into objects; of the thread that writes snapshots.

    ``known``: the places of small blocks by their hashes. Others may look something up there.
    """

    def __init__(self) -> None:
        self.known: dict[bytes, Place] = {}
        self._round = 0
        self._most = 0

    def add(self, hashed: str, name: str, offset: int, size: int) -> None:
        """Tell of a block that an earlier run has stored."""
        place = Place(Stored(name, 0, stored=True), offset, size, hashed)
        self.known.setdefault(bytes.fromhex(hashed), place)

    def pack(self, staged: Staged) -> Stored | None:
        """The object with the bytes that are new, in the same buffer; None: there are none."""
        self._round += 1
        assert staged.buffer is not None
        memory, size = staged.buffer.memory, 0
        view = memoryview(memory)
        packed = Stored(None, 0)
        digests = staged.digests or [
            xxhash.xxh3_128_digest(view[part]) for part in staged.slices if part is not None
        ]
        for number, (part, hashed) in enumerate(zip(staged.slices, digests, strict=True)):
            place = staged.places[number] or self.known.get(hashed)
            if place is None or place.object.stored is False:
                assert part is not None
                place = self._put(memory, part, size, packed, hashed)
                size += -(-place.size // ALIGNMENT) * ALIGNMENT
            place.round = self._round
            staged.places[number] = place
        view.release()
        staged.name_by(digests)
        self._prune(len(digests))
        if not size:
            return None
        staged.buffer.size = packed.size = size
        packed.name = digest(staged.buffer.view)
        return packed

    def _put(
        self, memory: mmap.mmap, part: slice, offset: int, packed: Stored, hashed: bytes
    ) -> Place:
        if part.start != offset:
            memory.move(offset, part.start, part.stop - part.start)
        place = Place(packed, offset, part.stop - part.start, hashed.hex())
        self.known[hashed] = place
        return place

    def _prune(self, count: int) -> None:
        """Forget blocks that were not met for long."""
        self._most = max(self._most, count)
        if len(self.known) > 4 * self._most + _FEWEST_KEPT:
            oldest = self._round - _ROUNDS_KEPT
            self.known = {h: p for h, p in self.known.items() if p.round >= oldest}
