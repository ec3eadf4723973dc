"""The server's database: a copy of the project's tables that nobody else opens.

DuckDB lets one process write to a file, so the server leaves the project's own file to the others
(`flordb sql`, trainings, DuckDB shells) and keeps a copy in the store's temporary folder. It takes
in run files as they grow, all of what is new of a run in one transaction, so a statement sees all
of that or nothing.

What is served from it is locked down: no files, no extensions, no settings. Statements of clients
run in read-only transactions besides.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import duckdb

from flordb.analysis.statements import LogStatement
from flordb.query.facts import Memory, Tables, columns
from flordb.replay.choices import statements_with_choices
from flordb.settings import Settings
from flordb.store import catalog
from flordb.store.current import RewrittenError, SyncReport
from flordb.store.found import listing
from flordb.store.project import Project
from flordb.store.refresh import take_in
from flordb.store.schema import CATALOG, SCHEMA_VERSION, schema_version
from flordb.store.tables import create
from flordb.udfs import register as register_functions

READ_ONLY = "BEGIN TRANSACTION READ ONLY"

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
# In this order; the last one makes all of them final.
_LOCKDOWN = (
    "SET GLOBAL python_enable_replacements = false",
    "SET GLOBAL python_scan_all_frames = false",
    # So that types such as HUGEINT and UUID survive the way through Arrow.
    "SET GLOBAL arrow_lossless_conversion = true",
    "SET GLOBAL enable_external_access = false",
    "SET GLOBAL allow_community_extensions = false",
    "SET GLOBAL lock_configuration = true",
)


class Database:
    """The tables that are served: `cursor` connects to them, `refresh` keeps them current.
    ``statements`` are the log statements of the project's code, as current as the tables.
    ``memory`` is that of all who plan on them.

    Raises OSError where the store's folder cannot be written.
    """

    def __init__(self, project: Project, settings: Settings) -> None:
        project.prepare()
        self._project = project
        self._settings = settings
        self._lock = threading.Lock()
        self._refreshed = 0.0
        self._virtual: list[str] = []
        self.statements: tuple[LogStatement, ...] = ()
        self.memory = Memory()
        _sweep(project)
        prefix = f"serve-{os.getpid()}-"
        self._folder = Path(tempfile.mkdtemp(prefix=prefix, dir=project.temporary))
        try:
            self._root = self._open(self._folder / f"{CATALOG}.duckdb")
            register_functions(self._root, project, temporary=False)
            catalog_views = resources.files("flordb.sql").joinpath("pg_catalog.sql")
            self._root.execute(catalog_views.read_text(encoding="utf-8"))
            self.report = self.refresh(0)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _open(self, path: Path) -> duckdb.DuckDBPyConnection:
        if catalog.copy_to(self._project, self._settings, path):
            root = duckdb.connect(str(path), config=_CONFIG)
            if schema_version(root) == SCHEMA_VERSION:
                return root
            root.close()
            path.unlink()
        root = duckdb.connect(str(path), config=_CONFIG)
        create(root)
        return root

    def lock_down(self, before: Sequence[str] = ()) -> None:
        """Take away what no client may have. ``before``: settings that are made first."""
        for statement in (*before, *_LOCKDOWN):
            self._root.execute(statement)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own to the served tables; another thread may interrupt it."""
        return self._root.cursor()

    def refresh(self, seconds: float | None = None) -> SyncReport:
        """Take in what run files have to say that is new.

        ``seconds``: how old what is known may be (default: as the settings say).
        """
        most = self._settings.serve_refresh_seconds if seconds is None else seconds
        called = time.monotonic()
        if called - self._refreshed < most:
            return SyncReport()
        with self._lock:
            if self._refreshed >= called:
                return SyncReport()  # while this thread waited, another has done it
            began = time.monotonic()
            report = self._take_in()
            self._refreshed = began
            return report

    def _take_in(self) -> SyncReport:
        files = listing(self._project)
        with self._root.cursor() as writer:
            try:
                report = take_in(writer, self._project, self._settings, files)
                self._list_virtual(writer)
                return report
            except RewrittenError:
                # Somebody edited a run file by hand: all of it is taken in anew. Statements that
                # come meanwhile find tables that are not full yet, or none.
                _drop_all(writer)
                create(writer)
                return take_in(writer, self._project, self._settings, files)

    def _list_virtual(self, writer: duckdb.DuckDBPyConnection) -> None:
        """Let clients see the columns that have a statement in the code, but no value yet."""
        self.statements = statements_with_choices(self._project)
        known = columns(Tables(writer, self.memory), self.statements)
        virtual = [name for name in known.virtual if known.is_new(name)]
        if virtual == self._virtual:
            return
        writer.execute("BEGIN")
        writer.execute("DELETE FROM pg.virtual")
        for place, name in enumerate(virtual):
            writer.execute("INSERT INTO pg.virtual VALUES (?, ?)", [name, place])
        writer.execute("COMMIT")
        self._virtual = virtual

    def close(self) -> None:
        self._root.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _drop_all(writer: duckdb.DuckDBPyConnection) -> None:
    """Drop the project's tables, and the views over them; those of git stay."""
    for kind, listing_ in (("VIEW", "duckdb_views()"), ("TABLE", "duckdb_tables()")):
        names = writer.execute(
            f"SELECT {kind.lower()}_name FROM {listing_} WHERE schema_name = 'main' "
            "AND database_name = current_database() AND NOT internal"
        ).fetchall()
        for (name,) in names:
            if not name.startswith("git_"):
                writer.execute(f'DROP {kind} "{name}"')


def _sweep(project: Project) -> None:
    """Remove the copies of servers that were killed."""
    for folder in project.temporary.glob("serve-*"):
        pid = folder.name.split("-")[1]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
