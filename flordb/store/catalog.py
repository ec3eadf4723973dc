"""The database: derived from the run files, brought up to date, and attached for reading.

`sync` takes in what is new; `attach` does that and then puts the tables under the name ``flordb``
into somebody's DuckDB connection. The file is held only in between. Where another program holds
it, the same tables are built in memory from the run files, so reading always works.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC
from importlib import resources
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import duckdb
import pyarrow as pa
from xxhash import xxh3_128_hexdigest

from flordb.errors import FlorError, RunFileError
from flordb.settings import Settings
from flordb.store import ingest, names, state
from flordb.store.lock import Lock, acquire, holders
from flordb.store.project import Project
from flordb.store.runfile import parse_run, read_bytes

CATALOG = "flordb"
"""What the database is called in a connection, and in the DuckDB shell (after its file)."""

SCHEMA_VERSION = "1"

_STORAGE_VERSION = "v1.5.0"  # a file that DuckDB 2 creates without it cannot be opened by 1.5
_BATCH_ROWS = 400_000


@dataclass(frozen=True)
class SyncReport:
    """What a sync did.

    ``files`` and ``rows``: how many were taken in. ``problems``: what was left out and why.
    ``locked``: who keeps the database so that it could not be brought up to date, None if it
    was. ``rebuilt``: why the database was built anew, and where the old one is.
    """

    files: int = 0
    rows: int = 0
    problems: tuple[str, ...] = ()
    locked: str | None = None
    rebuilt: str | None = None


@dataclass(frozen=True)
class _Entry:
    """A run file as it lies there: on disk, or only in git (``blob``)."""

    name: str
    path: Path
    disk_size: int = 0
    mtime_ns: int = 0
    blob: str | None = None


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

    def is_current(self, entry: _Entry) -> bool:
        if entry.blob is not None:
            return self.blob == entry.blob
        return (self.disk_size, self.mtime_ns) == (entry.disk_size, entry.mtime_ns)


class _Rewritten(Exception):
    """A run file that was taken in no longer begins as it did."""


# --- public ---------------------------------------------------------------------------------------


def sync(project: Project, settings: Settings) -> SyncReport:
    """Bring the project's database up to date with its run files.

    Run files are those in ``project.runs`` and those that only exist in git on ``flor/`` branches.
    Each is taken in once, however many processes do this at the same time.

    Parameters: ``project``; ``settings``, of which ``lock_wait_seconds`` says how long to wait for
    others to let go of the database, and ``heartbeat_seconds`` when a silent run counts as lost.
    Raises OSError where the store's folder cannot be made or written.
    """
    return _sync(project, settings, _listing(project))


def attach(
    connection: duckdb.DuckDBPyConnection, project: Project, settings: Settings
) -> SyncReport:
    """Make the tables, ``flor`` and ``flor_pivot`` available in an in-memory DuckDB connection.

    They are in the catalog ``flordb``, read-only, and on the search path after the connection's
    own schema. Other programs cannot write to the database until `detach`. Parameters: as `sync`.
    """
    detach(connection)
    listing = _listing(project)
    report = SyncReport()
    if not _attach_file(connection, project, settings, listing):
        try:
            report = _sync(project, settings, listing)
        except OSError as error:
            report = SyncReport(locked=str(error))
        if report.locked or not _attach_file(connection, project, settings, None):
            in_memory = _attach_memory(connection, project, settings, listing)
            report = replace(in_memory, locked=report.locked, rebuilt=report.rebuilt)
    put_on_search_path(connection)
    return report


def first_row(db: duckdb.DuckDBPyConnection, query: str, *parameters: Any) -> Any:
    """The first row of a query's result, or None. Reads it to its end: DuckDB 2 refuses to do
    other things on a connection with a result that was only begun."""
    rows = db.execute(query, parameters).fetchall()
    return rows[0] if rows else None


def put_on_search_path(connection: duckdb.DuckDBPyConnection) -> None:
    """Let names resolve in the attached tables; each cursor of a connection needs it for itself."""
    own = first_row(
        connection,
        "SELECT database_name FROM duckdb_databases() WHERE NOT internal AND path IS NULL "
        "AND database_name <> ?",
        CATALOG,
    )
    first = f'"{own[0]}".main,' if own else ""
    connection.execute(f"SET search_path = '{first}{CATALOG}.main'")


def detach(connection: duckdb.DuckDBPyConnection) -> None:
    """Undo `attach`; the file is free for others. Does nothing where nothing is attached."""
    if first_row(connection, "SELECT 1 FROM duckdb_databases() WHERE database_name = ?", CATALOG):
        connection.execute("RESET search_path")
        connection.execute(f"DETACH {CATALOG}")
    lock = _held.pop(connection, None)
    if lock is not None:
        lock.release()


# --- run files ------------------------------------------------------------------------------------


def _listing(project: Project) -> dict[str, _Entry]:
    """The project's run files by name (without ``.gz``), in the order of time."""
    found: dict[str, _Entry] = {}
    try:
        paths = sorted(project.runs.iterdir())
    except OSError:
        paths = []
    for path in paths:
        name = _plain(path.name)
        # While a file is being compressed, both are there; the plain one is whole.
        if path.suffixes[-1:] in ([".jsonl"], [".gz"]) and name not in found:
            try:
                stat = path.stat()
            except OSError:
                continue
            found[name] = _Entry(name, path, stat.st_size, stat.st_mtime_ns)
    if project.has_git:
        from flordb.store import history

        try:
            blobs = history.list_run_files(project.root)
        except FlorError:
            blobs = {}  # no git, or none that works: what is on disk is all there is
        for file, blob in blobs.items():
            name = _plain(file)
            if name not in found:
                found[name] = _Entry(name, project.runs / file, blob=blob)
    return dict(sorted(found.items()))


def _plain(file: str) -> str:
    return file.removesuffix(".gz")


def _read(project: Project, entries: list[_Entry]) -> Iterator[tuple[_Entry, bytes | OSError]]:
    """The text of run files, one after another; that of those in git in one go."""
    blobs = [entry.blob for entry in entries if entry.blob is not None]
    texts: dict[str, bytes] = {}
    missing = OSError("its contents are not in this clone; git fetch --unshallow gets them")
    if blobs:
        from flordb.store import history

        try:
            texts = history.read_blobs(project.root, blobs)
        except FlorError as error:
            missing = OSError(str(error))
    for entry in entries:
        if entry.blob is not None:
            yield entry, _unpacked(entry, texts[entry.blob]) if entry.blob in texts else missing
            continue
        try:
            yield entry, read_bytes(entry.path)
        except OSError as error:
            yield entry, error


def _unpacked(entry: _Entry, data: bytes) -> bytes:
    """The text of a run file in git; what is whole of one that was compressed when cut off."""
    if entry.path.suffix != ".gz":
        return data
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(data)
    except zlib.error:
        return b""


# --- the database file ----------------------------------------------------------------------------

_held: WeakKeyDictionary[duckdb.DuckDBPyConnection, Lock] = WeakKeyDictionary()


def _lock_path(project: Project) -> Path:
    return project.database.with_suffix(".lock")


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _is_lock(error: duckdb.Error) -> bool:
    text = str(error).lower()
    return "lock" in text or "already attached" in text or "file handle conflict" in text


def _holder(error: duckdb.Error) -> str:
    """Who holds the database, from DuckDB's message."""
    pid = re.search(r"PID (\d+)", str(error))
    return f"PID {pid[1]}" if pid else "another connection of this process"


def _sync(project: Project, settings: Settings, listing: dict[str, _Entry]) -> SyncReport:
    if not listing and not project.store.exists():
        return SyncReport()
    project.prepare()
    deadline = time.monotonic() + settings.lock_wait_seconds
    lock = acquire(_lock_path(project), True, settings.lock_wait_seconds)
    if lock is None:
        return SyncReport(locked=holders(_lock_path(project)))
    try:
        return _write(project, settings, listing, deadline)
    finally:
        lock.release()


def _write(
    project: Project, settings: Settings, listing: dict[str, _Entry], deadline: float
) -> SyncReport:
    rebuilt: str | None = None
    while True:
        db = duckdb.connect()
        try:
            why = _open(db, project.database)
            if why is None:
                report = take_in(db, project, settings, listing)
                return replace(report, rebuilt=rebuilt)
        except _Rewritten as error:
            why = str(error)
        except duckdb.Error as error:
            if _is_lock(error):
                if time.monotonic() >= deadline:
                    return SyncReport(locked=_holder(error))
                time.sleep(0.05)
                continue
            why = f"the database was damaged ({str(error).splitlines()[0]})"
            if rebuilt is not None:
                raise
        finally:
            db.close()
        rebuilt = f"{why}; the old one is {_move_aside(project.database).name}"


def _move_aside(database: Path) -> Path:
    """Rename the database, so that a new one takes its place. Only the latest is kept."""
    aside = database.with_suffix(".old.duckdb")
    database.replace(aside)
    database.with_name(database.name + ".wal").unlink(missing_ok=True)
    return aside


def _open(db: duckdb.DuckDBPyConnection, path: Path) -> str | None:
    """Attach the file for writing, made if need be. Returns why it cannot serve, or None."""
    db.execute(f"ATTACH {_quoted(path)} AS {CATALOG} (STORAGE_VERSION '{_STORAGE_VERSION}')")
    db.execute(f"USE {CATALOG}")
    if not first_row(db, "SELECT 1 FROM duckdb_tables() WHERE database_name = ?", CATALOG):
        _create(db)
        return None
    version = _schema_version(db)
    if version == SCHEMA_VERSION:
        return None
    return f"the database was made by another version of flordb (schema {version})"


def _schema_version(db: duckdb.DuckDBPyConnection) -> str | None:
    try:
        row = first_row(db, f"SELECT value FROM {CATALOG}.meta WHERE key = 'schema'")
    except duckdb.CatalogException:
        return None
    return row[0] if row else None


def _create(db: duckdb.DuckDBPyConnection) -> None:
    db.execute("BEGIN")
    db.execute(_script("tables.sql"))
    db.execute("INSERT INTO meta VALUES ('schema', ?)", [SCHEMA_VERSION])
    _describe(db, names.catalog({0: ()}, [], {}, False))
    db.execute("COMMIT")


def _script(name: str) -> str:
    return resources.files("flordb.sql").joinpath(name).read_text(encoding="utf-8")


def _attach_file(
    connection: duckdb.DuckDBPyConnection,
    project: Project,
    settings: Settings,
    listing: dict[str, _Entry] | None,
) -> bool:
    """Attach the file for reading if it is there and, given a listing, up to date with that."""
    if not project.database.exists():
        return False
    lock = acquire(_lock_path(project), False, settings.lock_wait_seconds)
    if lock is None:
        return False
    try:
        connection.execute(f"ATTACH {_quoted(project.database)} AS {CATALOG} (READ_ONLY)")
        if _schema_version(connection) == SCHEMA_VERSION and (
            listing is None or _is_current(connection, listing, settings)
        ):
            _held[connection] = lock
            return True
        connection.execute(f"DETACH {CATALOG}")
    except duckdb.Error:
        connection.execute(f"DETACH DATABASE IF EXISTS {CATALOG}")
    lock.release()
    return False


def _is_current(
    db: duckdb.DuckDBPyConnection, listing: dict[str, _Entry], settings: Settings
) -> bool:
    known = _known(db)
    if any(name not in known or not known[name].is_current(e) for name, e in listing.items()):
        return False
    return not _changed_states(db, settings)


def _attach_memory(
    connection: duckdb.DuckDBPyConnection,
    project: Project,
    settings: Settings,
    listing: dict[str, _Entry],
) -> SyncReport:
    """Build the tables in memory from the run files."""
    connection.execute(f"ATTACH ':memory:' AS {CATALOG}")
    db = connection.cursor()
    db.execute(f"USE {CATALOG}")
    _create(db)
    return take_in(db, project, settings, listing)


# --- taking in ------------------------------------------------------------------------------------


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
    db: duckdb.DuckDBPyConnection, project: Project, settings: Settings, listing: dict[str, _Entry]
) -> SyncReport:
    """Take in what is new of the listed run files into the tables of ``db``'s current schema."""
    progress = _load(db)
    stale = [
        entry
        for name, entry in listing.items()
        if name not in progress.known or not progress.known[name].is_current(entry)
    ]
    if stale:
        _take_stale(db, project, stale, progress)
        _redescribe(db, progress)
    for run_id, rank, now in _changed_states(db, settings):
        db.execute("UPDATE runs SET state = ? WHERE run_id = ? AND rank = ?", [now, run_id, rank])
    return SyncReport(progress.files, progress.rows, tuple(progress.problems))


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
    db: duckdb.DuckDBPyConnection, project: Project, stale: list[_Entry], progress: _Progress
) -> None:
    """Fresh runs go in as they are; what must be merged with what is there, after them."""
    fresh, later = _Writer(db, progress, True), _Writer(db, progress, False)
    for entry, data in _read(project, stale):
        if isinstance(data, OSError):
            progress.problems.append(f"{entry.path}: {data.strerror or data}")
            continue
        lines = data[: data.rfind(b"\n") + 1]
        known = progress.known.get(entry.name)
        if known is not None and xxh3_128_hexdigest(lines[: known.size]) != known.digest:
            raise _Rewritten(f"{entry.name} no longer begins as it did")
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
    entry: _Entry, lines: bytes, known: _Known | None, progress: _Progress
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
    if place in progress.ranks or file.is_replay:
        return taken
    progress.ranks.add(place)
    return replace(taken, fresh=True)


class _Writer:
    """Collects run files and writes them, with what is known of them, in one transaction."""

    def __init__(self, db: duckdb.DuckDBPyConnection, progress: _Progress, fresh: bool) -> None:
        self.db, self.progress, self.fresh = db, progress, fresh
        self._start()

    def _start(self) -> None:
        self.batch = ingest.Batch(self.progress.numbers)
        self.entries: dict[str, tuple[_Entry, _Known]] = {}

    def add(self, entry: _Entry, lines: bytes, taken: ingest.Taken) -> None:
        """Take in a run file."""
        self.batch.add(taken)
        kind = taken.file.header["k"]
        self._note(entry, lines, taken.file_id, kind, taken.run_id, taken.rank)
        if len(self.batch) >= _BATCH_ROWS:
            self.write()

    def reject(self, entry: _Entry, lines: bytes, known: _Known | None, why: str) -> None:
        """Remember a file that is no run file, until it changes."""
        self.batch.add_problem(entry.name, None, why)
        file_id = known.file_id if known is not None else len(self.progress.known) + 1
        self._note(entry, lines, file_id, "none", None, None)

    def note(self, entry: _Entry, known: _Known) -> None:
        """Remember that a file was touched or compressed, and says what it said."""
        same = replace(known, disk_size=entry.disk_size, mtime_ns=entry.mtime_ns, blob=entry.blob)
        self.entries[entry.name] = entry, same
        self.progress.known[entry.name] = same

    def _note(
        self,
        entry: _Entry,
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
            ingest.insert(self.db, self.batch, self.progress.kinds, self.fresh)
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


def _changed_states(
    db: duckdb.DuckDBPyConnection, settings: Settings
) -> list[tuple[int, int, str]]:
    """(run_id, rank, state) of the runs whose state is no longer the one in the table."""
    rows = db.execute(
        "SELECT run_id, rank, state, ended IS NOT NULL, status, error, host, pid, pid_start, "
        f"last_seen FROM {CATALOG}.runs WHERE file IS NOT NULL AND (state IS NULL OR "
        "state NOT IN ('finished', 'failed', 'killed', 'lost') OR "
        "(state IN ('killed', 'lost') AND ended IS NOT NULL))"
    ).fetchall()
    changed = []
    for run_id, rank, before, ended, status, error, host, pid, pid_start, last_seen in rows:
        seen = last_seen.replace(tzinfo=UTC).timestamp() if last_seen is not None else None
        signs = state.Signs(ended, status, error, host, pid, pid_start, seen)
        now = state.derive(signs, settings.heartbeat_seconds)
        if now != before:
            changed.append((run_id, rank, now))
    return changed


# --- what flor looks like -------------------------------------------------------------------------


def _redescribe(db: duckdb.DuckDBPyConnection, progress: _Progress) -> None:
    """Define the catalog's constant, `names` and `flor` anew where they changed."""
    by_name: dict[int, dict[int, int]] = {}
    for (name_id, nest), bits in progress.kinds.names.items():
        by_name.setdefault(name_id, {})[nest] = bits
    found = [
        names.Name(id_, name, by_name.get(id_, {})) for name, id_ in progress.numbers.names.items()
    ]
    nests = {id_: loops for loops, id_ in progress.numbers.nests.items()}
    ranks: dict[int, int] = {}
    for run_id, rank in progress.ranks:
        ranks[run_id] = max(ranks.get(run_id, 0), rank)
    content = names.catalog(
        nests, found, progress.kinds.loops, any(rank > 0 for rank in ranks.values())
    )
    digest = xxh3_128_hexdigest(repr(content).encode("utf-8", "surrogatepass"))
    before = first_row(db, "SELECT value FROM meta WHERE key = 'catalog'")
    if before == (digest,):
        return
    db.execute("BEGIN")
    _write_kinds(db, progress.kinds)
    _write_names(db, found, nests, content)
    _describe(db, content)
    db.execute("INSERT OR REPLACE INTO meta VALUES ('catalog', ?)", [digest])
    db.execute("COMMIT")


def _write_kinds(db: duckdb.DuckDBPyConnection, kinds: ingest.Kinds) -> None:
    rows = [(name, nest, bits) for (name, nest), bits in kinds.names.items()]
    table = pa.table([pa.array([r[i] for r in rows], pa.int32()) for i in range(3)], list("abc"))
    db.register("incoming_kinds", table)
    db.execute("DELETE FROM name_kinds")
    db.execute("INSERT INTO name_kinds FROM incoming_kinds")
    db.unregister("incoming_kinds")
    db.execute("DELETE FROM loop_kinds")
    for row in kinds.loops.items():
        db.execute("INSERT INTO loop_kinds VALUES (?, ?)", row)


def _write_names(
    db: duckdb.DuckDBPyConnection,
    found: list[names.Name],
    nests: dict[int, tuple[str, ...]],
    content: dict[str, Any],
) -> None:
    labels = {c["id"]: c["label"] for c in content["columns"] if c["kind"] == "name"}
    rows = [
        {
            "name_id": name.id,
            "name": name.name,
            "type": names.sql_type(name.bits),
            "nests": sorted(list(nests[nest]) for nest in name.kinds),
            "column_name": labels[name.id],
        }
        for name in found
    ]
    schema = pa.schema(
        [
            ("name_id", pa.int32()),
            ("name", pa.string()),
            ("type", pa.string()),
            ("nests", pa.list_(pa.list_(pa.string()))),
            ("column_name", pa.string()),
        ]
    )
    db.register("incoming_names", pa.Table.from_pylist(rows, schema=schema))
    db.execute("DELETE FROM names")
    db.execute("INSERT INTO names BY NAME SELECT * FROM incoming_names")
    db.unregister("incoming_names")


def _describe(db: duckdb.DuckDBPyConnection, content: dict[str, Any]) -> None:
    """Define what ``flor_pivot`` knows, the macros themselves, and the view ``flor``."""
    db.execute(names.macro(content))
    db.execute(_script("pivot.sql"))
    (text,) = db.execute("SELECT flor_pivot_sql(NULL)").fetchall()[0]
    db.execute(f"CREATE OR REPLACE VIEW flor AS {text}")
