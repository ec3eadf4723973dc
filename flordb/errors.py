"""The errors and warnings that users of FlorDB meet.

::

    Exception
    ├── FlorError                 anything that flordb itself has to say
    │   ├── ProjectError          no project here, or its store cannot be used
    │   ├── GitError              a git command that flordb needed did not work
    │   ├── RunFileError          a run file is not one, or its format is too new
    │   ├── SnapshotError         a snapshot cannot be written or restored
    │   └── ReplayError           a replay cannot go on
    └── Warning
        └── FlorWarning           flordb goes on, but something is not as it should be

The classes of PEP 249 stand in `flordb.query.errors`, because they inherit DuckDB's, and DuckDB
must never be imported into a training process.
"""

from __future__ import annotations


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


class ReplayError(FlorError):
    """A replay cannot go on."""


class FlorWarning(UserWarning):
    """Flordb goes on, but something is not as it should be."""
