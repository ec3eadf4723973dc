"""One client of the PostgreSQL protocol: its statements, portals, cursors and transaction.

Simple and extended protocol come down to the same: a statement is a command to the session, or a
query, whose rows are read in a read-only transaction of its own. A transaction of the client's is
only kept count of: each of its statements sees the latest state.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
from pygwire import messages
from pygwire.constants import TransactionStatus
from pygwire.messages import FieldDescription

from flordb.errors import FlorError
from flordb.query.statement import split
from flordb.replay.execute import Progress
from flordb.replay.lacking import Key
from flordb.serve.engine import Client, Engine
from flordb.serve.errors import Cancelled
from flordb.serve.pg import catalog, parameters
from flordb.serve.pg.cursors import Cursor
from flordb.serve.pg.dialect import Command, command_of, in_duckdbs_words
from flordb.serve.pg.errors import SessionError, error_message, notice
from flordb.serve.pg.result import Rows
from flordb.serve.pg.types import TEXT, Column
from flordb.serve.pg.variables import Variables
from flordb.serve.pg.wire import Wire

_MOST_OPEN = 1000
_NOTICE_SECONDS = 1.0

_log = logging.getLogger("flordb.serve")

_CLIENT_ERRORS = (FlorError, duckdb.Error, SessionError, parameters.ParameterError)


@dataclass
class _Prepared:
    sql: str
    oids: list[int]
    columns: list[Column] | None = None
    is_described: bool = False


@dataclass
class _Portal:
    """A bound statement. ``rows`` are there once it was described or executed."""

    sql: str
    formats: list[int]
    rows: Rows | None = None


@dataclass
class Session:
    """Answers one client's messages. `cancel` may be called by any thread, and is for a statement
    that still runs at its ``deadline`` (of time.monotonic)."""

    wire: Wire
    engine: Engine
    variables: Variables
    status: TransactionStatus = TransactionStatus.IDLE
    _statements: dict[str, _Prepared] = field(default_factory=dict)
    _portals: dict[str, _Portal] = field(default_factory=dict)
    _cursors: dict[str, Cursor] = field(default_factory=dict)
    _running: Rows | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _told: float = 0.0
    _told_of: set[Key] = field(default_factory=set)
    is_busy: bool = False
    deadline: float = math.inf

    def run(self) -> None:
        """Answer messages until the client leaves. Raises ProtocolViolation, OSError."""
        self._ready()
        skipping = False
        try:
            while True:
                message = self.wire.read()
                if message is None or isinstance(message, messages.Terminate):
                    return
                if skipping and not isinstance(message, messages.Sync):
                    continue
                skipping = False
                _log.debug("%s", message)
                self._cancelled.clear()
                self.deadline = self.variables.deadline()
                self.is_busy = True
                try:
                    self._answer(message)
                except _CLIENT_ERRORS as error:
                    self._failed(error)
                    skipping = not isinstance(message, (messages.Query, messages.FunctionCall))
                    if not skipping:
                        self._ready()
                finally:
                    self.is_busy = False
        finally:
            self._close_all()

    def cancel(self) -> None:
        """Stop the statement that runs now, if one does."""
        if self.is_busy:
            self._cancelled.set()
            running = self._running
            if running is not None:
                running.interrupt()

    # Messages.

    def _answer(self, message: messages.PGMessage) -> None:
        match message:
            case messages.Query():
                self._simple(message.query_string)
                self._ready()
            case messages.Parse():
                self._parse(message)
            case messages.Bind():
                self._bind(message)
            case messages.Describe():
                self._describe(message)
            case messages.Execute():
                self._execute(message)
            case messages.Close():
                self._close(message)
            case messages.Sync():
                if self.status == TransactionStatus.IDLE:
                    self._close_portals()
                self._ready()
            case messages.Flush():
                self.wire.flush()
            case _:
                name = type(message).__name__
                raise SessionError("0A000", f"{name} messages are not served")

    def _ready(self) -> None:
        self.wire.send(messages.ReadyForQuery(self.status))
        self.wire.flush()

    def _failed(self, error: Exception) -> None:
        if self.status == TransactionStatus.IN_TRANSACTION:
            self.status = TransactionStatus.ERROR_TRANSACTION
        self.wire.send(error_message(error))

    def _simple(self, text: str) -> None:
        parts = [part for part in split(text) if part.strip()]
        if not parts:
            self.wire.send(messages.EmptyQueryResponse())
        for part in parts:
            self._run(_Portal(part, []), None, describes=True)

    def _parse(self, message: messages.Parse) -> None:
        parts = [part for part in split(message.query) if part.strip()]
        if len(parts) > 1:
            raise SessionError("42601", "cannot insert multiple commands into a prepared statement")
        if message.statement and message.statement in self._statements:
            raise SessionError("42P05", f"prepared statement {message.statement!r} already exists")
        _check_room(self._statements, "prepared statements")
        sql = parts[0] if parts else ""
        self._statements[message.statement] = _Prepared(sql, list(message.param_types))
        self.wire.send(messages.ParseComplete())

    def _bind(self, message: messages.Bind) -> None:
        prepared = self._statement(message.statement)
        if message.portal and message.portal in self._portals:
            raise SessionError("42P03", f"portal {message.portal!r} already exists")
        _check_room(self._portals, "portals")
        count = len(message.param_values)
        wanted = max((number for *_, number in parameters.positions(prepared.sql)), default=0)
        if count < wanted or len(message.param_formats) not in (0, 1, count):
            raise SessionError("08P01", f"{count} parameters given, {wanted} needed")
        oids = _typed(prepared, count)
        values = [
            parameters.literal(value, oids[n], bool(_nth(message.param_formats, n)))
            for n, value in enumerate(message.param_values)
        ]
        self._close_portal(message.portal)
        sql = parameters.bound(prepared.sql, values)
        self._portals[message.portal] = _Portal(sql, list(message.result_formats))
        self.wire.send(messages.BindComplete())

    def _describe(self, message: messages.Describe) -> None:
        if message.kind == "P" and message.name in self._cursors:
            self._send_columns(self._cursors[message.name].rows.columns, [])
            return
        if message.kind == "P":
            portal = self._portal(message.name)
            columns = self._columns_of(portal)
            self._send_columns(columns, portal.formats)
            return
        prepared = self._statement(message.name)
        positions = parameters.positions(prepared.sql)
        count = max((number for *_, number in positions), default=0)
        oids = _typed(prepared, count)
        self.wire.send(messages.ParameterDescription([oid or TEXT.oid for oid in oids]))
        if not prepared.is_described:
            sql = parameters.bound(prepared.sql, ["NULL"] * len(oids))
            prepared.columns = self._columns(sql)
            prepared.is_described = True
        self._send_columns(prepared.columns, [])

    def _execute(self, message: messages.Execute) -> None:
        self._run(self._portal(message.portal), message.max_rows or None, describes=False)

    def _close(self, message: messages.Close) -> None:
        if message.kind == "P":
            self._close_portal(message.name)
        else:
            self._statements.pop(message.name, None)
        self.wire.send(messages.CloseComplete())

    # Statements.

    def _run(self, portal: _Portal, most: int | None, describes: bool) -> None:
        """Execute a portal; ``describes``: the columns come before the rows."""
        command = command_of(portal.sql)
        self._check_transaction(command)
        if command is not None and command.kind == "show" and self._is_table(command.name):
            command = None
        if not portal.sql.strip():
            self.wire.send(messages.EmptyQueryResponse())
            return
        if command is not None and command.kind not in ("fetch", "show"):
            self._command(command)
            return
        if command is not None and command.kind == "show":
            self._show(command, describes)
            return
        if command is not None:
            self._fetch(command, portal, describes)
            return
        if portal.rows is None:
            portal.rows = self._open(portal.sql)
        binary = _binary(portal.formats, len(portal.rows.columns))
        if describes:
            self._send_columns(portal.rows.columns, portal.formats)
        self._send_rows(portal.rows, most, binary)
        if most is not None and not portal.rows.done and portal.rows.taken == most:
            self.wire.send(messages.PortalSuspended())
            return
        self.wire.send(messages.CommandComplete(f"SELECT {portal.rows.taken}"))
        portal.rows.close()

    def _send_rows(self, rows: Rows, most: int | None, binary: Sequence[bool]) -> None:
        self._watch(rows)
        try:
            for data in rows.take(most, binary):
                self.wire.send_raw(data)
                self._check_cancelled()
        finally:
            self._running = None

    def _open(self, sql: str) -> Rows:
        """A query's rows, once all that it needs is acquired."""
        client = self._client(self._progress)
        asked = in_duckdbs_words(sql)
        translated = catalog.translated(asked, self.variables)
        ready = self.engine.prepared(translated or asked, client)
        self._check_cancelled()
        return self._rows(ready, sql if translated else None)

    def _client(self, progress: Callable[[Progress], None] | None = None) -> Client:
        settings = self.variables.settings
        return Client(settings, self._cancelled, progress, self._warn, self._told_of)

    def _rows(self, sql: str, probed: str | None) -> Rows:
        try:
            return Rows(self.engine.database, sql, is_catalog=probed is not None)
        except FlorError:
            if probed is not None:
                _log.warning("unknown catalog query: %s", " ".join(probed.split()))
            raise

    def _columns(self, sql: str) -> list[Column] | None:
        """The columns of a statement, without anything being acquired; None where it has none."""
        portal = _Portal(sql, [])
        columns = self._columns_of(portal)
        if portal.rows is not None:
            portal.rows.close()
        return columns

    def _columns_of(self, portal: _Portal) -> list[Column] | None:
        """The columns of a portal. Its query is begun where nothing is lacking for it."""
        if portal.rows is not None:
            return portal.rows.columns
        command = command_of(portal.sql)
        if not portal.sql.strip():
            return None
        if command is not None and not (command.kind == "show" and self._is_table(command.name)):
            if command.kind == "show":
                return [Column(command.name, TEXT)]
            is_fetch = command.kind == "fetch" and command.tag == "FETCH"
            return self._cursor(command.name).rows.columns if is_fetch else None
        client = self._client()
        asked = in_duckdbs_words(portal.sql)
        translated = catalog.translated(asked, self.variables)
        ready, is_complete = self.engine.described(translated or asked, client)
        rows = self._rows(ready, portal.sql if translated else None)
        if is_complete:
            portal.rows = rows
        else:
            rows.close()
        return rows.columns

    def _is_table(self, name: str) -> bool:
        """Whether SHOW is DuckDB's, of tables or of one table."""
        if name in ("tables", "databases", "schemas"):
            return True
        with self.engine.database.cursor() as cursor:
            found = cursor.execute(
                "SELECT 1 FROM information_schema.tables WHERE table_name = ?", [name]
            ).fetchall()
        return bool(found)

    def _command(self, command: Command) -> None:
        handler: Callable[[Command], None] = {
            "set": lambda c: self.variables.set(c.name, c.value),
            "reset": lambda c: self.variables.reset(c.name),
            "discard": self._discard,
            "deallocate": self._deallocate,
            "declare": self._declare,
            "close": self._close_cursor,
        }.get(command.kind, self._transaction)
        handler(command)
        self.wire.send(messages.CommandComplete(command.tag))

    def _transaction(self, command: Command) -> None:
        if command.kind == "begin":
            self.status = TransactionStatus.IN_TRANSACTION
        elif command.kind in ("commit", "rollback"):
            self.status = TransactionStatus.IDLE
            self._close_portals()
            self._end_cursors(command.kind == "commit")
        elif command.kind == "rollback to":
            self.status = TransactionStatus.IN_TRANSACTION

    def _check_transaction(self, command: Command | None) -> None:
        if self.status != TransactionStatus.ERROR_TRANSACTION:
            return
        if command is None or command.kind not in ("commit", "rollback", "rollback to"):
            raise SessionError(
                "25P02", "current transaction is aborted, commands ignored until end of transaction"
            )

    def _show(self, command: Command, describes: bool) -> None:
        names = [command.name]
        if command.name == "all":
            names = sorted(self.variables.values)
        rows = [(name, self.variables.show(name)) for name in names]
        is_all = command.name == "all"
        if describes:
            columns = [Column("name", TEXT), Column("setting", TEXT)]
            self._send_columns(columns if is_all else [Column(command.name, TEXT)], [])
        for name, value in rows:
            row = [name.encode(), value.encode()] if is_all else [value.encode()]
            self.wire.send(messages.DataRow(list(row)))
        self.wire.send(messages.CommandComplete("SHOW"))

    # Cursors.

    def _declare(self, command: Command) -> None:
        if command.name in self._cursors:
            raise SessionError("42P03", f"cursor {command.name!r} already exists")
        _check_room(self._cursors, "cursors")
        rows = self._open(command.value)
        kept = self.status == TransactionStatus.IDLE
        self._cursors[command.name] = Cursor(rows, command.scrolls, command.hold, kept)

    def _fetch(self, command: Command, portal: _Portal, describes: bool) -> None:
        cursor = self._cursor(command.name)
        binary = _binary(portal.formats, len(cursor.rows.columns))
        moves = command.tag == "MOVE"
        if describes and not moves:
            self._send_columns(cursor.rows.columns, portal.formats)
        self._watch(cursor.rows)
        try:
            for data in cursor.fetch(command, binary):
                if not moves:
                    self.wire.send_raw(data)
                self._check_cancelled()
        finally:
            self._running = None
        self.wire.send(messages.CommandComplete(f"{command.tag} {cursor.taken}"))

    def _cursor(self, name: str) -> Cursor:
        if name not in self._cursors:
            raise SessionError("34000", f"cursor {name!r} does not exist")
        return self._cursors[name]

    def _close_cursor(self, command: Command) -> None:
        for name in list(self._cursors) if command.name == "all" else [command.name]:
            self._cursor(name)
            self._drop_cursor(name)

    def _end_cursors(self, commits: bool) -> None:
        """At a transaction's end, its cursors go; those WITH HOLD stay where it commits."""
        for name, cursor in list(self._cursors.items()):
            cursor.kept |= commits and cursor.holds
            if not cursor.kept:
                self._drop_cursor(name)

    def _drop_cursor(self, name: str) -> None:
        self._cursors.pop(name).rows.close()

    # Clean-up.

    def _discard(self, command: Command) -> None:
        if command.name == "all":
            self.status = TransactionStatus.IDLE
            self._close_all()
            self._statements.clear()
            self.variables.reset("all")

    def _deallocate(self, command: Command) -> None:
        if command.name == "":
            self._statements.clear()
        elif self._statements.pop(command.name, None) is None:
            raise SessionError("26000", f"prepared statement {command.name!r} does not exist")

    def _close_all(self) -> None:
        self._close_portals()
        for name in list(self._cursors):
            self._drop_cursor(name)

    def _close_portals(self) -> None:
        for name in list(self._portals):
            self._close_portal(name)

    def _close_portal(self, name: str) -> None:
        portal = self._portals.pop(name, None)
        if portal is not None and portal.rows is not None:
            portal.rows.close()

    def _statement(self, name: str) -> _Prepared:
        if name not in self._statements:
            raise SessionError("26000", f"prepared statement {name!r} does not exist")
        return self._statements[name]

    def _portal(self, name: str) -> _Portal:
        if name not in self._portals:
            raise SessionError("34000", f"portal {name!r} does not exist")
        return self._portals[name]

    # Columns, progress, cancelling.

    def _send_columns(self, columns: Sequence[Column] | None, formats: Sequence[int]) -> None:
        if columns is None:
            self.wire.send(messages.NoData())
            return
        binary = _binary(formats, len(columns))
        fields = [
            FieldDescription(
                name=column.name.replace("\0", ""),
                type_oid=column.type.oid,
                type_size=column.type.size,
                type_modifier=column.typmod,
                format_code=int(is_binary),
            )
            for column, is_binary in zip(columns, binary, strict=True)
        ]
        self.wire.send(messages.RowDescription(fields))

    def _progress(self, progress: Progress) -> None:
        """Tell the client how far a replay is."""
        now = time.monotonic()
        if now - self._told < _NOTICE_SECONDS:
            return
        self._told = now
        text = (
            f"replaying {progress.label}: {progress.done} of {progress.total} done, about "
            f"{progress.seconds_done:.0f} of {progress.seconds_total:.0f} s"
        )
        self.wire.send(notice(text))
        self.wire.flush()

    def _warn(self, text: str) -> None:
        self.wire.send(notice(text, "WARNING"))

    def _watch(self, rows: Rows) -> None:
        """From now on a cancel request interrupts these rows."""
        self._running = rows
        self._check_cancelled()

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("canceling statement due to user request")


def _check_room(held: Mapping[str, object], what: str) -> None:
    if len(held) >= _MOST_OPEN:
        raise SessionError("53400", f"more than {_MOST_OPEN} {what} in one session")


def _typed(prepared: _Prepared, count: int) -> list[int]:
    """The types of a statement's parameters: the client's, those of casts, or 0."""
    given = [*prepared.oids, *[0] * max(0, count - len(prepared.oids))]
    casts = parameters.declared(prepared.sql)
    return [oid or casts.get(number, 0) for number, oid in enumerate(given, start=1)]


def _nth(formats: Sequence[int], number: int) -> int:
    """A format code, of a list of none (text), one (for all) or one each."""
    if not formats:
        return 0
    return formats[0] if len(formats) == 1 else formats[number]


def _binary(formats: Sequence[int], count: int) -> list[bool]:
    if len(formats) not in (0, 1, count):
        raise SessionError("08P01", f"{len(formats)} formats given for {count} columns")
    return [_nth(formats, number) == 1 for number in range(count)]
