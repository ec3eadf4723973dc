"""The run's code in git: the version is written when the run starts, the record when it ends, both
off the training thread. What git ignores is only looked at, to know what the run found.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flordb.errors import GitError, warn_in_training
from flordb.record.found import Found
from flordb.store.history import Version, commit_run, write_version
from flordb.store.project import Project


class Versioning:
    """Writes the version in a thread of its own.

    Parameters: ``run_file``, the run file's name; ``note``, called with the run file's line about
    the version; ``max_untracked_bytes``, see `flordb.settings`.
    """

    def __init__(
        self,
        project: Project,
        run_file: str,
        note: Callable[[Mapping[str, Any]], None],
        max_untracked_bytes: int,
    ) -> None:
        self.project = project
        self.run_file = run_file
        self.version: Version | None = None
        self._found: Found | None = None
        self._note = note
        self._limit = max_untracked_bytes
        self._thread = threading.Thread(target=self._write, name="flordb-version", daemon=True)
        self._thread.start()

    def _write(self) -> None:
        try:
            self._found = Found(self.project.root)
            self.version = write_version(self.project, self.run_file, self._limit)
        except (GitError, OSError) as error:
            self._note({"k": "version", "commit": None, "why": str(error)})
            _warn(
                f"this run has no version ({error}). Its values are recorded; it cannot be replayed"
            )
            return
        commit, branch = self.version.commit, self.version.branch
        self._note({"k": "version", "commit": commit, "branch": branch})
        if self.version.skipped:
            names = ", ".join(self.version.skipped[:5])
            more = len(self.version.skipped) - 5
            _warn(
                f"untracked and too large for the version (over {self._limit} bytes): {names}"
                f"{f' and {more} more' if more > 0 else ''}. Replays will see them as they are then"
            )

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)

    def rewritten(self) -> dict[str, tuple[int, int]]:
        """The ignored files that the run found, and that are other ones or gone by now."""
        return self._found.rewritten() if self._found is not None else {}

    def commit(self, path: Path, wait_seconds: float) -> None:
        """Commit the finished run file. Raises GitError where it could not be within the time."""
        version = self.version
        if version is None:
            return
        failure: list[Exception] = []

        def work() -> None:
            try:
                commit_run(self.project, version, self.run_file, path)
            except (GitError, OSError) as error:
                failure.append(error)

        thread = threading.Thread(target=work, name="flordb-commit", daemon=True)
        thread.start()
        thread.join(wait_seconds)
        if thread.is_alive():
            raise GitError(f"git did not finish within {wait_seconds} s")
        if failure:
            raise GitError(str(failure[0])) from failure[0]


class NoVersion(Versioning):
    """A run without a version: outside git, or a rank other than 0."""

    def __init__(self, why: str, note: Callable[[Mapping[str, Any]], None]) -> None:
        self.version = None
        self._found = None
        note({"k": "version", "commit": None, "why": why})

    def wait(self, seconds: float) -> None:
        return None


def _warn(what: str) -> None:
    warn_in_training(f"{what}.")
