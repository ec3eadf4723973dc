"""What the database has taken in of the run files, and whether that is all that they say.

Every query asks this, so it must not cost the import of all that taking in needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC

import duckdb

from flordb.settings import Settings
from flordb.store import state
from flordb.store.found import Entry
from flordb.store.schema import CATALOG


@dataclass(frozen=True)
class SyncReport:
    """What a sync did.

    ``files`` and ``rows``: how many were taken in. ``problems``: what was left out and why.
    ``locked``: why the database could not be brought up to date, and who has it, None if it
    was. ``rebuilt``: why the database was built anew, and where the old one is.
    """

    files: int = 0
    rows: int = 0
    problems: tuple[str, ...] = ()
    locked: str | None = None
    rebuilt: str | None = None


@dataclass(frozen=True)
class Known:
    """A run file as it was taken in. ``size`` and ``digest`` are of its uncompressed lines."""

    file_id: int
    kind: str
    run_id: int | None
    rank: int | None
    disk_size: int
    mtime_ns: int
    blob: str | None
    size: int
    digest: str

    def is_current(self, entry: Entry) -> bool:
        if entry.blob is not None:
            return self.blob == entry.blob
        return (self.disk_size, self.mtime_ns) == (entry.disk_size, entry.mtime_ns)


class RewrittenError(Exception):
    """A run file that was taken in no longer begins as it did."""


def known_files(db: duckdb.DuckDBPyConnection) -> dict[str, Known]:
    rows = db.execute(
        "SELECT file, file_id, kind, run_id, rank, disk_size, mtime_ns, blob, size, digest "
        f"FROM {CATALOG}.files"
    ).fetchall()
    return {row[0]: Known(*row[1:]) for row in rows}


def is_current(db: duckdb.DuckDBPyConnection, files: dict[str, Entry], settings: Settings) -> bool:
    """Whether the database attached to ``db`` has all that the listed run files say."""
    known = known_files(db)
    if any(name not in known or not known[name].is_current(e) for name, e in files.items()):
        return False
    return not changed_states(db, settings)


_UNSETTLED = (
    "file IS NOT NULL AND (state IS NULL OR state NOT IN ('finished', 'failed', 'killed', 'lost') "
    "OR (state IN ('killed', 'lost') AND ended IS NOT NULL))"
)


def is_settled(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether no run's state can change while its run file stays as it is."""
    query = f"SELECT count(*) FROM {CATALOG}.runs WHERE {_UNSETTLED}"
    return bool(db.execute(query).fetchall() == [(0,)])


def changed_states(db: duckdb.DuckDBPyConnection, settings: Settings) -> list[tuple[int, int, str]]:
    """(run_id, rank, state) of the runs whose state is no longer the one in the table."""
    rows = db.execute(
        "SELECT run_id, rank, state, ended IS NOT NULL, status, error, host, pid, pid_start, "
        f"last_seen FROM {CATALOG}.runs WHERE {_UNSETTLED}"
    ).fetchall()
    changed = []
    for run_id, rank, before, ended, status, error, host, pid, pid_start, last_seen in rows:
        seen = last_seen.replace(tzinfo=UTC).timestamp() if last_seen is not None else None
        signs = state.Signs(ended, status, error, host, pid, pid_start, seen)
        now = state.derive(signs, settings.heartbeat_seconds)
        if now != before:
            changed.append((run_id, rank, now))
    return changed
