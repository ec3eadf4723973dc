"""Takes snapshots: what may change is copied at once, the rest happens behind the training.

The training thread gathers states (`capture`) and copies the blocks that changed (`blocks`). One
thread of flor's own hashes and writes them: objects first, the manifest last.
"""

from __future__ import annotations

import errno
import os
import pickle
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flordb.errors import SnapshotError, warn_in_training
from flordb.record.adaptive import Adaptive, observed_ratio
from flordb.record.blocks import SMALL_BYTES, Blocks, Found
from flordb.record.budget import Budget
from flordb.record.buffers import Buffer, Buffers, Stored
from flordb.record.capture import Captured, Unpickled, capture
from flordb.record.hooks import Hooks
from flordb.record.modes import Modes
from flordb.record.reach import Reach
from flordb.record.small import Packer, Place, Staged
from flordb.record.trees import Trees
from flordb.settings import Settings
from flordb.store.objects import ObjectStore, digest
from flordb.store.snapshots import BlockRef, Manifest, SnapshotStore, read_manifest

_MOST_WAITING = 16
_MANIFESTS_REMEMBERED = 4


class _Shared(SnapshotError):
    """An object was not written, which was said of another snapshot."""


class Saved(NamedTuple):
    """What became of a snapshot: the seconds until it was stored, the CPU time that it took behind
    the training (seconds), and the bytes written."""

    boundary: str
    seconds: float
    cpu: float
    bytes: int


@dataclass(frozen=True)
class _Taken:
    """A snapshot whose objects are on their way. ``growth``: sizes of what is going to change."""

    boundary: str
    said: Unpickled
    found: Found
    missing: dict[str, str]
    info: dict[str, Any]
    growth: list[int] | None
    held: float


class Snapshotter:
    """Takes the snapshots of one run.

    Parameters: ``saved`` is called after each, behind the training; ``is_project``, whether a
    source file is the project's; ``adaptive`` learns what restoring took in earlier replays.
    """

    def __init__(
        self,
        objects: ObjectStore,
        snapshots: SnapshotStore,
        saved: Callable[[Saved], None],
        is_project: Callable[[str], bool],
        chosen: Settings,
        adaptive: Adaptive,
    ) -> None:
        self._objects = objects
        self._snapshots = snapshots
        self._saved = saved
        self._is_project = is_project
        self._chosen = chosen
        self._adaptive = adaptive
        self._given_up: dict[str, str] = {}
        self._trees = Trees()
        self._modes = Modes()
        self._hooks = Hooks()
        self._buffers = Buffers(chosen.snapshot_memory_bytes)
        self._queue: queue.SimpleQueue[Sequence[Stored | _Taken] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(_MOST_WAITING)
        self._packer = Packer()
        self._blocks = Blocks(objects, self._buffers, self._packer, self._queue.put)
        self._budget = Budget(
            objects.folder, chosen.snapshot_budget_bytes, chosen.disk_reserve_bytes
        )
        self._warned: set[str] = set()
        self._prepared = False
        self.expected = 0.0
        """Seconds that the snapshots of an iteration may take, by the last snapshot."""
        # Of the snapshot that is being written.
        self._wanted = 0
        self._written = 0
        self._seconds = 0.0
        self._failure: Exception | None = None
        self._lacking = 0
        self._cpu_before = 0.0
        self._thread = threading.Thread(target=self._run, name="flordb-snapshots", daemon=True)
        self._thread.start()

    def known(self, boundary: str) -> Trees:
        """What earlier snapshots know, to be asked about a boundary before `take`."""
        self._trees.release()
        self._trees.begin(kind_of(boundary), "=" in boundary)
        return self._trees

    def take(self, boundary: str, found: Reach, info: dict[str, Any]) -> bool:
        """Take a snapshot of what was found; it is stored when ``saved`` is called.

        Waits where too many snapshots, or copies of too many bytes, are on their way to the disk.
        Returns False, and takes none, while the disk has no room for the bytes that it lacked last.
        """
        if self._lacking and not self._budget.has_room(self._lacking):
            self._trees.release()
            return False
        self._lacking = 0
        self._room.acquire()
        began = time.perf_counter()
        taken = None
        try:
            self._trees.begin(kind_of(boundary), "=" in boundary)
            captured = capture(
                *(found, self._is_project, self._chosen.max_variable_bytes),
                *(self._given_up, self._trees, self._modes),
                hooks=self._hooks,
                boundary=boundary,
            )
            gathered = time.perf_counter()
            places = self._blocks.take(captured.pieces, kind_of(boundary))
            if "=" not in boundary:
                self._expect(captured, gathered - began, time.perf_counter() - gathered)
            taken = _Taken(
                boundary,
                captured.said,
                places,
                captured.missing,
                info=info,
                growth=self._growth(captured),
                held=time.perf_counter() - began,
            )
        finally:
            self._trees.release()
            works: list[Stored | _Taken] = [*self._blocks.copied()]
            if taken is None:
                self._room.release()
            else:
                works.append(taken)
            self._queue.put(works)
        return True

    def _expect(self, captured: Captured, gathering: float, copying: float) -> None:
        """Estimate an iteration's snapshots (two: of its loop and its own) from one outside.

        What trains is all that is expected to change: it, its gradients, and what the optimizers
        keep of it.
        """
        total = sum(piece.extent for piece in captured.pieces)
        trains = sum(piece.extent for piece in captured.pieces if piece.trains)
        share = (2 + captured.averages) * trains / total if total and trains else 1.0
        self.expected = 2 * gathering + min(1.0, share) * copying

    def close(self, wait_seconds: float) -> bool:
        """Store what waits. Returns whether all of it was stored within the time."""
        self._queue.put(None)
        self._thread.join(wait_seconds)
        self._blocks.close()
        return not self._thread.is_alive()

    def _growth(self, captured: Captured) -> list[int] | None:
        """The first time: sizes of what the training is going to change, with the gradients, and
        what the optimizers keep for each parameter; of what is small, all together."""
        if self._prepared or not captured.pieces:
            return None
        self._prepared = True
        trains = [piece.extent for piece in captured.pieces if piece.trains]
        copies = 2 + captured.averages
        large = [size for size in trains if size >= SMALL_BYTES]
        small = sum(size for size in trains if size < SMALL_BYTES)
        return large * copies + [small * copies] * bool(small)

    # Behind the training.

    def _run(self) -> None:
        self._remember()
        self._adaptive.observe(observed_ratio(self._objects.folder.parent / "runs"))
        while (works := self._queue.get()) is not None:
            for work in works:
                began = time.perf_counter()
                if isinstance(work, Stored):
                    self._put(work)
                    self._seconds += time.perf_counter() - began
                else:
                    self._finish(work, began)

    def _finish(self, taken: _Taken, began: float) -> None:
        """Make a snapshot visible, whose objects were all written, or say that one was not."""
        try:
            self._save(taken, began)
        except _Shared:
            self._forget()
        except Exception as error:  # a snapshot that fails must not end the training
            self._forget()
            self._warn(taken.boundary, error)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                self._lacking = self._wanted
        self._wanted, self._written, self._seconds, self._failure = 0, 0, 0.0, None
        self._room.release()
        if taken.growth is not None:
            self._buffers.prepare(taken.growth)

    def _forget(self) -> None:
        self._packer.known.clear()
        self._blocks.forget()

    def _put(self, work: Stored) -> None:
        """Write an object, or what is new of a group."""
        buffer = work.buffer
        assert buffer is not None
        if isinstance(work, Staged):
            packed = self._packer.pack(work)
            work.buffer = None
            if packed is not None:
                self._write(packed, buffer)
            work.stored = packed is None or packed.stored
        else:
            work.buffer = None
            self._write(work, buffer)
        self._buffers.give_back(buffer)

    def _write(self, stored: Stored, buffer: Buffer) -> None:
        """Write an object. A failure is kept for the snapshot that it belongs to."""
        try:
            if stored.ready is not None:
                stored.ready.synchronize()
            if stored.name is None:
                stored.name = digest(buffer.view)
            self._wanted += stored.size
            self._budget.reserve(stored.size)
            self._written += self._objects.put_aligned(stored.name, buffer.memory, stored.size)
            stored.stored = True
        except Exception as error:
            stored.stored = False
            self._failure = error

    def _save(self, taken: _Taken, began: float) -> None:
        if self._failure is not None:
            raise self._failure
        data = pickle.dumps(taken.said.state(), protocol=5)
        state = digest(data)
        self._written += self._objects.put(state, data)
        names = tuple(sorted(taken.said.names()))
        manifest = Manifest(
            *(taken.boundary, state, tuple(map(_block, _places(taken.found))), taken.found.tensors),
            *(taken.missing, names, taken.info, round(taken.held, 6)),
        )
        lacking = self._objects.lacks(sorted(manifest.objects))
        if lacking:
            raise SnapshotError(f"{len(lacking)} objects are gone from {self._objects.folder}")
        self._written += self._snapshots.save(manifest)
        self._budget.wrote(self._written)
        seconds = self._seconds + time.perf_counter() - began
        self._saved(Saved(taken.boundary, seconds, self._cpu(), self._written))

    def _cpu(self) -> float:
        """Processor time of this thread since it was last asked."""
        now = time.thread_time()
        since, self._cpu_before = now - self._cpu_before, now
        return since

    def _remember(self) -> None:
        """Learn which small blocks earlier runs have stored."""
        try:
            folders = sorted(self._snapshots.folder.parent.iterdir(), reverse=True)
            for folder in folders[: _MANIFESTS_REMEMBERED + 1]:
                for path in sorted(folder.glob("*enter.json"))[:1]:
                    self._remember_of(read_manifest(path))
        except (OSError, SnapshotError):
            return  # then they are stored again

    def _remember_of(self, manifest: Manifest) -> None:
        for block in manifest.blocks:
            if block.digest and block.object in self._objects:
                self._packer.add(block.digest, block.object, block.offset, block.size)

    def _warn(self, boundary: str, error: Exception) -> None:
        what = type(error).__name__
        if what not in self._warned:
            self._warned.add(what)
            message = f"the snapshot at {boundary} could not be written: {error}"
            warn_in_training(f"{message}. Training goes on.")


def kind_of(boundary: str) -> str:
    """A boundary without the numbers of its iterations: ``step@exit``, ``epoch@end``."""
    return re.sub(r"=\d+", "", boundary.rpartition("/")[2])


def cores_short() -> bool:
    """Whether the training leaves no core free for a thread of flor's own."""
    torch = sys.modules.get("torch")
    busy = torch.get_num_threads() if torch is not None else 1
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return bool(busy >= cores)


def _places(found: Found) -> list[Place | None]:
    places = list(found.places)
    for numbers, group in found.groups:
        for number, place in zip(numbers, group.places, strict=True):
            places[number] = place
    return places


def _block(place: Place | None) -> BlockRef:
    if place is None or place.object.name is None or place.object.stored is False:
        raise _Shared("an object that it shares with an earlier one could not be written")
    return BlockRef(place.object.name, place.offset, place.size, place.digest)
