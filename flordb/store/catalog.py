"""The database: derived from the run files, brought up to date, and attached for reading.

`sync` takes in what is new; `attach` does that and then puts the tables under the name ``flordb``
into somebody's DuckDB connection. The file is held only in between. Where another program holds
it, the same tables are built in memory from the run files, so reading always works.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import duckdb

from flordb.settings import Settings
from flordb.store.current import RewrittenError, SyncReport, is_current, is_settled
from flordb.store.found import Entry, listing
from flordb.store.lock import Lock, acquire, holders
from flordb.store.project import Project
from flordb.store.schema import CATALOG, SCHEMA_VERSION, first_row, schema_version

__all__ = ["CATALOG", "SyncReport", "attach", "attach_in_memory", "copy_to", "detach", "sync"]

_STORAGE_VERSION = "v1.5.0"  # a file that DuckDB 2 creates without it cannot be opened by 1.5
_HEADERS = 3 * 4096  # bytes before the first block of the file
_RETRY_SECONDS = 0.05
_BROKEN = (duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException)


def sync(project: Project, settings: Settings) -> SyncReport:
    """Bring the project's database up to date with its run files.

    Run files are those in ``project.runs`` and those that only exist in git on ``flor/`` branches.
    Each is taken in once, however many processes do this at the same time.

    Parameters: ``project``; ``settings``, of which ``lock_wait_seconds`` says how long to wait for
    others to let go of the database, and ``heartbeat_seconds`` when a silent run counts as lost.
    Raises OSError where the store's folder cannot be made or written.
    """
    return _sync(project, settings, listing(project))


def attach(
    connection: duckdb.DuckDBPyConnection, project: Project, settings: Settings
) -> SyncReport:
    """Make the tables, ``flor`` and ``flor_pivot`` available in an in-memory DuckDB connection.

    They are in the catalog ``flordb``, read-only, and on the search path after the connection's
    own schema. Other programs cannot write to the database until `detach`. Parameters: as `sync`.
    """
    detach(connection)
    files = listing(project)
    report = SyncReport()
    if not _attach_file(connection, project, settings, files):
        try:
            report = _sync(project, settings, files)
        except OSError as error:
            report = SyncReport(locked=_unusable(error))
        if report.locked or not _attach_file(connection, project, settings, None):
            in_memory = _build(connection, project, settings, files)
            report = replace(in_memory, locked=report.locked, rebuilt=report.rebuilt)
    put_on_search_path(connection)
    return report


def attach_in_memory(
    connection: duckdb.DuckDBPyConnection, project: Project, settings: Settings
) -> SyncReport:
    """As `attach`, but without the database file: the tables are built from the run files."""
    detach(connection)
    report = _build(connection, project, settings, listing(project))
    put_on_search_path(connection)
    return report


def copy_to(project: Project, settings: Settings, target: Path) -> bool:
    """Copy the database's file, brought up to date, for a program that keeps it open.

    Returns False where it cannot be had: there is none, or another program is writing to it.
    """
    report = sync(project, settings)
    if report.locked or not project.database.exists():
        return False
    lock = acquire(_lock_path(project), False, settings.lock_wait_seconds)
    if lock is None:
        return False
    try:
        shutil.copyfile(project.database, target)
    finally:
        lock.release()
    return True


def put_on_search_path(connection: duckdb.DuckDBPyConnection) -> None:
    """Let names resolve in the attached tables; each cursor of a connection needs it for itself."""
    if connection not in _own:
        connection.execute("RESET search_path")
        _own[connection] = first_row(connection, "SELECT current_database(), current_schema()")
    database, schema = _own[connection]
    first = f'"{database}".{schema},' if database != CATALOG else ""
    connection.execute(f"SET search_path = '{first}{CATALOG}.main'")


def detach(connection: duckdb.DuckDBPyConnection) -> None:
    """Undo `attach`; the file is free for others. Does nothing where nothing is attached."""
    connection.execute("RESET search_path")
    connection.execute(f"DETACH DATABASE IF EXISTS {CATALOG}")
    lock = _held.pop(connection, None)
    if lock is not None:
        lock.release()


# --- the database file ----------------------------------------------------------------------------

_held: WeakKeyDictionary[duckdb.DuckDBPyConnection, Lock] = WeakKeyDictionary()
_own: WeakKeyDictionary[duckdb.DuckDBPyConnection, tuple[str, str]] = WeakKeyDictionary()
"""A connection's own database and schema."""
_current: dict[Path, tuple[object, object]] = {}
"""By database, its file's signature and the run files with which it was last up to date."""


def _lock_path(project: Project) -> Path:
    return project.database.with_suffix(".lock")


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _is_lock(error: duckdb.Error) -> bool:
    return "lock" in str(error).lower() or _is_of_this_process(error)


def _is_of_this_process(error: duckdb.Error) -> bool:
    text = str(error).lower()
    return "already attached" in text or "file handle conflict" in text


def _holder(error: duckdb.Error) -> str:
    """Who holds the database, or what else keeps it from being written, from DuckDB's message."""
    pid = re.search(r"PID (\d+)", str(error))
    if pid:
        return _in_use(f"PID {pid[1]}")
    if _is_of_this_process(error):
        return "the database is in use by another connection of this program"
    return _unusable(error)


def _in_use(by: str) -> str:
    return f"the database is in use by another program ({by})"


def _unusable(error: Exception) -> str:
    return f"the database cannot be used ({str(error).splitlines()[0]})"


def _is_damage(error: duckdb.Error) -> bool:
    if isinstance(error, _BROKEN):
        return True
    words = ("not a valid duckdb", "corrupt", "checksum", "version number", "wal file")
    cut_off = "could not read enough bytes"
    return any(word in str(error).lower() for word in (*words, cut_off))


def _sync(project: Project, settings: Settings, files: dict[str, Entry]) -> SyncReport:
    if not files and not project.store.exists():
        return SyncReport()
    project.prepare()
    deadline = time.monotonic() + settings.lock_wait_seconds
    lock = acquire(_lock_path(project), True, settings.lock_wait_seconds)
    if lock is None:
        return SyncReport(locked=_in_use(holders(_lock_path(project))))
    try:
        return _write(project, settings, files, deadline)
    finally:
        lock.release()


# What taking in needs is imported when there is something to take in: most queries find nothing.


def _write(
    project: Project, settings: Settings, files: dict[str, Entry], deadline: float
) -> SyncReport:
    from flordb.store.refresh import take_in

    rebuilt: str | None = None
    while True:
        db = duckdb.connect()
        try:
            # What is taken in goes straight into the file, not into a log and then into the file.
            db.execute("SET checkpoint_threshold = '1KB'")
            why = _open(db, project.database)
            if why is None:
                report = take_in(db, project, settings, files)
                _fill_up(db, project.database)
                return replace(report, rebuilt=rebuilt)
        except RewrittenError as error:
            why = str(error)
        except duckdb.Error as error:
            if _is_lock(error) and time.monotonic() < deadline:
                time.sleep(_RETRY_SECONDS)
                continue
            if not _is_damage(error) or rebuilt is not None:
                return SyncReport(locked=_holder(error), rebuilt=rebuilt)
            why = f"the database was damaged ({str(error).splitlines()[0]})"
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
        from flordb.store.tables import create

        create(db)
        return None
    if not _is_whole(db, path):
        return "the database was damaged (it was cut off)"
    version = schema_version(db)
    if version == SCHEMA_VERSION:
        return None
    return f"the database was made by another version of flordb (schema {version})"


def _is_whole(db: duckdb.DuckDBPyConnection, path: Path) -> bool:
    """Whether the attached file is as long as it says: DuckDB reads a block when it needs it."""
    return path.stat().st_size >= _size(db)


def _size(db: duckdb.DuckDBPyConnection) -> int:
    query = "SELECT total_blocks * block_size FROM pragma_database_size() WHERE database_name = ?"
    size: int = first_row(db, query, CATALOG)[0]
    return size + _HEADERS


def _fill_up(db: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Close the attached file, and make it as long as it says: DuckDB writes down how many blocks
    it has, and then cuts off free ones at the end, which `_is_whole` could not tell from a damage.
    """
    db.execute("USE memory")
    db.execute(f"DETACH {CATALOG}")
    db.execute(f"ATTACH {_quoted(path)} AS {CATALOG} (READ_ONLY)")
    size = _size(db)
    db.execute(f"DETACH {CATALOG}")
    if path.stat().st_size < size:
        os.truncate(path, size)


def _attach_file(
    connection: duckdb.DuckDBPyConnection,
    project: Project,
    settings: Settings,
    files: dict[str, Entry] | None,
) -> bool:
    """Attach the file for reading if it is there and, given a listing, up to date with that."""
    if not project.database.exists():
        return False
    lock = acquire(_lock_path(project), False, settings.lock_wait_seconds)
    if lock is None:
        return False
    try:
        connection.execute(f"ATTACH {_quoted(project.database)} AS {CATALOG} (READ_ONLY)")
        if _is_usable(connection, project.database, files, settings):
            _held[connection] = lock
            return True
        connection.execute(f"DETACH {CATALOG}")
    except duckdb.Error:
        connection.execute(f"DETACH DATABASE IF EXISTS {CATALOG}")
    lock.release()
    return False


def _is_usable(
    connection: duckdb.DuckDBPyConnection,
    database: Path,
    files: dict[str, Entry] | None,
    settings: Settings,
) -> bool:
    """Whether the attached database is of this version and, given a listing, up to date with it."""
    stat = database.stat()
    seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns), files
    if files is not None and _current.get(database) == seen:
        return True
    if schema_version(connection) != SCHEMA_VERSION or not _is_whole(connection, database):
        return False
    if files is None or not is_current(connection, files, settings):
        return files is None
    if is_settled(connection):
        _current[database] = seen
    return True


def _build(
    connection: duckdb.DuckDBPyConnection,
    project: Project,
    settings: Settings,
    files: dict[str, Entry],
) -> SyncReport:
    from flordb.store.refresh import take_in
    from flordb.store.tables import create

    connection.execute(f"ATTACH ':memory:' AS {CATALOG}")
    db = connection.cursor()
    db.execute(f"USE {CATALOG}")
    create(db)
    return take_in(db, project, settings, files)
