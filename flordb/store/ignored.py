"""What git ignores in a project: data, caches, outputs. No part of a version."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from flordb.store import history

_NOT_LOOKED_INTO = frozenset(
    (".flor", ".git", "__pycache__", "node_modules", "site-packages", ".venv", "venv", ".tox")
)


def mark_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from what it was: time and size; None for what is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size) if stat.S_ISREG(found.st_mode) else None


def walk_ignored(root: Path, most: int) -> Iterator[str]:
    """The files and folders that git ignores, relative to the root; a folder comes before what is
    in it, and what is higher up before what is deeper. At most so many are looked at.

    Raises GitError.
    """
    waiting = deque(sorted(name.rstrip("/") for name in history.ignored_paths(root)))
    for _ in range(most):
        if not waiting:
            return
        name = waiting.popleft()
        path = root / name
        if not _NOT_LOOKED_INTO.isdisjoint(name.split("/")):
            continue
        yield name
        if path.is_dir() and not path.is_symlink() and not (path / "pyvenv.cfg").exists():
            waiting += sorted(f"{name}/{child}" for child in os.listdir(path))
