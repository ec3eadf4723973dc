"""What git says of versions, for those who look: commits, files, and the text of a file."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flordb.store.git import git, read_blobs

_FIELDS = "%H%x00%P%x00%an%x00%at%x00%B"


def commits(root: Path) -> list[dict[str, Any]]:
    """All commits that a branch, a tag or a run keeps alive, newest first. Raises GitError."""
    raw = git(root, "log", "--all", "-z", f"--format={_FIELDS}").decode(errors="replace")
    fields = raw.removesuffix("\0").split("\0") if raw else []
    return [
        {
            "version": commit,
            "parents": parents.split(),
            "author": author,
            "tstamp": datetime.fromtimestamp(int(seconds), UTC).replace(tzinfo=None),
            "message": message.strip(),
        }
        for commit, parents, author, seconds, message in zip(*[iter(fields)] * 5, strict=True)
    ]


def files(root: Path, version: str) -> list[dict[str, Any]]:
    """The files of a version: path, size and blob. None of a version that git does not have."""
    commit = _object(root, f"{version}^{{commit}}")
    if commit is None:
        return []
    listed = git(root, "ls-tree", "-r", "-l", "-z", commit)
    found = []
    for entry in filter(None, listed.split(b"\0")):
        head, name = entry.split(b"\t", 1)
        _, kind, blob, size = head.split()
        if kind == b"blob":
            found.append({"filename": os.fsdecode(name), "bytes": int(size), "blob": blob.decode()})
    return found


def source(root: Path, version: str, filename: str) -> str | None:
    """The text of a file in a version; None where git has no such version or file."""
    if filename.startswith(("./", "../")):  # git would read it relative to a working folder
        return None
    blob = _object(root, f"{version}:{filename}")
    text = read_blobs(root, [blob]).get(blob) if blob is not None else None
    return None if text is None else text.decode(errors="replace")


def _object(root: Path, name: str) -> str | None:
    """The id of what ``name`` names, or None. Given on stdin it is never taken for an option."""
    if "\n" in name:
        return None
    found = git(root, "cat-file", "--batch-check", text=f"{name}\n").splitlines()[0].split()
    return found[0].decode() if len(found) == 3 else None
