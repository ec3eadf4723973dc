"""Keeps a replay from changing what is the user's.

Where the worker has a view of its own (`replay.namespace`), the kernel does all of it. In a
workspace of links, an audit hook makes the copies: Python announces each file that it opens,
removes, renames or makes, and a write below the workspace first gets its own copy of what is only
linked there. A write anywhere else, but for temporary files, devices and caches, is refused; C
libraries and other programs, which the hook does not see, are refused it by `replay.landlock`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flordb.replay import landlock, namespace
from flordb.replay.namespace import Layers
from flordb.replay.workspace import own_copy

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events whose arguments at these positions are paths that are changed.
_CHANGES: dict[str, tuple[int, ...]] = {
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.rename": (0, 1),
    "os.mkdir": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.truncate": (0,),
    "os.utime": (0,),
    "os.symlink": (1,),
    "os.link": (1,),
    "os.setxattr": (0,),
    "shutil.rmtree": (0,),
    "shutil.move": (0, 1),
}
# Removing a link itself does not touch what it leads to.
_OF_THE_LINK = ("os.remove", "os.rename", "os.symlink", "os.link", "shutil.move")


def writable_folders() -> tuple[str, ...]:
    """Where a replay may write besides its workspace: temporary files, devices, caches."""
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/dev")]
    places += [Path("/dev/shm"), Path("/dev/mqueue"), Path("/proc"), *_caches()]
    return tuple(dict.fromkeys(os.path.realpath(place) for place in places))


def enter_overlay(layers: Layers) -> Callable[[], bool]:
    """From now on, this process sees the overlay, and changes nothing outside of it.

    Returns what tells whether it is copying a folder to rename it. Cannot be undone, so it is for
    workers only. Raises OSError.
    """
    namespace.enter(layers)
    root = os.path.join(layers.root, "")
    busy = False

    def before_rename(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if event != "os.rename" or busy:
            return
        busy = True
        try:
            source = os.path.abspath(os.fsdecode(arguments[0]))
            if source.startswith(root) and os.path.isdir(source) and not os.path.islink(source):
                _make_movable(Path(source))
        finally:
            busy = False

    sys.addaudithook(before_rename)
    return lambda: busy


def _make_movable(folder: Path) -> None:
    """Copy a folder in place where the kernel would not move it: a lower layer has part in it."""
    beside = Path(tempfile.mkdtemp(dir=folder.parent))
    other = beside / folder.name
    try:
        folder.rename(other)
    except OSError as error:
        if error.errno != errno.EXDEV:
            beside.rmdir()
            raise
        shutil.copytree(folder, other, symlinks=True)
        shutil.rmtree(folder)
    other.rename(folder)
    beside.rmdir()


def protect_links(folder: Path, outer: Path, project: Path) -> Callable[[], bool]:
    """From now on, this process changes nothing outside its workspace of links.

    Parameters: ``folder``, the workspace; ``outer``, the folder around it; ``project``, the user's
    root. Returns what tells whether it is copying a file into the workspace. Cannot be undone, so
    it is for workers only. Raises OSError.
    """
    root = os.path.realpath(project)
    if any(root.startswith(os.path.join(place, "")) for place in writable_folders()):
        # What is around the project can't be made writable without it.
        temporary = outer / "tmp"
        temporary.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    places = (*writable_folders(), os.path.realpath(outer))
    landlock.restrict([path for place in places for path in _around(place, root)])
    allowed = tuple(os.path.join(place, "") for place in places)
    guard = _Guard(folder, os.path.join(root, ""), allowed)
    sys.addaudithook(guard)
    return lambda: guard.busy


def _around(place: str, root: str) -> list[str]:
    """A folder, or what is in it but not the project's root, where that is in it, too."""
    if not os.path.join(root, "").startswith(os.path.join(place, "")):
        return [place]
    if root == place:
        return []
    try:
        children = [os.path.join(place, name) for name in os.listdir(place)]
    except OSError:
        return []
    real = (child for child in children if not os.path.islink(child))
    return [path for child in real for path in _around(child, root)]


def _caches() -> list[Path]:
    names = ("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "MPLCONFIGDIR", "TMPDIR")
    found = [Path(os.environ[name]) for name in names if os.environ.get(name)]
    with contextlib.suppress(RuntimeError):  # no home folder, no caches in it
        found += [Path.home() / ".cache", Path.home() / ".config" / "matplotlib"]
    return found


class _Guard:
    def __init__(self, workspace: Path, project: str, allowed: tuple[str, ...]) -> None:
        self.workspace = Path(os.path.realpath(workspace))
        self.inside = os.path.join(str(self.workspace), "")
        self.project = project
        self.allowed = allowed
        self.busy = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.busy:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(mode, str) and any(c in mode for c in "wax+")
            if writes or (isinstance(flags, int) and flags & _WRITING):
                self._change(path, follow=True)
        elif event in _CHANGES:
            for position in _CHANGES[event]:
                self._change(arguments[position], follow=event not in _OF_THE_LINK)

    def _change(self, path: Any, follow: bool) -> None:
        if isinstance(path, int) or path is None:
            return  # an open file: it was checked when it was opened
        self.busy = True
        try:
            self._check(os.path.abspath(os.fsdecode(path)), follow)
        finally:
            self.busy = False

    def _check(self, path: str, follow: bool) -> None:
        # The last part may be a link; the folder that it is in decides whose it is.
        here = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        own = self._in_workspace(path)
        if own is not None:
            # What a name of the workspace leads to may be the user's.
            target = own if follow else own.parent
            if target != self.workspace:
                own_copy(target, self.workspace)
            return
        real = os.path.realpath(here) if follow else here
        if real.startswith(self.inside):
            return
        if real.startswith(self.allowed) and not real.startswith(self.project):
            return
        raise PermissionError(
            f"flordb: a replay may not change {path}: it is outside the replay's workspace"
        )

    def _in_workspace(self, path: str) -> Path | None:
        """The path below the workspace that ``path`` names, links not followed."""
        folder, name = os.path.split(path)
        for text in (path, os.path.join(_real_prefix(folder, self.inside), name)):
            if text.startswith(self.inside):
                return Path(text)
        return None


def _real_prefix(folder: str, inside: str) -> str:
    """``folder`` with the workspace's own location resolved, but nothing below it."""
    head, tail = folder, ""
    while head != os.path.dirname(head):
        real = os.path.realpath(head)
        if os.path.join(real, "") == inside:
            return os.path.join(real, tail)
        head, part = os.path.split(head)
        tail = os.path.join(part, tail) if tail else part
    return folder
