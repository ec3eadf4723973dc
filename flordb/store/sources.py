"""The Python files of versions and of the working tree, for the analysis of what a script does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from flordb.errors import GitError
from flordb.store.git import git, invocation

_MOST_ASKED = 400
"""Objects that are asked for before their contents are read: fewer than a pipe holds."""


def read_sources(root: Path, commit: str) -> dict[str, str]:
    """The Python files of a version: path to text. Files that are no UTF-8 are left out.

    Raises GitError where there is no such version.
    """
    try:
        return read_sources_of(root, [commit])[commit]
    except KeyError:
        raise GitError(f"git cat-file in {root}: there is no version {commit}") from None


def read_sources_of(root: Path, commits: Iterable[str]) -> dict[str, dict[str, str]]:
    """The Python files of versions, as `read_sources`; versions that are not there are left out."""
    trees: dict[str, bytes | None] = {}
    with _Objects(root) as objects:
        paths = {commit: dict(_files(objects, f"{commit}^{{tree}}", trees)) for commit in commits}
        blobs = sorted({blob for found in paths.values() for blob in found.values()})
        contents = dict(zip(blobs, objects.read(blobs), strict=True))
    texts = {blob: _text(data) for blob, data in contents.items()}
    return {
        commit: {path: text for path, blob in found.items() if (text := texts[blob]) is not None}
        for commit, found in paths.items()
        if trees[f"{commit}^{{tree}}"] is not None
    }


def working_sources(root: Path) -> dict[str, str]:
    """The Python files of the working tree, tracked or not, unless git ignores them."""
    listed = git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "*.py")
    found: dict[str, str] = {}
    for path in filter(None, listed.split(b"\0")):
        name = os.fsdecode(path)
        try:
            found[name] = (root / name).read_text()
        except (OSError, UnicodeDecodeError):
            continue  # deleted but not yet from the index, or not text
    return found


class _Objects:
    """The contents of git's objects, by one process: starting git takes longer than reading."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.id_length = 20
        """Bytes of an id; another number where the repository uses SHA-256."""

    def __enter__(self) -> _Objects:
        command, environment = invocation(self.root, "cat-file", "--batch")
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
            )
        except FileNotFoundError as error:
            raise GitError("git is not installed, or not on PATH") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        """What is in the objects of these names; None where there is none."""
        found: list[bytes | None] = []
        for at in range(0, len(names), _MOST_ASKED):
            asked = names[at : at + _MOST_ASKED]
            self._ask(asked)
            found += [self._answer() for _ in asked]
        return found

    def _ask(self, names: Sequence[str]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("".join(f"{name}\n" for name in names).encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _answer(self) -> bytes | None:
        assert self._process.stdout is not None
        head = self._process.stdout.readline()
        if not head:
            raise self._ended()
        if head.endswith(b" missing\n"):
            return None
        object_id, _, length = head.split()
        self.id_length, size = len(object_id) // 2, int(length)
        return self._process.stdout.read(size + 1)[:size]

    def _ended(self) -> GitError:
        said = self._process.communicate()[1].decode(errors="replace").strip()
        return GitError(f"git cat-file in {self.root}: {said or 'it ended'}")


def _files(
    objects: _Objects, tree: str, trees: dict[str, bytes | None], folder: str = ""
) -> Iterator[tuple[str, str]]:
    """The paths and ids of the Python files in a tree; ``trees``: those that have been read."""
    if tree not in trees:
        (trees[tree],) = objects.read([tree])
    for mode, name, object_id in _entries(trees[tree] or b"", objects.id_length):
        if mode == b"40000":
            yield from _files(objects, object_id, trees, f"{folder}{name}/")
        elif mode != b"160000" and name.endswith(".py"):
            yield f"{folder}{name}", object_id


def _entries(data: bytes, id_length: int) -> Iterator[tuple[bytes, str, str]]:
    """The entries of a tree object: mode, name and id."""
    at = 0
    while at < len(data):
        end = data.index(b"\0", at)
        mode, _, name = data[at:end].partition(b" ")
        at = end + 1 + id_length
        yield mode, os.fsdecode(name), data[end + 1 : at].hex()


def _text(data: bytes | None) -> str | None:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return None
