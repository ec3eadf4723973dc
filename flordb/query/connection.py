"""A PEP 249 connection to a project: SQL in, rows out, acquiring on the way what is lacking.

The connection itself is to an in-memory DuckDB. The project's tables are attached, read-only, while
a statement that mentions them runs, and let go of before its rows are looked at, so that no
process ever holds the database while its user thinks. Tables that you create are in memory, too.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import duckdb

from flordb import settings as _settings
from flordb.analysis.statements import log_statements
from flordb.errors import FlorWarning, ProjectError
from flordb.query import statement as _statement
from flordb.query.acquire import acquire, check_budget, without
from flordb.query.errors import InterfaceError, translate
from flordb.query.explain import describe
from flordb.query.planner import Prepared, prepare
from flordb.query.predicates import Parameters
from flordb.query.progress import progress_bar
from flordb.query.result import Result
from flordb.query.statement import Statement
from flordb.replay.execute import Progress
from flordb.replay.plan import Plan, Want, make_plan
from flordb.store import catalog
from flordb.store.project import Project, find_project
from flordb.udfs import register as register_functions

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"


def connect(
    project: str | Path | Project | None = None,
    *,
    acquire: str | None = None,
    budget: float | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Connection:
    """Connect to a project's history.

    Parameters: ``project``, its folder (default: the one around the working folder); ``acquire``,
    ``'auto'`` (replay what a query lacks, within the budget), ``'always'`` (at any price) or
    ``'never'``; ``budget``, in seconds; ``workers``, replays at the same time (default: one a
    core); ``progress``, called during acquisitions (default: a bar on a terminal's stderr).
    Raises ProjectError where there is no project.
    """
    if acquire not in (None, "auto", "always", "never"):
        raise ProjectError(f"acquire={acquire!r}: expected 'auto', 'always' or 'never'")
    found = project if isinstance(project, Project) else find_project(_path(project))
    chosen = _settings.load(found.root, acquire=acquire, budget_seconds=budget, workers=workers)
    return Connection(found, chosen, progress)


def _path(project: str | Path | None) -> Path | None:
    return Path(project) if project is not None else None


class Cursor:
    """Executes statements and holds the result of the last one (PEP 249, with DuckDB's extras)."""

    arraysize = 1
    lastrowid = None
    _result: Result | None = None
    _closed = False

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def execute(self, sql: str, parameters: Parameters = None) -> Cursor:
        """Run one statement, or several separated by semicolons, of which the last gives the rows.

        ``parameters``: a sequence for ``?``, a mapping for ``$name``. Raises errors of
        `flordb.query.errors`, all of which are duckdb's too.
        """
        self._check()
        frame = inspect.currentframe()
        assert frame is not None
        self._result = self.connection.run(sql, parameters, _caller(frame))
        return self

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> Cursor:
        """Run a statement once for each of the parameters; it leaves no rows."""
        for each in parameters:
            self.execute(sql, list(each))
        self._result = None
        return self

    @property
    def description(self) -> list[tuple[Any, ...]] | None:
        return self._result.description if self._result is not None else None

    @property
    def rowcount(self) -> int:
        return self._result.rowcount if self._result is not None else -1

    def fetchone(self) -> tuple[Any, ...] | None:
        rows = self._fetch(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        return self._fetch(self.arraysize if size is None else size)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._fetch(None)

    def _fetch(self, size: int | None) -> list[tuple[Any, ...]]:
        with mapped():
            return self.result().fetch(size)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while (row := self.fetchone()) is not None:
            yield row

    def df(self) -> Any:
        """The rows as a pandas DataFrame."""
        with mapped():
            return self.result().frame()

    fetchdf = df

    def pl(self) -> Any:
        """The rows as a Polars DataFrame (needs polars)."""
        with mapped():
            return self.result().polars()

    def to_arrow_table(self) -> Any:
        return self.result().table()

    def to_arrow_reader(self, rows_per_batch: int = 1_000_000) -> Any:
        return self.result().table().to_reader(max_chunksize=rows_per_batch)

    def arrow(self, rows_per_batch: int = 1_000_000) -> Any:
        """The rows as a RecordBatchReader, as in DuckDB."""
        return self.to_arrow_reader(rows_per_batch)

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """Does nothing, as PEP 249 allows."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Does nothing, as PEP 249 allows."""

    def close(self) -> None:
        self._closed = True
        self._result = None

    def result(self) -> Result:
        """The result of the last statement. Raises InterfaceError where it has none."""
        self._check()
        if self._result is None:
            raise InterfaceError("there is no result to fetch: execute a SELECT first")
        return self._result

    def _check(self) -> None:
        if self.connection._closed:
            raise InterfaceError("this connection is closed")
        if self._closed:
            raise InterfaceError("this cursor is closed")

    def __enter__(self) -> Cursor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Connection(Cursor):
    """A connection to a project; see `connect`. Used in a ``with`` block it closes at its end.

    As in DuckDB it is a cursor itself: ``connection.execute(…).df()``.
    """

    def __init__(
        self,
        project: Project,
        chosen: _settings.Settings,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        super().__init__(self)
        self.project = project
        self.settings = chosen
        self._progress = progress
        self._duckdb = duckdb.connect(":memory:")
        # So that types such as HUGEINT and UUID survive the way through Arrow.
        self._duckdb.execute("SET arrow_lossless_conversion = true")
        register_functions(self._duckdb, project)
        self._lock = threading.RLock()
        self._told_of_lock = False
        self._is_held = False
        self._in_transaction = False

    def cursor(self) -> Cursor:
        """Another cursor: its results are its own, its tables and transactions are not."""
        self._check()
        return Cursor(self)

    def sql(self, sql: str, parameters: Parameters = None) -> Cursor:
        """Run a statement on a cursor of its own; see `Cursor.execute`."""
        return self.cursor().execute(sql, parameters)

    def plan(self, sql: str, parameters: Parameters = None) -> Plan:
        """What `execute` would replay for this statement, and its price. Acquires nothing."""
        self._check()
        plans = []
        with self._lock, mapped(), self._attached():
            for part in _statement.split(sql):
                parsed = _statement.parse(part)
                if parsed.tree is None:
                    duckdb.extract_statements(part)  # says what is wrong, if anything is
                if parsed.references:
                    plans.append(self._plan(self._prepare(parsed, parameters)))
        if not plans:
            return Plan((), (), 0.0, self.settings.workers)
        return plans[-1]

    def explain(self, sql: str, parameters: Parameters = None) -> str:
        """The acquisition plan of a statement as text."""
        return describe(self.plan(sql, parameters))

    def begin(self) -> Connection:
        """Begin a transaction; without one, each statement is one."""
        self.execute("BEGIN")
        return self

    def commit(self) -> None:
        """Commit the transaction. Does nothing where none was begun."""
        self._end("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction. Does nothing where none was begun."""
        self._end("ROLLBACK")

    def _end(self, how: str) -> None:
        self._check()
        with self._lock, mapped():
            if self._in_transaction:
                self._query(how, None, None)
                self._let_go()

    def interrupt(self) -> None:
        """Stop the statement that runs in another thread."""
        self._duckdb.interrupt()

    def close(self) -> None:
        """Close it and its cursors. What was not committed is lost."""
        if not self._closed:
            super().close()
            with suppress(duckdb.Error):
                self._duckdb.execute("ROLLBACK")
            with suppress(duckdb.Error):
                catalog.detach(self._duckdb)
            self._duckdb.close()

    def __enter__(self) -> Connection:
        return self

    # Running statements.

    def run(self, sql: str, parameters: Parameters, frame: FrameType | None) -> Result | None:
        """Run an SQL text and return the last statement's result, None where it has no rows.

        ``frame``: where DataFrames that the text names are looked up.
        """
        self._check()
        with self._lock, mapped():
            if not _statement.mentions_our_tables(sql):
                return self._run_others(sql, parameters, frame)
            result = None
            parts = _statement.split(sql)
            for number, part in enumerate(parts, start=1):
                # As in DuckDB, parameters are the last statement's.
                given = parameters if number == len(parts) else None
                result = self._run_one(part, given, frame)
            return result

    def _run_others(
        self, sql: str, parameters: Parameters, frame: FrameType | None
    ) -> Result | None:
        """Run a text that does not mention the project's tables; a view in it may."""
        try:
            result = self._query(sql, parameters, frame)
        except duckdb.CatalogException:
            if self._is_held or len(_statement.split(sql)) > 1:
                raise
            with self._attached():
                return self._query(sql, parameters, frame)
        self._let_go()
        return result

    def _run_one(self, sql: str, parameters: Parameters, frame: FrameType | None) -> Result | None:
        parsed = _statement.parse(sql)
        if parsed.explain and parsed.references:
            return self._explain(parsed, parameters, frame)
        # Acquire until planning finds nothing more: a LIMIT may need further runs.
        asked: set[tuple[int, str, int | None]] = set()
        while True:
            with self._attached():
                if not parsed.references:
                    return self._query(sql, parameters, frame)
                prepared = self._prepare(parsed, parameters)
                wants = without(prepared.wants, asked)
                if not wants or not self._may_acquire():
                    return self._query(prepared.sql, parameters, frame)
            self._acquire(wants)

    def _query_views(
        self, sql: str, parameters: Parameters, frame: FrameType | None
    ) -> Result | None:
        """Run a text that mentions none of our tables; views that it reads may."""
        try:
            return self._query(sql, parameters, frame)
        except duckdb.CatalogException as error:
            if not _statement.mentions_our_tables(str(error)):
                raise
        with self._attached():
            return self._query(sql, parameters, frame)

    def _query(self, sql: str, parameters: Parameters, frame: FrameType | None) -> Result | None:
        given = {"params": parameters} if parameters else {}
        relation = _evaluated("_flordb.sql(_sql, **_given)", frame, self._duckdb, sql, given)
        self._in_transaction = _statement.leaves_open(sql, self._in_transaction)
        return None if relation is None else Result.of(self._duckdb, sql, relation)

    def _may_acquire(self) -> bool:
        if self.settings.acquire == "never":
            return False
        if self._in_transaction:
            warnings.warn(
                "nothing is acquired within a transaction; end it first", FlorWarning, stacklevel=2
            )
        return not self._in_transaction

    def _acquire(self, wants: Sequence[Want]) -> None:
        plan = make_plan(self.project, wants, self.settings)
        check_budget(plan, self.settings)
        if self._progress is not None:
            acquire(self.project, plan, self.settings, self._progress)
            return
        with progress_bar() as show:
            acquire(self.project, plan, self.settings, show)

    def _explain(
        self, parsed: Statement, parameters: Parameters, frame: FrameType | None
    ) -> Result | None:
        """DuckDB's EXPLAIN with the acquisition plan above it."""
        with self._attached():
            prepared = self._prepare(replace(parsed, probe=False), parameters)
            text = describe(self._plan(prepared))
            result = self._query(prepared.sql, parameters, frame)
        rows = [("acquisition_plan", text)]
        if result is not None:
            rows += [(str(key), str(value)) for key, value in result.fetch(None)]
        listed = ", ".join("(?, ?)" for _ in rows)
        values: list[Any] = [text for row in rows for text in row]
        return self._query(f"FROM (VALUES {listed}) t(explain_key, explain_value)", values, None)

    def _prepare(self, parsed: Statement, parameters: Parameters) -> Prepared:
        statements = log_statements(self.project.root)
        return prepare(self._duckdb, parsed, statements, parameters)

    def _plan(self, prepared: Prepared) -> Plan:
        return make_plan(self.project, prepared.wants, self.settings)

    @contextmanager
    def _attached(self) -> Iterator[None]:
        """The project's tables, for one statement; or until the transaction ends that read them."""
        if not self._is_held:
            self._attach()
        try:
            yield
        finally:
            self._let_go()

    def _attach(self) -> None:
        report = catalog.attach(self._duckdb, self.project, self.settings)
        self._is_held = True
        if report.locked and not self._told_of_lock:
            self._told_of_lock = True
            warnings.warn(
                f"the database is in use ({report.locked}), so this query is answered from the "
                "run files, which takes longer",
                FlorWarning,
                stacklevel=2,
            )
        for problem in report.problems:
            warnings.warn(problem, FlorWarning, stacklevel=2)

    def _let_go(self) -> None:
        """Detach the project's tables; a transaction that has read them keeps them."""
        if self._is_held and not self._in_transaction:
            # A rollback has undone the ATTACH, but not what else refers to it.
            self._duckdb.execute("RESET search_path")
            catalog.detach(self._duckdb)
            self._is_held = False


@contextmanager
def mapped() -> Iterator[None]:
    """Raise DuckDB's errors as ours, with DuckDB's words."""
    try:
        yield
    except duckdb.Error as error:
        raise translate(error) from error


def _caller(frame: FrameType) -> FrameType | None:
    """The first frame outside this module."""
    found: FrameType | None = frame
    while found is not None and found.f_globals.get("__name__") == __name__:
        found = found.f_back
    return found


def _evaluated(
    call: str,
    frame: FrameType | None,
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    given: dict[str, Any],
) -> Any:
    """Evaluate a call as if it stood in the caller's frame.

    DuckDB looks up DataFrames that a statement names in the frame that calls it.
    """
    names = {"_flordb": connection, "_sql": sql, "_given": given}
    if frame is None:
        return eval(call, {}, names)
    if frame.f_locals is not frame.f_globals:
        names = {**frame.f_locals, **names}
    return eval(call, frame.f_globals, names)
