"""Workspaces: a folder with a version's files, in which everything that git does not track appears
by link. It lies outside the project, is made for one replay and removed after it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flordb.store import history
from flordb.store.project import STORE, Project

_NOT_LINKED = (STORE, ".git", "__pycache__")


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


def create(project: Project, commit: str, patched: Mapping[str, str]) -> Path:
    """A new folder, named like the project's root, with a version's files, patched, and links.

    Parameters: ``patched``, the texts that replace the version's or are new, by path. Raises
    GitError and OSError.
    """
    base = cache_folder() / "workspaces"
    base.mkdir(parents=True, exist_ok=True)
    outer = Path(tempfile.mkdtemp(dir=base))
    try:
        # The same name as the root: scripts print it, and projid comes from it.
        folder = outer / project.root.name
        folder.mkdir()
        history.checkout(project, commit, folder)
        for name, text in patched.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        _link_untracked(project, folder)
    except BaseException:
        shutil.rmtree(outer, ignore_errors=True)
        raise
    return folder


def remove(folder: Path) -> None:
    """Remove a workspace. Links in it are removed, not what they lead to."""
    shutil.rmtree(folder.parent, ignore_errors=True)


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
