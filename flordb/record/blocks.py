"""Which blocks of memory a snapshot must copy: those whose bytes the store does not have yet.

For each block this learns, from one kind of boundary to the next, whether it changes in between
(what trains is expected to, at first):

- one that was written to each time is copied at once and hashed behind the training;
- one that may have changed is hashed in place, and copied where its hash is new;
- one that did not change is watched (`writes`), and then costs neither while nobody writes to it.

What was learned decides only how much work a snapshot is, never what it holds: a block counts as
unchanged by its hash, or because the kernel says that its pages were not written.
"""

from __future__ import annotations

import ctypes
import sys
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flordb.record.buffers import Buffers, Stored
from flordb.record.devices import Copying
from flordb.record.small import Group, Packer, Place, Staged
from flordb.record.tensors import Layout, Piece, Range
from flordb.record.writes import WriteWatch
from flordb.store.objects import ObjectStore, digest
from flordb.store.snapshots import TensorRef

SMALL_BYTES = 1 << 20
"""Smaller blocks share one object of a snapshot (`small`); larger ones are objects of their own."""

_MOST_UNWRITTEN = 16_000_000
"""While there are few buffers. Later, writing beside copying would only slow it down."""
_ROUNDS_KEPT = 16


@dataclass(slots=True)
class _Known:
    """What is stored of a range of memory. ``question`` asks whether it was written since, where it
    is watched; ``edges``: its bytes outside whole pages."""

    place: Place
    question: bytearray | None
    edges: bytes
    round: int


@dataclass(frozen=True, slots=True)
class Found:
    """Where the blocks of a snapshot are going to be. ``places``: of each (None: in a group);
    ``groups``: numbers of blocks, and the group that has their places once it is packed."""

    places: list[Place | None]
    groups: list[tuple[list[int], Staged]]
    tensors: tuple[TensorRef, ...]


@dataclass(slots=True)
class _Learned:
    """``changed``: whether a block changed after the last boundary of a kind."""

    changed: dict[str, bool] = field(default_factory=dict)
    last: str = ""
    place: Place | None = None
    before: tuple[str, Place] | None = None

    def settle(self) -> None:
        """Learn from the block's last two states, once both are hashed."""
        if self.before is None or self.place is None:
            return
        kind, place = self.before
        old, new = place.object.name, self.place.object.name
        if old is not None and new is not None:
            self.changed[kind] = old != new
            self.before = None

    def is_steady(self, kind: str) -> bool:
        """Whether it has not changed after this kind of boundary, nor after any other.

        Only such a block is watched: protecting one that changes, and the writes to it, would
        take as long as hashing it.
        """
        known = kind in self.changed and self.last in self.changed
        return known and not any(self.changed.values())

    def stands(self, kind: str, place: Place) -> None:
        if self.place is not None:
            self.before = (self.last, self.place)
        self.last, self.place = kind, place
        self.settle()


class Blocks:
    """Takes the blocks of one snapshot after the other. Of one thread, except for `forget`.

    Parameters: ``packer`` knows small blocks; ``write`` is given new objects early, where the
    buffers do not suffice for all: it gives them back, so that a snapshot may be larger than all
    buffers together.
    """

    def __init__(
        self,
        objects: ObjectStore,
        buffers: Buffers,
        packer: Packer,
        write: Callable[[list[Stored]], None],
    ) -> None:
        self._write = write
        self._packer = packer
        self._objects = objects
        self._buffers = buffers
        self._watch = WriteWatch()
        self._layout: Layout | None = None
        self._known: dict[tuple[int, int], _Known] = {}
        self._learned: dict[Any, _Learned] = {}
        self._round = 0
        self._forget = False
        self._is_first_run = objects.is_new()
        self._single: list[int] = []
        self._copied: list[Stored] = []
        self._copied_bytes = 0
        buffers.when_short = self._write_early

    def take(self, pieces: list[Piece], kind: str) -> Found:
        """Where the blocks of these pieces are going to be, and these in the blocks.

        Parameters: ``kind`` names the boundary without its iterations.
        """
        if self._forget:
            self._forget = False
            self._known.clear()
            self._learned.clear()
            self._layout = None
        self._round += 1
        self._watch.look()
        layout = self._layout_of(pieces)
        places: list[Place | None] = [None] * len(layout.ranges)
        fresh: dict[str, Stored] = {}
        with Copying(self._buffers) as copying:
            for number in self._single:
                block = layout.ranges[number]
                if block.device != "cpu":
                    stored = copying.from_device(block, pieces[block.first].value)
                    self._copied.append(stored)
                    places[number] = Place(stored, 0, block.size)
                else:
                    places[number] = self._large(block, pieces[block.first], kind, fresh)
        groups = [(group.numbers, self._group(group, kind)) for group in layout.groups]
        return Found(places, groups, layout.refs)

    def _layout_of(self, pieces: list[Piece]) -> Layout:
        last = self._layout
        addresses = last.addresses if last is not None else None
        layout = self._layout = Layout.of(pieces, last)
        if layout is not last:
            self._learn(layout, pieces)
        if layout.addresses is not addresses:
            self._prune([layout.ranges[number] for number in self._single])
        return layout

    def copied(self) -> list[Stored]:
        """The copies that were made since this was called, to be written."""
        copied, self._copied, self._copied_bytes = self._copied, [], 0
        return copied

    def _write_early(self) -> None:
        self._write(self.copied())

    def _learn(self, layout: Layout, pieces: list[Piece]) -> None:
        """Find what was learned of each block of a layout."""
        if self._round == 1:
            _expect_averages(pieces, layout)
        self._single = []
        small: dict[bool, list[int]] = {True: [], False: []}
        for number, block in enumerate(layout.ranges):
            if block.device == "cpu" and block.size < SMALL_BYTES:
                small[block.changes].append(number)
                continue
            self._single.append(number)
            key = pieces[block.first].key, block.size
            block.learned = self._learned.setdefault(key, _Learned())
        layout.groups = [Group(n, layout.ranges, _Learned()) for n in small.values() if n]

    def _group(self, group: Group, kind: str) -> Staged:
        learned: _Learned = group.learned
        learned.settle()
        last = learned.place.object if learned.place is not None else None
        # After a nested loop, its iteration hardly ever trains.
        expected = group.changes and not learned.last.endswith("@exit")
        changes = last is None or learned.changed.get(learned.last, expected)
        stays = not learned.changed.get(kind, kind.endswith("@enter"))
        digests = group.digests() if stays or not changes else None
        if changes or digests is None:
            staged = group.copy_all(self._buffers.take(group.size))
            if digests is not None:
                staged.name_by(digests)
            self._copied.append(staged)
        else:
            staged = self._changed_of(group, digests, last)
        learned.stands(kind, Place(staged, 0, group.size))
        return staged

    def _changed_of(self, group: Group, digests: list[bytes], last: Stored | None) -> Staged:
        """A group of which only some blocks are likely to have changed, or none."""
        if isinstance(last, Staged) and last.stored is not False and last.digests == digests:
            return last
        staged, size = group.lacking(digests, self._packer.known)
        staged.buffer = self._buffers.take(size)
        group.copy(staged)
        self._copied.append(staged)
        return staged

    def forget(self) -> None:
        """The store may have lost something: take everything anew. May be called by any thread."""
        self._forget = True

    def close(self) -> None:
        self._watch.close()

    def _large(self, block: Range, piece: Piece, kind: str, fresh: dict[str, Stored]) -> Place:
        memory = (block.address, block.size)
        learned: _Learned = block.learned
        learned.settle()
        known = self._known.get(memory)
        if known is not None and self._is_untouched(block, known):
            known.round = self._round
            if any(learned.changed.values()):
                # Training will write to it again: that must not cost it anything.
                self._watch.release(*memory)
                known.question = None
            learned.stands(kind, known.place)
            return known.place
        question = None
        is_new = learned.place is None
        # What was moved meanwhile is likely to be moved again.
        steady = not block.changes if is_new else known is not None and learned.is_steady(kind)
        if steady and _is_private(piece):
            # Before it is read, so that a write from another thread is noticed.
            if self._watch.protect(*memory):
                question = self._watch.question(*memory)
        elif known is not None and known.question is not None:
            self._watch.release(*memory)
        # The store of a first run has none of it: so no look, but a copy, and the hash behind.
        changes = self._is_first_run if is_new else learned.changed.get(learned.last, False)
        if changes:
            # A boundary that finds it unchanged does so by its name, perhaps before it is written.
            stays = not learned.changed.get(kind, kind.endswith("@enter"))
            name = digest(block.view) if stays else None
            place = Place(self._copy(name, block), 0, block.size)
        else:
            place = self._named(block, learned.place, fresh)
        edges = self._edges(block) if question is not None else b""
        self._known[memory] = _Known(place, question, edges, self._round)
        learned.stands(kind, place)
        return place

    def _is_untouched(self, block: Range, known: _Known) -> bool:
        return (
            known.question is not None
            and known.place.object.stored is not False
            and self._watch.untouched(known.question)
            and self._edges(block) == known.edges
        )

    def _named(self, block: Range, last: Place | None, fresh: dict[str, Stored]) -> Place:
        """The place of a block that is likely to be stored. ``last``: where it was before."""
        name = digest(block.view)
        if last is not None and last.object.name == name and last.object.stored is not False:
            return last
        found = fresh.get(name)
        if found is None and name in self._objects:
            found = Stored(name, block.size, stored=True)
        if found is None:
            found = fresh[name] = self._copy(name, block)
        return Place(found, 0, block.size)

    def _copy(self, name: str | None, block: Range) -> Stored:
        few = not self._buffers.prepared
        if few and self._copied_bytes + block.size > _MOST_UNWRITTEN:
            self._write_early()
        buffer = self._buffers.take(block.size)
        ctypes.memmove(buffer.address, block.address, block.size)
        stored = Stored(name, block.size, buffer)
        self._copied.append(stored)
        self._copied_bytes += block.size
        return stored

    def _edges(self, block: Range) -> bytes:
        start, end = self._watch.pages(block.address, block.size)
        head = ctypes.string_at(block.address, start - block.address)
        return head + ctypes.string_at(end, block.address + block.size - end)

    def _prune(self, ranges: list[Range]) -> None:
        """Drop what was not met for long, and what overlaps memory that is used otherwise now."""
        now = {(block.address, block.size) for block in ranges if block.device == "cpu"}
        others = [memory for memory in self._known if memory not in now]
        if others:
            current = sorted(now)
            for memory in others:
                stale = self._round - self._known[memory].round > _ROUNDS_KEPT
                if stale or _overlaps(memory, current):
                    self._watch.release(*memory)
                    del self._known[memory]


def _expect_averages(pieces: list[Piece], layout: Layout) -> None:
    """What is shaped like a tensor that trains may be an average of it, and then changes too."""
    trained = {(piece.dtype, piece.shape) for piece in pieces if piece.trains}
    for piece, ref in zip(pieces, layout.refs, strict=True):
        if ref.block >= 0 and (piece.dtype, piece.shape) in trained:
            layout.ranges[ref.block].changes = True


def _is_private(piece: Piece) -> bool:
    """Whether only processors write to a piece's memory: devices write to pinned memory."""
    torch = sys.modules.get("torch")
    if torch is None or piece.kind != "torch" or not torch.cuda.is_initialized():
        return True
    return not piece.value.is_pinned()


def _overlaps(memory: tuple[int, int], current: list[tuple[int, int]]) -> bool:
    start, size = memory
    at = bisect_left(current, (start + size,)) - 1
    return at >= 0 and current[at][0] + current[at][1] > start
