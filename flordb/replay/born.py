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
from collections.abc import Collection, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from flordb.analysis.program import Program
from flordb.replay.recorded import Recorded
from flordb.store.ignored import walk_ignored

_ASKING = frozenset(
    (
        *("exists", "lexists", "isfile", "isdir", "is_file", "is_dir", "glob", "iglob", "rglob"),
        *("listdir", "scandir", "iterdir", "walk", "FileNotFoundError", "FileExistsError"),
        *("mkdir", "get_last_checkpoint", "latest_checkpoint"),
    )
)
_MOST_FILES = 50_000
STARTING_SECONDS = 0.02
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

    def born_between(
        self, began: float, ended: float, older: Collection[str] = ()
    ) -> tuple[str, ...]:
        """The paths, relative to the root, of what came into being then (seconds since 1970); of
        folders that did only these.

        Parameters: ``older``, paths that were there before, under which something else is now.
        """
        kept = {*older, *(str(parent) for name in older for parent in Path(name).parents)}
        found: dict[str, None] = {}
        for name, birth in self._all():
            if not began <= birth <= ended or name in kept:
                continue
            if not any(str(parent) in found for parent in Path(name).parents):
                found[name] = None
        return tuple(found)

    def others(self, began: float, ended: float, older: Collection[str] = ()) -> list[str]:
        """The paths of all else that is there, folders with a slash at their end."""
        gone = {*self.born_between(began, ended, older)}
        return [
            f"{name}/" if (self.root / name).is_dir() else name
            for name, _ in self._all()
            if gone.isdisjoint((name, *map(str, Path(name).parents)))
        ]

    def _all(self) -> list[tuple[str, float]]:
        if self._births is None:
            self._births = list(_births(self.root))
        return self._births


def _births(root: Path) -> Iterator[tuple[str, float]]:
    for name in walk_ignored(root, _MOST_FILES):
        birth = birth_of(root / name)
        if birth is not None:
            yield name, birth


def at_work(run_file: Path, record: Recorded) -> tuple[float, float]:
    """When a run's script began and when its run ended, in seconds since 1970.

    The run file comes into being with flor's first call; one that was compressed is younger, and
    then its header tells. Where neither does, the run is taken to have been at work for no time.
    """
    ended = run_file.stat().st_mtime
    first_call = birth_of(run_file)
    if first_call is not None and run_file.suffix == ".gz":
        first_call = datetime.fromisoformat(record.header["tstamp"]).timestamp()
    is_copy = first_call is not None and ended - first_call < record.seconds - 1
    if first_call is None or is_copy:
        return ended, ended
    return first_call - max(0.0, record.before - STARTING_SECONDS), ended


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
