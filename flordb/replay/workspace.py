"""Workspaces: the project as a version had it, for one replay, which may change it as it likes.

A version's files stand before the project's own, of which only what git does not track is left:
data, caches, outputs. The project itself never changes. Two ways lead there:

- *overlay*: the worker sees an overlay of both at the project's own path (`replay.namespace`).
  Nothing is copied or linked before it is written.
- *links*: where the kernel does not allow that, a folder of the version's files with links to what
  git does not track (`replay.guard` keeps what they lead to).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from flordb.replay import namespace
from flordb.replay.namespace import Layers
from flordb.store import history
from flordb.store.project import STORE, Project

_NOT_LINKED = (STORE, ".git", "__pycache__")
_LOCK = "lock"
# No cached bytecode has this time, so none is taken for that of a version's file.
_SOURCE_TIME = 86_399


@dataclass(frozen=True)
class Workspace:
    """``outer``: the folder that holds all of it. ``folder``: the project's root as the script sees
    it. ``layers``: of the overlay at ``folder``; None: ``folder`` holds files and links. ``began``:
    when the first workspace of its plan was made, in seconds since 1970."""

    outer: Path
    folder: Path
    layers: Layers | None
    began: float


def cache_folder() -> Path:
    """Where workspaces are made: ``$XDG_CACHE_HOME/flordb``, or the system's temporary folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # An empty or relative value is to be ignored (XDG base directory specification 0.8).
    if base and os.path.isabs(base):
        return Path(base) / "flordb"
    try:
        return Path.home() / ".cache" / "flordb"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "flordb"


class Workspaces:
    """The workspaces of one plan, in a folder of their own; used in a ``with`` block.

    A lock on that folder tells that its process is alive: the folders of processes that are not
    are removed when another plan begins.
    """

    def __init__(self, project: Project, overlay: bool, writable: tuple[str, ...] = ()) -> None:
        self.project = project
        self.overlay = overlay
        self.writable = writable
        self.root = Path(os.path.realpath(project.root))
        self._versions: dict[str, Path] = {}
        self._own_now: list[str] | None = None

    def __enter__(self) -> Workspaces:
        self._began = time.time()
        self.base, self._lock = own_folder(cache_folder() / "workspaces")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        remove_tree(self.base)
        self._lock.close()

    def create(self, commit: str, patched: Mapping[str, str]) -> Workspace:
        """A new workspace with a version's files and, before these, the patched ones, by path.

        Raises GitError and OSError.
        """
        outer = Path(tempfile.mkdtemp(dir=self.base))
        try:
            if self.overlay:
                return self._layered(outer, commit, patched)
            # The same name as the root: scripts print it, and projid comes from it.
            folder = outer / self.project.root.name
            folder.mkdir()
            history.checkout(self.project, commit, folder)
            _write(folder, patched)
            _link_untracked(self.project, folder)
            return Workspace(outer, folder, None, self._began)
        except BaseException:
            remove_tree(outer)
            raise

    def scratch(self) -> Layers:
        """Layers without a version, to find out whether the kernel allows them. Raises OSError."""
        outer = Path(tempfile.mkdtemp(dir=self.base))
        upper, work, version = outer / "upper", outer / "work", outer / "version"
        for folder in (upper, work, version):
            folder.mkdir()
        writable = (*self.writable, str(outer))
        return Layers(str(self.root), str(version), str(upper), str(work), writable)

    def remove(self, workspace: Workspace) -> None:
        """Remove a workspace. Links in it are removed, not what they lead to."""
        remove_tree(workspace.outer)

    def _layered(self, outer: Path, commit: str, patched: Mapping[str, str]) -> Workspace:
        upper, work = outer / "upper", outer / "work"
        upper.mkdir()
        work.mkdir()
        _write(upper, patched)
        version = str(self._version(commit))
        writable = (*self.writable, str(outer))
        layers = Layers(str(self.root), version, str(upper), str(work), writable)
        return Workspace(outer, self.root, layers, self._began)

    def _version(self, commit: str) -> Path:
        """The layer with a version's files, which all of its replays share."""
        if commit not in self._versions:
            folder = Path(tempfile.mkdtemp(dir=self.base))
            history.checkout(self.project, commit, folder)
            for source in folder.rglob("*.py"):
                _age(source)
            for name in self._wholly_own(folder):
                # What it has since then, or the version's file is in the way of its folder.
                path = folder / name
                if not os.path.lexists(path) and os.path.lexists(self.root / name):
                    with suppress(NotADirectoryError, FileExistsError):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        namespace.hide(path)
            self._versions[commit] = folder
        return self._versions[commit]

    def _wholly_own(self, version: Path) -> list[str]:
        """What the project has of its own now; instead of their files the folders that a version
        has not and that hold nothing else."""
        own = self._own()
        files, found = set(own), dict.fromkeys(own[:1])
        for name in own[1:]:
            parents = [str(parent) for parent in Path(name).parents][-2::-1]
            new = (p for p in parents if not os.path.lexists(version / p))
            folder = next((p for p in new if p in found or self._holds_only(p, files)), None)
            found[folder or name] = None
        return list(found)

    def _holds_only(self, folder: str, files: set[str]) -> bool:
        walk = os.walk(self.root / folder)
        paths = (
            os.path.relpath(os.path.join(at, n), self.root) for at, _, names in walk for n in names
        )
        return all(path in files or "__pycache__" in path for path in paths)

    def _own(self) -> list[str]:
        """What the project has of its own now, so that it is no part of older versions."""
        if self._own_now is None:
            self._own_now = [".git", *history.tracked_or_source(self.root)]
        return self._own_now


def own_folder(base: Path) -> tuple[Path, IO[str]]:
    """A new folder in ``base``, this process's while the lock with it is open.

    Those of processes that have ended without removing theirs are removed. Raises OSError.
    """
    base.mkdir(parents=True, exist_ok=True)
    with open(base / _LOCK, "w") as all_of_them:
        fcntl.flock(all_of_them, fcntl.LOCK_EX)
        stale = _stale(base)
        folder = Path(tempfile.mkdtemp(dir=base))
        lock = open(folder / _LOCK, "w")  # noqa: SIM115 (held by the caller)
        fcntl.flock(lock, fcntl.LOCK_EX)
    for old, old_lock in stale:
        remove_tree(old)
        old_lock.close()
    return folder, lock


def _stale(base: Path) -> list[tuple[Path, IO[str]]]:
    """The folders of processes that ended without removing them, with their locks."""
    found: list[tuple[Path, IO[str]]] = []
    for folder in base.iterdir():
        try:
            lock = open(folder / _LOCK)  # noqa: SIM115 (held until the folder is removed)
        except OSError:
            continue  # the common lock itself, or another process is removing this one
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.append((folder, lock))
        except BlockingIOError:
            lock.close()
    return found


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it, also what was made unreadable."""

    def make_writable(function: object, path: str, error: object) -> None:
        with suppress(OSError):
            os.chmod(os.path.dirname(path), stat.S_IRWXU)
            os.chmod(path, stat.S_IRWXU)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)

    shutil.rmtree(folder, onerror=make_writable)


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a version's link may lead out of the workspace
        path.write_text(text)
        _age(path)


def _age(path: Path) -> None:
    os.utime(path, (_SOURCE_TIME, _SOURCE_TIME), follow_symlinks=False)


def _link_untracked(project: Project, folder: Path) -> None:
    """Link what git ignores, and what was too large for the version.

    Untracked files that are not ignored belong to versions; one that this version lacks did not
    exist when it ran.
    """
    ignored, others = history.untracked_paths(project.root)
    for name in ignored:
        if not any(part in _NOT_LINKED for part in Path(name).parts):
            link(project.root / name.rstrip("/"), folder / name.rstrip("/"))
    for name in others:
        if not name.endswith(".py"):
            link(project.root / name.rstrip("/"), folder / name.rstrip("/"))


def link(source: Path, target: Path) -> None:
    """Make ``target`` a link to ``source``; where both are folders, link what is missing inside."""
    if target.is_dir() and not target.is_symlink():
        if source.is_dir():
            for child in source.iterdir():
                link(child, target / child.name)
        return
    if target.exists() or target.is_symlink():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def own_copy(path: Path, workspace: Path) -> None:
    """Make what ``path`` names the workspace's own before it is written.

    Links on the way to it that lead out of the workspace are replaced: folders by folders of
    links, the file itself by a copy.
    """
    current = workspace
    parts = path.relative_to(workspace).parts
    for number, part in enumerate(parts):
        current = current / part
        if not current.is_symlink():
            continue
        source = Path(os.path.realpath(current))
        last = number == len(parts) - 1
        if source.is_dir() and not last:
            current.unlink()
            current.mkdir()
            for child in source.iterdir():
                (current / child.name).symlink_to(child)
        elif source.is_dir():
            current.unlink()
            shutil.copytree(source, current, symlinks=True)
        elif source.exists():
            current.unlink()
            shutil.copy2(source, current)
        else:
            current.unlink()
