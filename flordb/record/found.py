"""What a run found of the files that git ignores, and rewrote or removed: its own checkpoints, say.

They are no part of its version, so a replay could take what a run left behind for what it found.
Looked at behind the training when the run begins, and again when it ends: names, times and sizes.
"""

from __future__ import annotations

import os
from pathlib import Path

from flordb.store.ignored import walk_ignored

_MOST_LOOKED_AT = 3_000
"""Files and folders. To look at them again costs the end of a run two microseconds each."""
_MOST_TOLD = 1_000


class Found:
    """The ignored files of a project as they are now. Raises GitError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        marks = ((name, _mark(root / name)) for name in walk_ignored(root, _MOST_LOOKED_AT))
        self._marks = {name: mark for name, mark in marks if mark is not None}

    def rewritten(self) -> list[str]:
        """Those that are other files by now, have been written to, or are gone; relative paths."""
        found = [name for name, mark in self._marks.items() if _mark(self._root / name) != mark]
        return found[:_MOST_TOLD]


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None for what is none."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size) if path.is_file() else None
