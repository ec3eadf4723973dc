"""The object store: immutable bytes by their content's hash, each stored once.

An object is written to a temporary file and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import xxhash

from flordb.errors import SnapshotError


def digest(data: bytes | bytearray | memoryview) -> str:
    """The name of an object: xxh3-128 over its raw bytes, in hex."""
    return xxhash.xxh3_128_hexdigest(data)


class ObjectStore:
    """Objects below a folder: ``<first two digits>/<the others>``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: set[str] = set()

    def path(self, name: str) -> Path:
        return self.folder / name[:2] / name[2:]

    def __contains__(self, name: str) -> bool:
        if name in self._known:
            return True
        found = self.path(name).exists()
        if found:
            self._known.add(name)
        return found

    def put(self, name: str, data: bytes | bytearray | memoryview) -> int:
        """Store bytes under their digest. Returns the bytes written (0: it was there).

        Raises OSError where they cannot be written; then nothing of them is visible.
        """
        path = self.path(name)
        # Asked of the disk, not of the memory: the store may have been cleaned up meanwhile.
        if path.exists():
            self._known.add(name)
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._known.add(name)
        return len(data)

    def get(self, name: str) -> memoryview:
        """An object's bytes, mapped into memory. Raises SnapshotError where it is gone."""
        try:
            with open(self.path(name), "rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    return memoryview(b"")
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise SnapshotError(
                f"object {name} of a snapshot cannot be read: {error}. It was removed from "
                f"{self.folder} or never written; the replay has to start from an earlier one."
            ) from error
