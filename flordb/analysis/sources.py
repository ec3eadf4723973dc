"""The Python files of a working tree, read again only where they may have changed.

A file or folder that looks as it did (inode, size, times of change) is not read again, except
where it changed so lately that a further change could look the same, as git treats its index.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

_NOT_OURS = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist", "venv"})
_SETTLED_SECONDS = 2.0  # the coarsest times of change of a file system (FAT)

_Stamp = tuple[int, int, int, int]


def _stamp(found: os.stat_result) -> _Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@dataclass(frozen=True)
class _Folder:
    """The names in a folder: those of folders to look into, and of Python files."""

    stamp: _Stamp
    folders: tuple[str, ...]
    files: tuple[str, ...]


@dataclass
class SourceTree:
    """A folder's Python files, also those below it. Used by one thread at a time."""

    root: Path
    _folders: dict[str, _Folder] = field(default_factory=dict)
    _files: dict[str, tuple[_Stamp, str]] = field(default_factory=dict)

    def read(self) -> dict[str, str]:
        """Path (relative, with slashes) to text. Files that cannot be read are left out."""
        before, self._files = self._files, {}
        known, self._folders = self._folders, {}
        settled = time.time_ns() - int(_SETTLED_SECONDS * 1e9)
        found: dict[str, str] = {}
        waiting = [""]
        while waiting:
            place = waiting.pop()
            try:
                folder = self._folder(place, known.get(place), settled)
            except OSError:
                continue
            waiting += [f"{place}{name}/" for name in folder.folders]
            for name in folder.files:
                text = self._text(place + name, before.get(place + name), settled)
                if text is not None:
                    found[place + name] = text
        return dict(sorted(found.items()))

    def _folder(self, place: str, known: _Folder | None, settled: int) -> _Folder:
        path = self.root / place
        stamp = _stamp(path.stat())
        if known is None or known.stamp != stamp:
            known = _looked_into(path, stamp)
        if max(stamp[2:]) < settled:
            self._folders[place] = known
        return known

    def _text(self, place: str, known: tuple[_Stamp, str] | None, settled: int) -> str | None:
        path = self.root / place
        try:
            stamp = _stamp(path.stat())
            text = known[1] if known is not None and known[0] == stamp else path.read_text()
        except (OSError, UnicodeDecodeError):
            return None  # unreadable files hold no statement of ours
        if max(stamp[2:]) < settled:
            self._files[place] = stamp, text
        return text


def _looked_into(path: Path, stamp: _Stamp) -> _Folder:
    folders, files = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name == "pyvenv.cfg":
                return _Folder(stamp, (), ())  # a virtual environment, whatever its name
            if entry.name.endswith(".py"):
                files.append(entry.name)
            elif entry.name.startswith(".") or entry.name in _NOT_OURS:
                continue
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
    return _Folder(stamp, tuple(folders), tuple(files))
