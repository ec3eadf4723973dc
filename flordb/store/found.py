"""Where run files are: on disk, or in a fresh clone only on git's ``flor/`` branches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flordb.errors import FlorError
from flordb.store.project import Project
from flordb.store.runfile import decompress, read_bytes


@dataclass(frozen=True)
class Entry:
    """A run file as it lies there: on disk, or only in git (``blob``)."""

    name: str
    place: str
    disk_size: int = 0
    mtime_ns: int = 0
    blob: str | None = None

    @property
    def path(self) -> Path:
        return Path(self.place)


def listing(project: Project) -> dict[str, Entry]:
    """The project's run files by name (without ``.gz``), in the order of time."""
    found: dict[str, Entry] = {}
    for entry in _files(project.runs):
        name = _plain(entry.name)
        # While a file is being compressed, both are there; the plain one is whole.
        if entry.name.endswith((".jsonl", ".gz")) and name not in found:
            try:
                stat = entry.stat()
            except OSError:
                continue
            found[name] = Entry(name, entry.path, stat.st_size, stat.st_mtime_ns)
    if project.has_git:
        from flordb.store import history

        try:
            blobs = history.list_run_files(project.root)
        except FlorError:
            blobs = {}  # no git, or none that works: what is on disk is all there is
        for file, blob in blobs.items():
            name = _plain(file)
            if name not in found:
                found[name] = Entry(name, str(project.runs / file), blob=blob)
    return dict(sorted(found.items()))


def _files(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _plain(file: str) -> str:
    return file.removesuffix(".gz")


def read(project: Project, entries: list[Entry]) -> Iterator[tuple[Entry, bytes | OSError]]:
    """The text of run files, one after another; that of those in git in one go."""
    blobs = [entry.blob for entry in entries if entry.blob is not None]
    texts: dict[str, bytes] = {}
    missing = OSError("its contents are not in this clone; git fetch --unshallow gets them")
    if blobs:
        from flordb.store.git import read_blobs

        try:
            texts = read_blobs(project.root, blobs)
        except FlorError as error:
            missing = OSError(str(error))
    for entry in entries:
        if entry.blob is not None:
            yield entry, _unpacked(entry, texts[entry.blob]) if entry.blob in texts else missing
            continue
        try:
            yield entry, read_bytes(entry.path)
        except OSError as error:
            yield entry, error


def _unpacked(entry: Entry, data: bytes) -> bytes:
    """The text of a run file in git; what is whole of one that was compressed when cut off."""
    if entry.path.suffix != ".gz":
        return data
    return decompress(data)
