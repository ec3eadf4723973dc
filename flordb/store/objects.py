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
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import xxhash

from flordb.errors import DamageError, SnapshotError
from flordb.store import spool

_BLOCK = 4096
_DIRECT = getattr(os, "O_DIRECT", 0)
_AHEAD_BYTES = 1 << 20  # of more at a time, the kernel may read a part only
_POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14


def digest(data: bytes | bytearray | memoryview) -> str:
    """The name of an object: xxh3-128 over its raw bytes, in hex."""
    return xxhash.xxh3_128_hexdigest(data)


class ObjectStore:
    """Objects below a folder: ``<first two digits>/<the others>``. Many processes may use them.

    Parameters: ``renews``, whether reading an object makes it count as just used. A replay may not:
    in its overlay, to change a file's time is to copy the file. It notes what it has ``read``, and
    whoever asked for the replay says `renew`. ``unread``: what could not be read.
    """

    def __init__(self, folder: Path, renews: bool = True) -> None:
        self.folder = folder
        self.read: set[str] = set()
        self.unread: set[str] = set()
        self._renews = renews
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

    def is_away(self, name: str) -> bool:
        """Whether an object is spooled, and not here."""
        path = self.path(name)
        return not path.exists() and path.with_name(path.name + spool.SUFFIX).exists()

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
        if _renewed(path) and _size(path) == size:
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

        Raises SnapshotError where the object is gone, and DamageError where it is damaged.
        """
        try:
            return self._checked(name)
        except SnapshotError:
            self.unread.add(name)
            raise

    def drop_damaged(self, name: str) -> None:
        """Remove an object if it is not what its name says, so that it can be stored again."""
        try:
            self.get(name)
        except DamageError:
            path = self.path(name)
            path.unlink(missing_ok=True)
            path.with_name(path.name + spool.SUFFIX).unlink(missing_ok=True)
            self._known.discard(name)
        except SnapshotError:
            return

    def _checked(self, name: str) -> memoryview:
        try:
            data = self._mapped(name)
        except OSError as error:
            raise SnapshotError(
                f"object {name} of a snapshot cannot be read: {error}. It was removed from "
                f"{self.folder} or never written"
            ) from error
        if digest(data) != name:
            raise DamageError(
                f"object {name} of a snapshot is damaged: {self.path(name)} does not hold what its "
                "name says"
            )
        return data

    def renew(self, names: Iterable[str]) -> None:
        """Let these objects, where they are here, count as just used."""
        for name in names:
            _renewed(self.path(name))

    def expect(self, names: Iterable[str]) -> None:
        """Let the system begin to read these objects from the disk, where they are not in memory:
        a recording writes past the page cache."""
        for name in set(names) - self.read:
            with suppress(OSError, AttributeError):  # reading it will say why
                descriptor = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    for at in range(0, os.fstat(descriptor).st_size, _AHEAD_BYTES):
                        os.posix_fadvise(descriptor, at, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(descriptor)

    def _mapped(self, name: str) -> memoryview:
        self.read.add(name)
        path = self.path(name)
        if self._renews:
            _renewed(path)
        try:
            return memoryview(_map(path))
        except FileNotFoundError:
            note = spool.spooled(path)
            if note is None:
                raise
        data = bytearray(spool.fetch(note))
        if digest(data) != name:
            raise DamageError(f"{note['url']} is damaged: it does not hold what was spooled there")
        with suppress(OSError):  # no room, or a store that can only be read: fetched again then
            self.put(name, data)
        return memoryview(data)


def _map(path: Path) -> mmap.mmap | bytearray:
    """A file's bytes; what is written there stays in this process. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size == 0:
            return bytearray()
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)
    # All pages at once: one by one, as they are read, they take longer than reading them.
    with suppress(OSError, AttributeError):  # an older kernel, or another system
        mapped.madvise(_POPULATE_READ)
    return mapped


def _is_kept(path: Path) -> bool:
    # A power failure leaves files without contents behind. (An empty object is not worth keeping.)
    return bool(_size(path)) or path.with_name(path.name + spool.SUFFIX).exists()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


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
