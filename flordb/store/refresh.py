"""Taking in what is new: which run files that is, in which order, in which transactions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC

import duckdb
import pyarrow as pa
from xxhash import xxh3_128_hexdigest

from flordb.errors import RunFileError
from flordb.settings import Settings
from flordb.store import ingest, state
from flordb.store.found import Entry, read
from flordb.store.project import Project
from flordb.store.runfile import parse_run
from flordb.store.tables import CATALOG, redescribe

_BATCH_ROWS = 400_000


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
class _Known:
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


@dataclass
class _Progress:
    """What a sync has done so far, and what it knows about the database as it grows."""

    known: dict[str, _Known]
    runs: dict[ingest.Identity, int]
    ranks: set[tuple[int, int]]
    kinds: ingest.Kinds
    numbers: ingest.Numbers
    files: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)


def take_in(
    db: duckdb.DuckDBPyConnection, project: Project, settings: Settings, files: dict[str, Entry]
) -> SyncReport:
    """Take in what is new of the listed run files into the tables of ``db``'s current schema."""
    progress = _load(db)
    stale = [
        entry
        for name, entry in files.items()
        if name not in progress.known or not progress.known[name].is_current(entry)
    ]
    if stale:
        _take_stale(db, project, stale, progress)
        ranked = any(rank > 0 for _, rank in progress.ranks)
        redescribe(db, progress.numbers, progress.kinds, ranked)
    _write_states(db, _changed_states(db, settings))
    return SyncReport(progress.files, progress.rows, tuple(progress.problems))


def _write_states(db: duckdb.DuckDBPyConnection, changed: list[tuple[int, int, str]]) -> None:
    if not changed:
        return
    db.execute("BEGIN")
    for run_id, rank, now in changed:
        db.execute("UPDATE runs SET state = ? WHERE run_id = ? AND rank = ?", [now, run_id, rank])
    _note_change(db)
    db.execute("COMMIT")


def _note_change(db: duckdb.DuckDBPyConnection) -> None:
    """Give what the tables now say an id of its own: what was read under another may be stale."""
    db.execute("INSERT OR REPLACE INTO meta VALUES ('content', uuid()::VARCHAR)")


def is_current(db: duckdb.DuckDBPyConnection, files: dict[str, Entry], settings: Settings) -> bool:
    """Whether the database attached to ``db`` has all that the listed run files say."""
    known = _known(db)
    if any(name not in known or not known[name].is_current(e) for name, e in files.items()):
        return False
    return not _changed_states(db, settings)


def _load(db: duckdb.DuckDBPyConnection) -> _Progress:
    rows = db.execute("SELECT projid, tstamp, filename, run_id, rank FROM runs").fetchall()
    return _Progress(
        known=_known(db),
        runs={(row[0], row[1], row[2]): row[3] for row in rows},
        ranks={(row[3], row[4]) for row in rows},
        kinds=ingest.Kinds(
            {(r[0], r[1]): r[2] for r in db.execute("FROM name_kinds").fetchall()},
            dict(db.execute("FROM loop_kinds").fetchall()),
        ),
        numbers=ingest.Numbers(
            dict(db.execute("SELECT name, name_id FROM names").fetchall()),
            {tuple(r[1]): r[0] for r in db.execute("FROM nests").fetchall()},
        ),
    )


def _known(db: duckdb.DuckDBPyConnection) -> dict[str, _Known]:
    rows = db.execute(
        "SELECT file, file_id, kind, run_id, rank, disk_size, mtime_ns, blob, size, digest "
        f"FROM {CATALOG}.files"
    ).fetchall()
    return {row[0]: _Known(*row[1:]) for row in rows}


def _take_stale(
    db: duckdb.DuckDBPyConnection, project: Project, stale: list[Entry], progress: _Progress
) -> None:
    """Fresh runs go in as they are; what must be merged with what is there, after them."""
    fresh, later = _Writer(db, progress, True), _Writer(db, progress, False)
    for entry, data in read(project, stale):
        if isinstance(data, OSError):
            progress.problems.append(f"{entry.path}: {data.strerror or data}")
            continue
        lines = data[: data.rfind(b"\n") + 1]
        known = progress.known.get(entry.name)
        if known is not None and xxh3_128_hexdigest(lines[: known.size]) != known.digest:
            raise RewrittenError(f"{entry.name} no longer begins as it did")
        if known is not None and known.size == len(lines):
            (fresh if fresh.entries else later).note(entry, known)
            continue
        taken = _taken(entry, lines, known, progress)
        if isinstance(taken, str):
            progress.problems.append(taken)
            later.reject(entry, lines, known, taken)
            continue
        progress.problems += [f"{entry.path}, line {n}: {why}" for n, why in taken.file.problems]
        (fresh if taken.fresh else later).add(entry, lines, taken)
    fresh.write()
    later.write()


def _taken(
    entry: Entry, lines: bytes, known: _Known | None, progress: _Progress
) -> ingest.Taken | str:
    """A run file with its numbers, or why it cannot be used."""
    try:
        file = parse_run(lines, entry.path)
        identity = ingest.identity(file.header, str(entry.path))
    except RunFileError as error:
        return str(error)
    run_id = progress.runs.setdefault(identity, len(progress.runs) + 1)
    file_id = known.file_id if known is not None else len(progress.known) + 1
    mtime = entry.mtime_ns / 1e9 if entry.blob is None else None
    taken = ingest.Taken(file, entry.name, file_id, run_id, identity, False, mtime)
    place = (run_id, taken.rank)
    if file.is_replay or (place in progress.ranks and not _is_alone(entry, place, progress)):
        return taken
    progress.ranks.add(place)
    return replace(taken, fresh=True)


def _is_alone(entry: Entry, place: tuple[int, int], progress: _Progress) -> bool:
    """Whether all that is known of a run and rank is from an earlier state of this file."""
    of_run = {name for name, k in progress.known.items() if (k.run_id, k.rank) == place}
    return of_run == {entry.name}


class _Writer:
    """Collects run files and writes them, with what is known of them, in one transaction."""

    def __init__(self, db: duckdb.DuckDBPyConnection, progress: _Progress, fresh: bool) -> None:
        self.db, self.progress, self.fresh = db, progress, fresh
        self._start()

    def _start(self) -> None:
        self.batch = ingest.Batch(self.progress.numbers)
        self.again: list[int] = []
        self.entries: dict[str, tuple[Entry, _Known]] = {}

    def add(self, entry: Entry, lines: bytes, taken: ingest.Taken) -> None:
        """Take in a run file."""
        if entry.name in self.progress.known:
            self.again.append(taken.file_id)
        self.batch.add(taken)
        kind = taken.file.header["k"]
        self._note(entry, lines, taken.file_id, kind, taken.run_id, taken.rank)
        if len(self.batch) >= _BATCH_ROWS:
            self.write()

    def reject(self, entry: Entry, lines: bytes, known: _Known | None, why: str) -> None:
        """Remember a file that is no run file, until it changes."""
        self.batch.add_problem(entry.name, None, why)
        file_id = known.file_id if known is not None else len(self.progress.known) + 1
        self._note(entry, lines, file_id, "none", None, None)

    def note(self, entry: Entry, known: _Known) -> None:
        """Remember that a file was touched or compressed, and says what it said."""
        same = replace(known, disk_size=entry.disk_size, mtime_ns=entry.mtime_ns, blob=entry.blob)
        self.entries[entry.name] = entry, same
        self.progress.known[entry.name] = same

    def _note(
        self,
        entry: Entry,
        lines: bytes,
        file_id: int,
        kind: str,
        run_id: int | None,
        rank: int | None,
    ) -> None:
        digest = xxh3_128_hexdigest(lines)
        place = (entry.disk_size, entry.mtime_ns, entry.blob)
        known = _Known(file_id, kind, run_id, rank, *place, len(lines), digest)
        self.entries[entry.name] = entry, known
        self.progress.known[entry.name] = known
        self.progress.files += 1

    def write(self) -> None:
        """Write what was collected."""
        if not self.entries:
            return
        self.db.execute("BEGIN")
        try:
            self._write_files()
            ingest.insert(self.db, self.batch, self.progress.kinds, self.fresh, self.again)
            _note_change(self.db)
            self.db.execute("COMMIT")
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.progress.rows += self.batch.size("logs")
        self._start()

    def _write_files(self) -> None:
        rows = [{"file": name, **known.__dict__} for name, (_, known) in self.entries.items()]
        table = pa.Table.from_pylist(rows, schema=_FILES)
        self.db.register("incoming_entries", table)
        self.db.execute("DELETE FROM files WHERE file IN (SELECT file FROM incoming_entries)")
        self.db.execute("INSERT INTO files BY NAME SELECT * FROM incoming_entries")
        self.db.execute(
            "UPDATE runs SET last_seen = make_timestamp(mtime_ns // 1000) FROM incoming_entries i "
            "WHERE runs.file = i.file AND mtime_ns > 0"
        )
        self.db.unregister("incoming_entries")


_FILES = pa.schema(
    [
        ("file_id", pa.int32()),
        ("file", pa.string()),
        ("kind", pa.string()),
        ("run_id", pa.int32()),
        ("rank", pa.int32()),
        ("disk_size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("blob", pa.string()),
        ("size", pa.int64()),
        ("digest", pa.string()),
    ]
)


_UNSETTLED = (
    "file IS NOT NULL AND (state IS NULL OR state NOT IN ('finished', 'failed', 'killed', 'lost') "
    "OR (state IN ('killed', 'lost') AND ended IS NOT NULL))"
)


def is_settled(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether no run's state can change while its run file stays as it is."""
    query = f"SELECT count(*) FROM {CATALOG}.runs WHERE {_UNSETTLED}"
    return bool(db.execute(query).fetchall() == [(0,)])


def _changed_states(
    db: duckdb.DuckDBPyConnection, settings: Settings
) -> list[tuple[int, int, str]]:
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
