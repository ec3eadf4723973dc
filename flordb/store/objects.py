"""The object store: immutable bytes by their content's hash, each stored once.

An object is here, or spooled to object storage (`spool`), from where reading brings it back.

An object is written to a temporary file and renamed, so it is there whole or not at all, whenever
the process is killed. Nothing is flushed to the device (no ``fsync``): after a power failure an
object may be damaged. Reading checks the content against the name, so damage is found and never
restored.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import xxhash

from flordb.errors import SnapshotError
from flordb.store import spool

_BLOCK = 4096
_DIRECT = getattr(os, "O_DIRECT", 0)


def digest(data: bytes | bytearray | memoryview) -> str:
    """The name of an object: xxh3-128 over its raw bytes, in hex."""
    return xxhash.xxh3_128_hexdigest(data)


class ObjectStore:
    """Objects below a folder: ``<first two digits>/<the others>``. Many processes may use them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: set[str] = set()
        self._direct = bool(_DIRECT)

    def path(self, name: str) -> Path:
        return self.folder / name[:2] / name[2:]

    def __contains__(self, name: str) -> bool:
        if name in self._known:
            return True
        found = _is_kept(self.path(name))
        if found:
            self._known.add(name)
        return found

    def is_new(self) -> bool:
        """Whether nothing was ever stored here."""
        return not self.folder.is_dir() or not any(self.folder.iterdir())

    def lacks(self, names: list[str]) -> list[str]:
        """Which of these objects are neither here nor spooled, whatever was known of them."""
        folder = f"{self.folder}{os.sep}"
        gone = [
            name
            for name in names
            if not os.access(f"{folder}{name[:2]}{os.sep}{name[2:]}", os.F_OK)
            and not _is_kept(self.path(name))
        ]
        self._known.difference_update(gone)
        return gone

    def put(self, name: str, data: bytes | bytearray | memoryview) -> int:
        """Store bytes under their digest. Returns the bytes written (0: it was there).

        Raises OSError where they cannot be written; then nothing of them is visible.
        """
        return self._put(name, memoryview(data), len(data), 0)

    def put_aligned(self, name: str, memory: mmap.mmap, size: int) -> int:
        """`put` of the first ``size`` bytes of a mapping, past the page cache where possible.

        Buffered writing would copy them once more, on a core that the training may need.
        """
        if self._direct and size >= _BLOCK:
            padded = memoryview(memory)[: -(-size // _BLOCK) * _BLOCK]
            try:
                return self._put(name, padded, size, _DIRECT)
            except OSError as error:
                if error.errno != 22:  # EINVAL: this file system has no direct writing
                    raise
                self._direct = False
        return self._put(name, memoryview(memory)[:size], size, 0)

    def _put(self, name: str, data: memoryview, size: int, flags: int) -> int:
        path = self.path(name)
        # Asked of the disk, not of the memory: the store may have been cleaned up meanwhile.
        if _renewed(path):
            self._known.add(name)
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            _write(temporary, data, size, flags)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._known.add(name)
        return size

    def get(self, name: str) -> memoryview:
        """An object's bytes, mapped into memory; what is written there stays in this process.

        Raises SnapshotError where the object is gone or damaged.
        """
        path = self.path(name)
        try:
            data = self._mapped(path)
        except OSError as error:
            raise SnapshotError(
                f"object {name} of a snapshot cannot be read: {error}. It was removed from "
                f"{self.folder} or never written; the replay has to start from an earlier one."
            ) from error
        if digest(data) != name:
            raise SnapshotError(
                f"object {name} of a snapshot is damaged: {self.path(name)} does not hold what its "
                "name says. Delete it; the replay has to start from an earlier snapshot."
            )
        return data

    def _mapped(self, path: Path) -> memoryview:
        if _renewed(path):
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    return memoryview(bytearray())
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        note = spool.spooled(path)
        if note is None:
            raise FileNotFoundError(path)
        data = bytearray(spool.fetch(note))
        self.put(path.parent.name + path.name, data)
        return memoryview(data)


def _is_kept(path: Path) -> bool:
    return path.exists() or path.with_name(path.name + spool.SUFFIX).exists()


def _renewed(path: Path) -> bool:
    """Whether an object is here; if so, it counts as just used, and gc leaves it alone."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:
        return path.exists()  # a store that can only be read
    return True


def _write(path: Path, data: memoryview, size: int, flags: int) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | flags, 0o644)
    try:
        done = 0
        while done < len(data):
            done += os.write(descriptor, data[done:])
        if done != size:
            os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)
