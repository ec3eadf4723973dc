"""Takes snapshots: what may change is copied at once, the rest happens behind the training.

The training thread gathers states (`capture`) and copies the blocks that changed (`blocks`). One
thread of flor's own hashes and writes them: objects first, the manifest last.
"""

from __future__ import annotations

import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from flordb.errors import SnapshotError, warn_in_training
from flordb.record.blocks import Blocks, Place
from flordb.record.buffers import Buffers, Stored
from flordb.record.capture import Captured, capture
from flordb.record.reach import Reach
from flordb.record.tensors import Piece
from flordb.store.objects import ObjectStore, digest
from flordb.store.snapshots import BlockRef, Manifest, SnapshotStore, TensorRef, read_manifest

_MOST_WAITING = 16
_MANIFESTS_REMEMBERED = 4


class Saved(NamedTuple):
    """What became of a snapshot: the seconds until it was stored, the CPU time that it took behind
    the training (seconds), and the bytes written."""

    boundary: str
    seconds: float
    cpu: float
    bytes: int


@dataclass(frozen=True)
class _Taken:
    boundary: str
    captured: Captured
    places: list[Place]
    written: list[Stored]
    info: dict[str, Any]


class Snapshotter:
    """Takes the snapshots of one run.

    Parameters: ``saved`` is called after each, behind the training; ``is_project``, whether a
    source file is the project's; ``max_bytes``, the largest variable that is kept;
    ``memory_bytes``, how much may be on its way to the disk before the training has to wait.
    """

    def __init__(
        self,
        objects: ObjectStore,
        snapshots: SnapshotStore,
        saved: Callable[[Saved], None],
        is_project: Callable[[str], bool],
        max_bytes: int,
        memory_bytes: int,
    ) -> None:
        self._objects = objects
        self._snapshots = snapshots
        self._saved = saved
        self._is_project = is_project
        self._max_bytes = max_bytes
        self._given_up: dict[str, str] = {}
        self._buffers = Buffers(memory_bytes)
        self._blocks = Blocks(objects, self._buffers)
        self._warned: set[str] = set()
        self._prepared = False
        self._queue: queue.Queue[_Taken | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="flordb-snapshots", daemon=True)
        self._thread.start()

    def take(self, boundary: str, found: Reach, info: dict[str, Any]) -> None:
        """Take a snapshot of what was found; it is stored when ``saved`` is called."""
        captured = capture(found, self._is_project, self._max_bytes, self._given_up)
        places, written = self._blocks.take(captured.pieces, kind_of(boundary))
        self._queue.put(_Taken(boundary, captured, places, written, info))

    def close(self, wait_seconds: float) -> bool:
        """Store what waits. Returns whether all of it was stored within the time."""
        try:
            self._queue.put(None, timeout=wait_seconds)
        except queue.Full:
            return False
        self._thread.join(wait_seconds)
        self._blocks.close()
        return not self._thread.is_alive()

    # Behind the training.

    def _run(self) -> None:
        self._remember()
        while (taken := self._queue.get()) is not None:
            try:
                self._save(taken)
            except Exception as error:  # a snapshot that fails must not end the training
                self._blocks.forget()
                self._warn(taken.boundary, error)
            finally:
                self._give_back(taken.written)
            self._prepare(taken.captured.pieces)

    def _save(self, taken: _Taken) -> None:
        began, cpu = time.perf_counter(), time.thread_time()
        written = sum(self._write(stored) for stored in taken.written)
        state = digest(taken.captured.state)
        written += self._objects.put(state, taken.captured.state)
        manifest = Manifest(
            taken.boundary,
            state,
            tuple(_block(place) for place in taken.places),
            tuple(_tensor(piece) for piece in taken.captured.pieces),
            taken.captured.missing,
            taken.captured.names,
            taken.info,
        )
        lacking = self._objects.lacks(sorted(manifest.objects))
        if lacking:
            raise SnapshotError(f"{len(lacking)} objects are gone from {self._objects.folder}")
        written += self._snapshots.save(manifest)
        seconds = time.perf_counter() - began
        self._saved(Saved(taken.boundary, seconds, time.thread_time() - cpu, written))

    def _write(self, stored: Stored) -> int:
        buffer = stored.buffer
        assert buffer is not None
        if stored.ready is not None:
            stored.ready.synchronize()
        if stored.name is None:
            stored.name = digest(buffer.view)
        try:
            written = self._objects.put_aligned(stored.name, buffer.memory, stored.size)
        except OSError:
            stored.stored = False
            raise
        stored.stored = True
        return written

    def _give_back(self, written: list[Stored]) -> None:
        for stored in written:
            if stored.buffer is not None:
                stored.stored = bool(stored.stored)
                self._buffers.give_back(stored.buffer)
                stored.buffer = None

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
                self._blocks.add_small(block.digest, block.object, block.offset, block.size)

    def _prepare(self, pieces: list[Piece]) -> None:
        """After the first tensors were met: buffers for those that the training is to change."""
        if self._prepared or not pieces:
            return
        self._prepared = True
        torch = sys.modules.get("torch")
        if torch is None:
            return
        # A parameter will have a gradient, and Adam's two averages.
        sizes = [p.extent for p in pieces if isinstance(p.value, torch.nn.Parameter)]
        self._buffers.prepare(sizes)

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


def _block(place: Place) -> BlockRef:
    if place.object.name is None:
        raise SnapshotError("an object that it shares with an earlier one could not be written")
    return BlockRef(place.object.name, place.offset, place.size, place.digest)


def _tensor(piece: Piece) -> TensorRef:
    return TensorRef(
        *(piece.kind, piece.dtype, piece.shape, piece.strides),
        *(piece.block, piece.offset, piece.device),
    )
