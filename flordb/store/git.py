"""git, as one process a call: apart from the user's settings, hooks and variables."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from flordb.errors import GitError

_QUIET = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "commit.gpgSign=false"),
    *("-c", "gc.auto=0"),
    *("-c", "core.safecrlf=false"),
    *("-c", "core.quotePath=false"),
)
# Set by git itself in hooks and `rebase --exec`: they would point us at the user's index.
_LOCAL_VARIABLES = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
)
_TIMEOUT_SECONDS = 120


def invocation(root: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment that run git in ``root``, and nothing of the user's."""
    environment = {k: v for k, v in os.environ.items() if k not in _LOCAL_VARIABLES}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    return ["git", "-C", str(root), *_QUIET, *arguments], environment


def git(
    root: Path,
    *arguments: str,
    text: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """The output of a git command in ``root``. Raises GitError with git's own words.

    It goes through files, and git is spawned without a pipe: a worker that the training forks
    meanwhile (a DataLoader's) would hold a pipe's other end open, and its end would never come.
    """
    command, environment = invocation(root, *arguments)
    environment |= env or {}
    data = text.encode() if isinstance(text, str) else text or b""
    program = shutil.which("git", path=environment.get("PATH"))
    if program is None:
        raise GitError("git is not installed, or not on PATH")
    with _file(data) as given, _file() as output, _file() as words:
        try:
            done = subprocess.run(
                [os.path.abspath(program), *command[1:]],
                stdin=given,
                stdout=output,
                stderr=words,
                env=environment,
                timeout=_TIMEOUT_SECONDS,
                check=False,
                close_fds=False,  # so that Python spawns it, for which it needs no pipe
            )
        except subprocess.TimeoutExpired as error:
            raise GitError(
                f"git {arguments[0]} took over {_TIMEOUT_SECONDS} s in {root}"
            ) from error
        if done.returncode != 0:
            said = _content(words).decode(errors="replace").strip()
            raise GitError(f"git {arguments[0]} in {root}: {said or f'exit {done.returncode}'}")
        return _content(output)


def _file(data: bytes = b"") -> IO[bytes]:
    """A file without a name, in memory where the system has such, to be read from its beginning."""
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = os.fdopen(os.memfd_create("flordb-git"), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by its user)
    file.write(data)
    file.seek(0)
    return file


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def git_line(root: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    return git(root, *arguments, env=env).decode().strip()


def git_line_or_none(root: Path, *arguments: str) -> str | None:
    try:
        return git_line(root, *arguments) or None
    except GitError:
        return None


def git_lines(root: Path, *arguments: str) -> list[str]:
    return git(root, *arguments).decode().splitlines()


def read_blobs(root: Path, blobs: Sequence[str]) -> dict[str, bytes]:
    """The contents of blobs by id. Missing ones (a shallow clone) are left out."""
    if not blobs:
        return {}
    raw = git(root, "cat-file", "--batch", text="".join(f"{blob}\n" for blob in blobs))
    found: dict[str, bytes] = {}
    position = 0
    while position < len(raw):
        end = raw.index(b"\n", position)
        head = raw[position:end].split()
        position = end + 1
        if len(head) == 3 and head[1] == b"blob":
            size = int(head[2])
            found[head[0].decode()] = raw[position : position + size]
            position += size + 1
    return found
