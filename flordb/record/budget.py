"""Keeps a project's snapshots within their budget, and off the last bytes of the disk, while a run
is recorded.

Removing and spooling is the work of ``flordb gc``, in a process of its own: it imports much, and
neither its processor time nor its failures may be the training's.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from flordb.errors import warn_in_training
from flordb.store.retention import size_of

_GROWTH = 1.1
_MOST_RESERVED = 0.02
"""Of a small file system only this share is kept free."""


class Budget:
    """Counts what the store takes; of the thread that writes snapshots.

    Parameters: ``objects``, the store's folder; ``budget_bytes``, what it may take;
    ``reserve_bytes``, what is to stay free on its file system.
    """

    def __init__(self, objects: Path, budget_bytes: int, reserve_bytes: int) -> None:
        self._objects = objects
        self._limit = float(budget_bytes)
        self._reserve = reserve_bytes
        self._size: int | None = None
        self._collector: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._warned = False
        self._failed = False

    def reserve(self, size: int) -> None:
        """Make sure that ``size`` bytes can be written. Raises OSError near the end of the disk.

        The training needs the last bytes more than a snapshot does.
        """
        if not hasattr(os, "statvfs"):
            return
        places = (self._objects, *self._objects.parents)
        found = os.statvfs(next(place for place in places if place.exists()))
        free = found.f_bavail * found.f_frsize
        kept = min(self._reserve, int(_MOST_RESERVED * found.f_blocks * found.f_frsize))
        if free - size < kept:
            raise OSError(
                errno.ENOSPC,
                f"{free / 1e9:.2f} GB are free on its file system, of which {kept / 1e9:.2f} GB "
                "are kept (disk_reserve_bytes). Snapshots go on when there is room; `flordb gc` "
                "makes some",
            )

    def has_room(self, size: int) -> bool:
        """Whether ``size`` bytes can be written. May be asked by any thread."""
        try:
            self.reserve(size)
        except OSError:
            return False
        return True

    def wrote(self, size: int) -> None:
        """Bytes were added. Starts ``flordb gc`` where the store exceeds its budget."""
        if self._collector is not None:
            if self._collector.poll() is None:
                return
            self._tell(self._collector.returncode)
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
        # Not the training's own stderr: who waits for its end would wait for gc, too.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (read when gc has ended)
        self._collector = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,
        )

    def _tell(self, status: int) -> None:
        """Warn where ``flordb gc`` failed, with its last words."""
        said, self._said = self._said, None
        if said is None:
            return
        with said:
            said.seek(0)
            words = said.read().decode(errors="replace").strip().rpartition("\n")[2]
        if status and not self._failed:
            self._failed = True
            warn_in_training(f"`flordb gc` failed ({status}): {words} Training goes on.")
