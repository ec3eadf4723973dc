"""From a client's statement to the one that DuckDB runs for it: checked, planned, acquired.

Both protocols go through `Engine.prepared`. What they do with the text is theirs: Quack's server
runs it itself, the PostgreSQL protocol's sessions in read-only transactions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from flordb.query.acquire import in_vain, sentences, untold, without
from flordb.query.errors import mapped
from flordb.query.explain import describe
from flordb.query.planner import Prepared, prepare
from flordb.query.sharing import acquire
from flordb.query.statement import Statement, parse
from flordb.replay.execute import Progress
from flordb.replay.lacking import Key, keys
from flordb.replay.plan import make_plan
from flordb.serve import guard
from flordb.serve.database import READ_ONLY, Database
from flordb.serve.errors import Cancelled
from flordb.settings import Settings
from flordb.store.project import Project


@dataclass
class Client:
    """Who asks. ``settings`` are the session's own (its budget), ``stop`` ends its waiting,
    ``progress`` and ``tell`` take what the user should know, ``told`` is what the session knows of
    values that cannot be had."""

    settings: Settings
    stop: threading.Event
    progress: Callable[[Progress], None] | None = None
    tell: Callable[[str], None] = field(default=lambda text: None)
    told: set[Key] = field(default_factory=set)


class Engine:
    """Answers statements of any number of clients at the same time."""

    def __init__(self, project: Project, settings: Settings, database: Database) -> None:
        self.project = project
        self.settings = settings
        self.database = database

    def prepared(self, sql: str, client: Client) -> str:
        """The statement to run in place of ``sql``, once all that it needs is there.

        Raises Refused, BudgetExceeded and the errors of `flordb.query.errors`.
        """
        with mapped():
            parsed = self._checked(sql, client)
            if not parsed.references:
                return sql
            if parsed.explain:
                return self._explained(parsed, client.settings)
            return self._acquired(parsed, client)

    def described(self, sql: str, client: Client) -> tuple[str, bool]:
        """A statement with the columns of ``sql``, for which nothing is acquired, and whether it
        gives the rows, too, because nothing is lacking. Raises as `prepared`."""
        with mapped():
            parsed = self._checked(sql, client)
            if not parsed.references:
                return sql, True
            if parsed.explain:
                return self._explained(parsed, client.settings), True
            prepared = self._prepare(parsed)
            complete = not prepared.wants or client.settings.acquire == "never"
            if complete:
                _tell_of_vain(prepared, client)
            return prepared.sql, complete

    def _checked(self, sql: str, client: Client) -> Statement:
        guard.check(sql)
        if client.stop.is_set():
            raise Cancelled("canceling statement due to user request")
        self.database.refresh()
        return _parsed(sql)

    def _acquired(self, parsed: Statement, client: Client) -> str:
        asked: set[tuple[int, str, int | None]] = set()
        while True:
            # What is served may be that old.
            since = time.monotonic() - client.settings.serve_refresh_seconds
            prepared = self._prepare(parsed)
            wants = without(prepared.wants, asked)
            if not wants or client.settings.acquire == "never":
                _tell_of_vain(prepared, client)
                return prepared.sql
            with mapped():
                reports = acquire(
                    self.project, wants, client.settings, client.progress, client.stop, since
                )
            self.database.refresh(0)
            for text in sentences(reports):
                client.tell(text)
            client.told.update(*(keys(failure) for r in reports for failure in r.failures))

    def _prepare(self, parsed: Statement) -> Prepared:
        with mapped(), self.database.cursor() as cursor:
            cursor.execute(READ_ONLY)
            return prepare(cursor, parsed, self.database.statements, None, self.database.memory)

    def _explained(self, parsed: Statement, settings: Settings) -> str:
        """DuckDB's EXPLAIN with the acquisition plan above it, as a statement of its own."""
        prepared = self._prepare(replace(parsed, probe=False))
        plan = make_plan(self.project, prepared.wants, settings)
        text = describe(replace(plan, tried=prepared.tried))
        rows = [("acquisition_plan", text)]
        with mapped(), self.database.cursor() as cursor:
            cursor.execute(READ_ONLY)
            found = cursor.execute(prepared.sql).fetchall()
            rows += [(str(key), str(value)) for key, value in found]
        listed = ", ".join(f"({quoted(key)}, {quoted(value)})" for key, value in rows)
        return f"SELECT * FROM (VALUES {listed}) t(explain_key, explain_value)"


def _tell_of_vain(prepared: Prepared, client: Client) -> None:
    if client.settings.acquire != "never":
        for text in in_vain(untold(prepared.tried, client.told)):
            client.tell(text)


@lru_cache(maxsize=256)  # dashboards send the same statements again and again
def _parsed(sql: str) -> Statement:
    return parse(sql)


def quoted(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"
