"""Writes snapshots behind the training: objects first, the manifest last."""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from flordb.errors import FlorWarning
from flordb.record.capture import Captured
from flordb.store.objects import ObjectStore, digest
from flordb.store.snapshots import Manifest, SnapshotStore

_MOST_WAITING = 2


class Snapshotter:
    """One thread that stores captured snapshots in order.

    ``saved(boundary, seconds, bytes)`` is called after each. At most two wait; a third one holds
    up the training, so that memory stays bounded.
    """

    def __init__(
        self,
        objects: ObjectStore,
        snapshots: SnapshotStore,
        saved: Callable[[str, float, int], None],
    ) -> None:
        self._objects = objects
        self._snapshots = snapshots
        self._saved = saved
        self._troubled = False
        self._queue: queue.Queue[tuple[str, Captured, dict[str, Any]] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._thread = threading.Thread(target=self._run, name="flordb-snapshots", daemon=True)
        self._thread.start()

    def submit(self, boundary: str, captured: Captured, info: dict[str, Any]) -> None:
        self._queue.put((boundary, captured, info))

    def close(self, wait_seconds: float) -> bool:
        """Store what waits. Returns whether all of it was stored within the time."""
        try:
            self._queue.put(None, timeout=wait_seconds)
        except queue.Full:
            return False
        self._thread.join(wait_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                self._save(*work)
            except Exception as error:  # a snapshot that fails must not end the training
                self._warn(f"the snapshot at {work[0]} could not be written: {error}")

    def _save(self, boundary: str, captured: Captured, info: dict[str, Any]) -> None:
        began = time.perf_counter()
        written = 0
        for name, data in captured.blobs.items():
            written += self._objects.put(name, data)
        state = digest(captured.state)
        written += self._objects.put(state, captured.state)
        manifest = Manifest(
            *(boundary, state, tuple(captured.tensors), captured.missing, captured.names, info)
        )
        self._snapshots.save(manifest)
        self._saved(boundary, time.perf_counter() - began, written)

    def _warn(self, what: str) -> None:
        if not self._troubled:
            self._troubled = True
            warnings.warn(f"flordb: {what}. Training goes on.", FlorWarning, stacklevel=2)
