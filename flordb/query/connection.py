"""A PEP 249 connection to a project: SQL in, rows out, acquiring on the way what is lacking.

The connection itself is to an in-memory DuckDB. The project's tables are attached, read-only, while
a statement that mentions them runs, and let go of before its rows are looked at, so that no
process ever holds the database while its user thinks. Tables that you create are in memory, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

import duckdb

from flordb.errors import warn
from flordb.query import errors
from flordb.query import statement as _statement
from flordb.query.acquire import in_vain, tell, untold, without
from flordb.query.cursor import Cursor
from flordb.query.errors import mapped
from flordb.query.explain import describe
from flordb.query.facts import Memory
from flordb.query.needs import names_in
from flordb.query.options import assigned, assignment, shown, with_options
from flordb.query.planner import Prepared, prepare
from flordb.query.predicates import Parameters
from flordb.query.progress import progress_bar
from flordb.query.result import Result
from flordb.query.statement import Statement
from flordb.replay.choices import statements_with_choices
from flordb.replay.lacking import Key, keys
from flordb.replay.want import Want
from flordb.settings import Settings
from flordb.store import catalog
from flordb.store.project import Project
from flordb.udfs import register as register_functions

if TYPE_CHECKING:
    from flordb.replay.execute import Progress
    from flordb.replay.plan import Plan


_UNPLANNED = (
    "flordb cannot read this statement, and leaves it to DuckDB as it is: `flor` has all columns "
    "in it, with a row for each combination of them, and nothing is acquired"
)


class Connection(Cursor):
    """A connection to a project, as `connecting.connect` makes it over a DuckDB of its own. Used in
    a ``with`` block it closes at its end.

    As in DuckDB it is a cursor itself: ``connection.execute(…).df()``. Its statements run one
    after another, from whatever thread they come; while one waits for replays, others run.
    """

    Warning = errors.Warning
    Error = errors.Error
    InterfaceError = errors.InterfaceError
    DatabaseError = errors.DatabaseError
    DataError = errors.DataError
    OperationalError = errors.OperationalError
    IntegrityError = errors.IntegrityError
    InternalError = errors.InternalError
    ProgrammingError = errors.ProgrammingError
    NotSupportedError = errors.NotSupportedError

    def __init__(
        self,
        project: Project,
        chosen: Settings,
        progress: Callable[[Progress], None] | None,
        opened: duckdb.DuckDBPyConnection,
    ) -> None:
        super().__init__(self)
        self.project = project
        self.settings = chosen
        self._first_settings = chosen
        self._progress = progress
        self._duckdb = opened
        # So that types such as HUGEINT and UUID survive the way through Arrow.
        self._duckdb.execute("SET arrow_lossless_conversion = true")
        register_functions(self._duckdb, project)
        self._lock = threading.RLock()
        self._running: list[threading.Event] = []
        self._told_of_lock = False
        self._told: set[Key] = set()
        self._is_held = False
        self._in_transaction = False
        self._views: dict[str, Statement] = {}
        self._prepared: dict[str, Statement] = {}
        self._memory = Memory(project)

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
                    self._duckdb.extract_statements(part)  # says what is wrong, if anything is
                reading = self._with_views(parsed)
                if any(each.references for each in reading):
                    plans.append(self._make_plan(self._all_prepared(reading, parameters)))
        if not plans:
            return self._make_plan([])
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
        """Stop the statements that run in other threads, also while they wait for replays.

        Replays that another connection waits for go on.
        """
        for stop in tuple(self._running):
            stop.set()
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

    def run(
        self,
        sql: str,
        parameters: Parameters,
        frame: FrameType | None,
        *,
        acquire: str | None = None,
        budget: str | float | None = None,
    ) -> Result | None:
        """Run an SQL text and return the last statement's result, None where it has no rows.

        Parameters: ``frame``, where DataFrames that the text names are looked up; ``acquire`` and
        ``budget``, instead of the connection's.
        """
        self._check()
        stop = threading.Event()
        self._running.append(stop)
        try:
            with mapped():
                result = None
                parts = [sql] if ";" not in sql else _statement.split(sql)
                for number, part in enumerate(parts, start=1):
                    # As in DuckDB, parameters are the last statement's.
                    given = parameters if number == len(parts) else None
                    result = self._run_one(part, given, frame, (acquire, budget), stop)
                return result
        finally:
            self._running.remove(stop)

    def _run_one(
        self,
        sql: str,
        parameters: Parameters,
        frame: FrameType | None,
        options: tuple[str | None, str | float | None],
        stop: threading.Event,
    ) -> Result | None:
        if not (_statement.mentions_our_tables(sql) or self._views_in(sql) or self._calls(sql)):
            with self._lock:
                return self._run_others(sql, parameters, frame)
        setting = assignment(sql)
        if setting is not None:
            self.settings = assigned(self.settings, self._first_settings, setting)
            return None
        asked_for = shown(sql, self.settings)
        if asked_for is not None:
            name, value = asked_for
            return self._query(f"SELECT ? AS {name}", [value], None)
        chosen = with_options(self.settings, *options)
        parsed = _statement.parse(sql)
        if parsed.hides:
            raise errors.ProgrammingError(
                "`flor` is the project's history in this connection: give what you make another "
                "name, or another schema"
            )
        reading = self._with_views(parsed)
        if parsed.explain and any(each.references for each in reading):
            with self._lock:
                return self._explain(parsed, parameters, frame)
        # Acquire until planning finds nothing more: a LIMIT may need further runs.
        asked: set[tuple[int, str, int | None]] = set()
        while True:
            since = time.monotonic()
            with self._lock, self._attached():
                prepared = self._prepare(parsed, parameters)
                found = self._all_prepared(reading, parameters, prepared)
                wants = without((want for one in found for want in one.wants), asked)
                if not wants or not self._may_acquire(chosen):
                    result = self._query(prepared.sql, parameters, frame)
                    self._note_view(parsed)
                    if parsed.tree is None and _statement.reads_flor(sql):
                        warn(_UNPLANNED)
                    if chosen.acquire != "never":
                        self._tell_of_vain(found)
                    return result
            if stop.is_set():
                raise duckdb.InterruptException("INTERRUPT Error: Interrupted!")
            self._acquire(wants, chosen, stop, since)

    def _run_others(
        self, sql: str, parameters: Parameters, frame: FrameType | None
    ) -> Result | None:
        """Run a statement that does not mention the project's tables; a view in it may."""
        try:
            result = self._query(sql, parameters, frame)
        except duckdb.CatalogException as error:
            if self._is_held or not _statement.mentions_our_tables(str(error)):
                raise
            with self._attached():
                return self._query(sql, parameters, frame)
        self._let_go()
        return result

    def _query(self, sql: str, parameters: Parameters, frame: FrameType | None) -> Result | None:
        given = {"params": parameters} if parameters else {}
        relation = _evaluated("_flordb.sql(_sql, **_given)", frame, self._duckdb, sql, given)
        self._in_transaction = _statement.leaves_open(sql, self._in_transaction)
        if not _statement.changes_no_settings(sql):
            self._memory.forget()
        return None if relation is None else Result.of(self._duckdb, sql, relation)

    def _may_acquire(self, chosen: Settings) -> bool:
        if chosen.acquire == "never":
            return False
        if self._in_transaction:
            warn("nothing is acquired within a transaction; end it first")
        return not self._in_transaction

    # All that replays need is imported when it is needed: most queries lack nothing.

    def _make_plan(self, found: Sequence[Prepared]) -> Plan:
        from flordb.replay.plan import make_plan

        wants = [want for one in found for want in one.wants]
        tried = tuple(each for one in found for each in one.tried)
        return replace(make_plan(self.project, wants, self.settings), tried=tried)

    def _acquire(
        self, wants: Sequence[Want], chosen: Settings, stop: threading.Event, since: float
    ) -> None:
        from flordb.query.sharing import acquire

        if self._progress is not None:
            reports = acquire(self.project, wants, chosen, self._progress, stop, since)
        else:
            with progress_bar() as show:
                reports = acquire(self.project, wants, chosen, show, stop, since)
        for report in reports:
            tell(report)
            self._told.update(*map(keys, report.failures))

    def _tell_of_vain(self, found: Sequence[Prepared]) -> None:
        """Warn once of values that are not there because earlier replays did not give them."""
        tried = (each for one in found for each in one.tried)
        for sentence in in_vain(untold(tried, self._told)):
            warn(sentence)

    def _explain(
        self, parsed: Statement, parameters: Parameters, frame: FrameType | None
    ) -> Result | None:
        """DuckDB's EXPLAIN with the acquisition plan above it."""
        with self._attached():
            acted = replace(parsed, probe=False)
            prepared = self._prepare(acted, parameters)
            found = self._all_prepared(self._with_views(acted), parameters, prepared)
            text = describe(self._make_plan(found))
            result = self._query(prepared.sql, parameters, frame)
        rows = [("acquisition_plan", text)]
        if result is not None:
            rows += [(str(key), str(value)) for key, value in result.fetch(None)]
        listed = ", ".join("(?, ?)" for _ in rows)
        values: list[Any] = [text for row in rows for text in row]
        return self._query(f"FROM (VALUES {listed}) t(explain_key, explain_value)", values, None)

    def _prepare(
        self, parsed: Statement, parameters: Parameters, named: Collection[str] = ()
    ) -> Prepared:
        if not parsed.references:
            return Prepared(parsed.text)
        statements = statements_with_choices(self.project)
        return prepare(self._duckdb, parsed, statements, parameters, self._memory, named)

    def _all_prepared(
        self,
        reading: Sequence[Statement],
        parameters: Parameters,
        first: Prepared | None = None,
    ) -> list[Prepared]:
        """A statement, the first of these, and the views that it reads, planned."""
        found = [first if first is not None else self._prepare(reading[0], parameters)]
        if len(reading) > 1:
            call = _statement.executed(reading[0].text)
            given = call[1] if call is not None else None
            trees = [each.tree for each in reading if each.tree is not None]
            named = frozenset[str]().union(*map(names_in, trees))
            found += [self._prepare(each, given, named) for each in reading[1:]]
        return found

    # The user's views and macros that mention flor.

    def _views_in(self, sql: str) -> list[str]:
        return _statement.words_of(sql, self._views) if self._views else []

    def _calls(self, sql: str) -> bool:
        """Whether it executes a prepared statement that reads the project's tables."""
        call = _statement.executed(sql) if self._prepared else None
        return call is not None and call[0] in self._prepared

    def _with_views(self, parsed: Statement) -> list[Statement]:
        """The statement, and the bodies of the views that it reads (and that these read)."""
        found = [parsed]
        if parsed.probe:
            return found
        call = _statement.executed(parsed.text) if parsed.tree is None else None
        if call is not None and call[0] in self._prepared:
            found.append(self._prepared[call[0]])
        seen: set[str] = set()
        for each in found:
            for name in self._views_in(each.text):
                if name not in seen and each.defines != name:
                    seen.add(name)
                    found.append(self._views[name])
        return found

    def _note_view(self, parsed: Statement) -> None:
        """Remember what a view, macro or prepared statement reads: it is acquired when that is
        used."""
        if parsed.prepares is not None:
            self._prepared[parsed.prepares] = replace(parsed, probe=False)
        if parsed.defines is not None and (parsed.references or self._views_in(parsed.text)):
            self._views[parsed.defines] = replace(parsed, probe=False)

    # The project's tables.

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
            warn(f"{report.locked}, so this query is answered from the run files, which is slower")
        for problem in report.problems:
            warn(problem)

    def _let_go(self) -> None:
        """Detach the project's tables; a transaction that has read them keeps them."""
        if self._is_held and not self._in_transaction:
            # A rollback has undone the ATTACH, but not what else refers to it.
            self._duckdb.execute("RESET search_path")
            catalog.detach(self._duckdb)
            self._is_held = False


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
