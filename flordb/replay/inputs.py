"""Which of the files that a replay reads were written after the run: it did not read them so.

Data are not in the version. Where they have changed, a replayed value is computed from what is
there now, and the user is told. Python announces what it opens (`sys.audit`); what C libraries open
by themselves, and processes that a script starts, are not seen.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from typing import Any

from flordb.replay.guard import writable_folders
from flordb.store.project import STORE

_MOST_FILES = 100_000
_MOST_TOLD = 20


class Inputs:
    """An audit hook. ``ended``: when the run was over; ``began``: when the replay began; both in
    seconds since 1970. What was written later than that, the replay has written itself."""

    def __init__(self, ended: float, began: float, workspace: str) -> None:
        self._ended = ended
        self._began = began
        self._workspace = os.path.join(workspace, "")
        paths = (*sysconfig.get_paths().values(), sys.prefix, *writable_folders())
        outside = {os.path.join(path, "") for path in paths}
        self._others = tuple(p for p in outside if not self._workspace.startswith(p))
        self._seen: set[str] = set()
        self.changed: dict[str, float] = {}

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or len(self._seen) > _MOST_FILES:
            return
        name, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if isinstance(name, (str, bytes)) and not writes:
            self._read(os.path.abspath(os.fsdecode(name)))

    def _read(self, path: str) -> None:
        inside = path.startswith(self._workspace)
        if path in self._seen or path.endswith(_CODE) or _STORED in path:
            return
        if not inside and self._is_other(path):
            return
        self._seen.add(path)
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return  # the script meets the error itself
        if stat.S_ISREG(found.st_mode) and self._ended < found.st_mtime < self._began:
            shown = path[len(self._workspace) :] if inside else path
            if len(self.changed) < _MOST_TOLD:
                self.changed[shown] = found.st_mtime

    def _is_other(self, path: str) -> bool:
        return path.startswith(self._others) or "site-packages" in path.split(os.sep)


_CODE = (".py", ".pyc", ".so")
_STORED = f"{os.sep}{STORE}{os.sep}"
"""Objects are named by their contents; their time is that of their last use."""
