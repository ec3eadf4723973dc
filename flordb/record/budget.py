"""Keeps a project's snapshots within their budget while a run is recorded.

Removing and spooling is the work of ``flordb gc``, in a process of its own: it imports much, and
neither its processor time nor its failures may be the training's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flordb.errors import warn_in_training
from flordb.store.retention import size_of

_GROWTH = 1.1


class Budget:
    """Counts what the store takes; of the thread that writes snapshots."""

    def __init__(self, objects: Path, budget_bytes: int) -> None:
        self._objects = objects
        self._limit = float(budget_bytes)
        self._size: int | None = None
        self._collector: subprocess.Popen[bytes] | None = None
        self._warned = False

    def wrote(self, size: int) -> None:
        """Bytes were added. Starts ``flordb gc`` where the store exceeds its budget."""
        if self._collector is not None:
            if self._collector.poll() is None:
                return
            self._collector, self._size = None, None
            # Where it could free too little, it is not asked again for the same bytes.
            self._limit = max(self._limit, _GROWTH * size_of(self._objects))
        if self._size is None:
            self._size = size_of(self._objects)
        self._size += size
        if self._size > self._limit:
            self._collect()

    def _collect(self) -> None:
        root = self._objects.parent.parent
        if not self._warned:
            self._warned = True
            warn_in_training(
                f"the snapshots of {root} exceed their budget (snapshot_budget_bytes); "
                "`flordb gc` now spools or thins them behind the training."
            )
        command = [sys.executable, "-m", "flordb", "gc", "--project", str(root)]
        self._collector = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
