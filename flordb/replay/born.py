"""Files that came into being while a run was at work: when it began they were not there.

What git ignores is no part of a version, so a replay finds it as it is now. A script that asks
whether its own checkpoint exists must find none where the run found none. Told by the times of
birth that file systems keep (``statx``).
"""

from __future__ import annotations

import ast
import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from flordb.analysis.program import Program
from flordb.store import history

_ASKING = frozenset(
    (
        *("exists", "lexists", "isfile", "isdir", "is_file", "is_dir", "glob", "iglob", "rglob"),
        *("listdir", "scandir", "iterdir", "walk", "FileNotFoundError", "FileExistsError"),
        *("mkdir", "get_last_checkpoint", "latest_checkpoint"),
    )
)
_NOT_LOOKED_INTO = frozenset(
    (".flor", ".git", "__pycache__", "node_modules", "site-packages", ".venv", "venv", ".tox")
)
_MOST_FILES = 50_000
STARTING_SECONDS = 0.05
"""An interpreter is no further then, and the clocks of processes and files agree to that."""
_AT_FDCWD = -100
_NO_FOLLOW = 0x100
_BIRTH = 0x800


def asks_for_files(program: Program) -> bool:
    """Whether a program may do something else where a file is there, or adds to what is there."""
    for module in program.modules.values():
        for node in ast.walk(module.tree):
            name = getattr(node, "attr", getattr(node, "id", ""))
            if name in _ASKING or (isinstance(node, ast.Call) and _adds(node)):
                return True
    return False


def _adds(call: ast.Call) -> bool:
    """Whether it opens a file to write at its end."""
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    modes = [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return any(mode[:1] == "a" and set(mode) <= set("abt+") for mode in modes)


class Ignored:
    """What git ignores in a project, with its times of birth, looked up once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._births: list[tuple[str, float]] | None = None

    def born_between(self, began: float, ended: float) -> tuple[str, ...]:
        """The paths, relative to the root, of what came into being then (seconds since 1970); of
        folders that did only these."""
        if self._births is None:
            listed, _ = history.untracked_paths(self.root)
            self._births = list(_births(self.root, listed))
        found: list[str] = []
        for name, birth in self._births:
            inside = found and name.startswith(found[-1] + "/")
            if began <= birth <= ended and not inside:
                found.append(name)
        return tuple(found)


def _births(root: Path, listed: Iterable[str]) -> Iterator[tuple[str, float]]:
    waiting = [name.rstrip("/") for name in listed][::-1]
    for _ in range(_MOST_FILES):
        if not waiting:
            return
        name = waiting.pop()
        path = root / name
        if not _NOT_LOOKED_INTO.isdisjoint(name.split("/")):
            continue
        birth = birth_of(path)
        if birth is not None:
            yield name, birth
        if path.is_dir() and not path.is_symlink() and not (path / "pyvenv.cfg").exists():
            waiting += sorted((f"{name}/{child}" for child in os.listdir(path)), reverse=True)


def birth_of(path: Path) -> float | None:
    """When a file came into being (seconds since 1970); None where its file system does not say."""
    statx = _statx()
    if statx is None:
        return None
    buffer = ctypes.create_string_buffer(256)
    if statx(_AT_FDCWD, os.fsencode(path), _NO_FOLLOW, _BIRTH, buffer) != 0:
        return None
    (mask,) = struct.unpack_from("=I", buffer, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, 0x50)
    return float(seconds + nanoseconds / 1e9) if mask & _BIRTH else None


@cache
def _statx() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "statx", None)
