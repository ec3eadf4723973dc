"""Which of the files that a replay reads were written since the run began: it did not read them so.

Data are not in the version. Where they were written after the run, a replayed value is computed
from what is there now, and the user is told. Where the run was at work then (it resumed from a
checkpoint, and wrote the next one over it), what it read is lost, and so is the replay. Python
announces what it opens (`sys.audit`); what C libraries open by themselves, and processes that a
script starts, are not seen.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from flordb.errors import ReplayError
from flordb.replay.guard import writable_folders
from flordb.store.project import STORE

_MOST_FILES = 100_000
_MOST_TOLD = 20


class Inputs:
    """An audit hook.

    Parameters: ``at_work``, when the run began and ended; ``began``, when the replay began, all in
    seconds since 1970 (what was written later than that, the replay has written itself); ``older``,
    files of the workspace that the run found with other contents; ``copies``, whether files are
    read only to be copied into the workspace; ``give_up``, ends the process, and says why.
    """

    def __init__(
        self,
        at_work: tuple[float, float],
        began: float,
        workspace: str,
        older: Iterable[str],
        copies: Callable[[], bool],
        give_up: Callable[[str], NoReturn],
    ) -> None:
        self._give_up = give_up
        self._process = os.getpid()
        self._copies = copies
        self._run_began, self._ended = at_work
        self._began = began
        self._workspace = os.path.join(workspace, "")
        paths = (*sysconfig.get_paths().values(), sys.prefix, *writable_folders())
        outside = {os.path.join(path, "") for path in paths}
        self._others = tuple(p for p in outside if not self._workspace.startswith(p))
        self._older = {self._workspace + name for name in older}
        self._seen: set[str] = set()
        self._added_to: set[str] = set()
        self.changed: dict[str, float] = {}

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename") or len(self._seen) > _MOST_FILES or self._copies():
            return
        if event == "os.rename":
            self._rename(*(os.path.abspath(os.fsdecode(path)) for path in arguments[:2]))
            return
        name, _, flags = arguments
        if not isinstance(name, (str, bytes)) or not isinstance(flags, int):
            return
        path = os.path.abspath(os.fsdecode(name))
        if flags & os.O_TRUNC:
            self._added_to.discard(path)
        elif flags & os.O_WRONLY:
            self._add(path)
        else:
            self._read(path)

    def _rename(self, source: str, target: str) -> None:
        """What is lost under one name is so under the other."""
        below = source + os.sep
        moved = {target + p[len(source) :] for p in self._older if f"{p}{os.sep}".startswith(below)}
        if self._is_lost(source, self._written(source)):
            moved.add(target)
        self._older = {p for p in self._older if p != target} | moved

    def _add(self, path: str) -> None:
        """A file is opened to write at its end, say: what was in it matters once it is read."""
        if path not in self._seen and self._is_lost(path, self._written(path)):
            self._added_to.add(path)

    def _read(self, path: str) -> None:
        if path in self._added_to:
            self._refuse(path)
        if path in self._seen or path.endswith(_CODE) or _STORED in path:
            return
        if not path.startswith(self._workspace) and self._is_other(path):
            return
        self._seen.add(path)
        written = self._written(path)
        if self._is_lost(path, written):
            self._refuse(path)
        is_newer = written is not None and self._ended < written < self._began
        if written is not None and is_newer and len(self.changed) < _MOST_TOLD:
            self.changed[self._shown(path)] = written

    def _written(self, path: str) -> float | None:
        """When a file was written last; None for what is none."""
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return None  # the script meets the error itself
        return found.st_mtime if stat.S_ISREG(found.st_mode) else None

    def _is_lost(self, path: str, written: float | None) -> bool:
        """Whether what the run found in a file is there no more."""
        if written is None or written >= self._began:
            return False
        return path in self._older or self._run_began < written <= self._ended

    def _refuse(self, path: str) -> None:
        gone = "which was written while the run was at work: what the run found in it is lost"
        if path in self._older and self._written(path) == 0.0:
            gone = "which the run found, and which is gone or did not travel here"
        why = f"the script reads {self._shown(path)}, {gone}"
        if os.getpid() == self._process:
            self._give_up(why)  # the script might catch an error
        raise ReplayError(why)

    def _shown(self, path: str) -> str:
        return path.removeprefix(self._workspace)

    def _is_other(self, path: str) -> bool:
        return path.startswith(self._others) or "site-packages" in path.split(os.sep)


_CODE = (".py", ".pyc", ".so")
_STORED = f"{os.sep}{STORE}{os.sep}"
"""Objects are named by their contents; their time is that of their last use."""
