"""The errors and warnings that users of FlorDB meet.

::

    Exception
    ├── FlorError                 anything that flordb itself has to say
    │   ├── ProjectError          no project here, or its store cannot be used
    │   ├── GitError              a git command that flordb needed did not work
    │   ├── RunFileError          a run file is not one, or its format is too new
    │   ├── SnapshotError         a snapshot cannot be written or restored
    │   │   └── DamageError       what is kept of it is not what was written
    │   └── ReplayError           a replay cannot go on
    └── Warning
        └── FlorWarning           flordb goes on, but something is not as it should be

The classes of PEP 249 stand in `flordb.query.errors`, because they inherit DuckDB's, and DuckDB
must never be imported into a training process.
"""

from __future__ import annotations

import sys
import warnings

_INNER = ("flordb", "contextlib", "threading")


class FlorError(Exception):
    """Anything that flordb itself has to say to its user."""


class ProjectError(FlorError):
    """There is no project here, or its store cannot be used."""


class GitError(FlorError):
    """A git command that flordb needed did not work."""


class RunFileError(FlorError):
    """A file is not a run file, or its format is newer than this flordb."""


class SnapshotError(FlorError):
    """A snapshot cannot be written or restored."""


class DamageError(SnapshotError):
    """What is kept of a snapshot is not what was written."""


class ReplayError(FlorError):
    """A replay cannot go on."""


class FlorWarning(UserWarning):
    """Flordb goes on, but something is not as it should be."""


def warn(message: str) -> None:
    """Give a `FlorWarning` at the user's line: the nearest one that is not flordb's own."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _INNER:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, FlorWarning, stacklevel=level)


def warn_in_training(message: str) -> None:
    """As `warn`, but never raises, also under ``python -W error``: no training ends by it."""
    try:
        warn(message)
    except FlorWarning:
        print(f"flordb: {message}", file=sys.stderr)
