"""What a run found of the files that git ignores, and rewrote or removed: its own checkpoints, say.

They are no part of its version, so a replay could take what a run left behind for what it found.
Looked at behind the training when the run begins, and again when it ends: names, times and sizes.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from flordb.store.ignored import mark_of, walk_ignored

_MOST_LOOKED_AT = 3_000
"""Files and folders. To look at them again costs the end of a run two microseconds each."""
_MOST_TOLD = 1_000


class Found:
    """The ignored files of a project as they are now. Raises GitError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        marks = ((name, mark_of(root / name)) for name in walk_ignored(root, _MOST_LOOKED_AT))
        self._marks = {name: mark for name, mark in marks if mark is not None}

    def rewritten(self) -> dict[str, tuple[int, int]]:
        """Those that are other files by now, have been written to, or are gone: their paths below
        the root, with what they had been."""
        marks = self._marks.items()
        changed = ((name, mark) for name, mark in marks if mark_of(self._root / name) != mark)
        return dict(islice(changed, _MOST_TOLD))
