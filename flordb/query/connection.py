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
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import duckdb

from flordb import settings as _settings
from flordb.analysis.statements import log_statements
from flordb.errors import FlorWarning, ProjectError
from flordb.query import statement as _statement
from flordb.query.acquire import acquire, check_budget
from flordb.query.errors import InterfaceError, translate
from flordb.query.explain import describe
from flordb.query.planner import Prepared, prepare
from flordb.query.predicates import Parameters
from flordb.query.progress import progress_bar
from flordb.query.result import Result
from flordb.query.statement import Statement
from flordb.replay.execute import Progress
from flordb.replay.plan import Plan, make_plan
from flordb.store import catalog
from flordb.store.project import Project, find_project

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"

_MOST_ROUNDS = 100


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

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        self._result: Result | None = None
        self._closed = False

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
        rows = self.result().fetch(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        return self.result().fetch(self.arraysize if size is None else size)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.result().fetch(None)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while (row := self.fetchone()) is not None:
            yield row

    def df(self) -> Any:
        """The rows as a pandas DataFrame."""
        return self.result().frame()

    fetchdf = df

    def pl(self) -> Any:
        """The rows as a Polars DataFrame (needs polars)."""
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


class Connection:
    """A connection to a project; see `connect`. Used in a ``with`` block it closes at its end."""

    def __init__(
        self,
        project: Project,
        chosen: _settings.Settings,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.project = project
        self.settings = chosen
        self._progress = progress
        self._duckdb = duckdb.connect(":memory:")
        # So that types such as HUGEINT and UUID survive the way through Arrow.
        self._duckdb.execute("SET arrow_lossless_conversion = true")
        self._lock = threading.RLock()
        self._told_of_lock = False
        self._closed = False

    def cursor(self) -> Cursor:
        self._check()
        return Cursor(self)

    def execute(self, sql: str, parameters: Parameters = None) -> Cursor:
        """Run a statement on a new cursor; see `Cursor.execute`."""
        return self.cursor().execute(sql, parameters)

    sql = execute

    def plan(self, sql: str, parameters: Parameters = None) -> Plan:
        """What `execute` would replay for this statement, and its price. Acquires nothing."""
        self._check()
        plans = []
        with self._lock, mapped(), self._attached():
            for part in _statement.split(sql):
                parsed = _statement.parse(part)
                if parsed.references:
                    plans.append(self._plan(self._prepare(parsed, parameters)))
        if not plans:
            return Plan((), (), 0.0, self.settings.workers)
        return plans[-1]

    def explain(self, sql: str, parameters: Parameters = None) -> str:
        """The acquisition plan of a statement as text."""
        return describe(self.plan(sql, parameters))

    def commit(self) -> None:
        self._check()

    def rollback(self) -> None:
        self._check()

    def interrupt(self) -> None:
        """Stop the statement that runs in another thread."""
        self._duckdb.interrupt()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._duckdb.close()

    def _check(self) -> None:
        if self._closed:
            raise InterfaceError("this connection is closed")

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Running statements.

    def run(self, sql: str, parameters: Parameters, frame: FrameType | None) -> Result | None:
        """Run an SQL text and return the last statement's result, None where it has no rows.

        ``frame``: where DataFrames that the text names are looked up.
        """
        self._check()
        with self._lock, mapped(), _variables_of(self._duckdb, frame, sql):
            if not _statement.mentions_our_tables(sql):
                return self._query(sql, parameters)
            result = None
            for part in _statement.split(sql):
                result = self._run_one(part, parameters)
            return result

    def _run_one(self, sql: str, parameters: Parameters) -> Result | None:
        parsed = _statement.parse(sql)
        if parsed.explain and parsed.references:
            return self._explain(parsed, parameters)
        if parsed.references:
            self._acquire(parsed, parameters)
        with self._attached():
            if parsed.references:
                sql = self._prepare(parsed, parameters).sql
            return self._query(sql, parameters)

    def _query(self, sql: str, parameters: Parameters) -> Result | None:
        given: Any = parameters if parameters else None
        relation = self._duckdb.sql(sql, params=given) if given else self._duckdb.sql(sql)
        return None if relation is None else Result(self._duckdb, relation)

    def _acquire(self, parsed: Statement, parameters: Parameters) -> None:
        """Acquire until planning finds nothing more: a LIMIT may need further runs."""
        if self.settings.acquire == "never" or parsed.probe:
            return
        for _ in range(_MOST_ROUNDS):
            with self._attached():
                prepared = self._prepare(parsed, parameters)
            if not prepared.wants:
                return
            plan = self._plan(prepared)
            check_budget(plan, self.settings)
            if self._progress is not None:
                acquire(self.project, plan, self.settings, self._progress)
                continue
            with progress_bar() as show:
                acquire(self.project, plan, self.settings, show)

    def _explain(self, parsed: Statement, parameters: Parameters) -> Result | None:
        """DuckDB's EXPLAIN with the acquisition plan above it."""
        with self._attached():
            prepared = self._prepare(replace(parsed, probe=False), parameters)
            text = describe(self._plan(prepared))
            result = self._query(prepared.sql, parameters)
        rows = [("acquisition_plan", text)]
        if result is not None:
            rows += [(str(key), str(value)) for key, value in result.fetch(None)]
        listed = ", ".join("(?, ?)" for _ in rows)
        values: list[Any] = [text for row in rows for text in row]
        return self._query(f"FROM (VALUES {listed}) t(explain_key, explain_value)", values)

    def _prepare(self, parsed: Statement, parameters: Parameters) -> Prepared:
        statements = log_statements(self.project.root)
        return prepare(self._duckdb, parsed, statements, parameters)

    def _plan(self, prepared: Prepared) -> Plan:
        return make_plan(self.project, prepared.wants, self.settings)

    @contextmanager
    def _attached(self) -> Iterator[None]:
        report = catalog.attach(self._duckdb, self.project, self.settings)
        try:
            if report.locked and not self._told_of_lock:
                self._told_of_lock = True
                warnings.warn(
                    f"{report.locked}; answering from the run files meanwhile",
                    FlorWarning,
                    stacklevel=2,
                )
            for problem in report.problems:
                warnings.warn(problem, FlorWarning, stacklevel=2)
            yield
        finally:
            catalog.detach(self._duckdb)


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


@contextmanager
def _variables_of(
    connection: duckdb.DuckDBPyConnection, frame: FrameType | None, sql: str
) -> Iterator[None]:
    """Let the statement name DataFrames and Arrow tables of the caller, as DuckDB does."""
    found = {name: value for name, value in _tables_in(frame).items() if name in sql}
    for name, value in found.items():
        connection.register(name, value)
    try:
        yield
    finally:
        for name in found:
            connection.unregister(name)


def _tables_in(frame: FrameType | None) -> dict[str, Any]:
    if frame is None:
        return {}
    known = ("pandas", "polars", "pyarrow")
    found = {**frame.f_globals, **frame.f_locals}
    return {
        name: value
        for name, value in found.items()
        if type(value).__module__.partition(".")[0] in known
        and type(value).__name__ in ("DataFrame", "Table", "LazyFrame", "RecordBatchReader")
    }
