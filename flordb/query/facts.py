"""What the planner knows about a project before it plans: the columns that exist, those that have
statements, and which runs lack them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb

from flordb.analysis.statements import LogStatement

DIMENSIONS = ("projid", "tstamp", "filename", "rank")


@dataclass(frozen=True)
class Columns:
    """The columns of ``flor``.

    ``loops``: names of loops. ``stored``: logged names to the nests that they were logged in.
    ``virtual``: names of log statements in the code to these statements; a name can be both.
    """

    loops: frozenset[str]
    stored: dict[str, tuple[tuple[str, ...], ...]]
    virtual: dict[str, tuple[LogStatement, ...]]

    def all_names(self) -> list[str]:
        values = [f"{loop}_value" for loop in self.loops]
        return [*DIMENSIONS, *self.loops, *values, *self.stored, *self.virtual]

    def loop_of(self, name: str) -> str | None:
        """The loop whose index or value a column holds."""
        for loop in self.loops:
            if name.lower() in (loop.lower(), f"{loop}_value".lower()):
                return loop
        for statements in self.virtual.values():
            for loop in (loop for statement in statements for loop in statement.nest):
                if name.lower() in (loop.lower(), f"{loop}_value".lower()):
                    return loop
        return None

    def logged(self, name: str) -> str | None:
        """The logged name that a column means: exactly that, or but for its case."""
        known = [*self.stored, *self.virtual]
        if name in known:
            return name
        return next((k for k in known if k.lower() == name.lower()), None)

    def is_new(self, name: str) -> bool:
        """Whether no column of the stored ones has this name."""
        taken = {*DIMENSIONS, *(known.lower() for known in self.stored)}
        return name.lower() not in taken and self.loop_of(name) is None


def columns(connection: duckdb.DuckDBPyConnection, statements: Iterable[LogStatement]) -> Columns:
    """Read what was logged from the tables; ``statements`` are those of the code."""
    loops, stored = _stored(connection)
    virtual: dict[str, list[LogStatement]] = {}
    for statement in statements:
        virtual.setdefault(statement.name, []).append(statement)
    return Columns(loops, stored, {name: tuple(found) for name, found in virtual.items()})


Stored = tuple[frozenset[str], dict[str, tuple[tuple[str, ...], ...]]]


def _stored(connection: duckdb.DuckDBPyConnection) -> Stored:
    """The names of loops, and the logged names with their nests."""
    digest = digest_of(connection)
    if digest is not None and digest in _known:
        return _known[digest]
    loops = {row[0][-1] for row in _rows(connection, "SELECT loops FROM flordb.nests") if row[0]}
    stored = {
        label: tuple(tuple(nest) for nest in nests)
        for label, nests in _rows(connection, "SELECT column_name, nests FROM flordb.names")
    }
    found = frozenset(loops), stored
    if digest is not None:
        while len(_known) >= _MOST_KNOWN:
            _known.pop(next(iter(_known)))
        _known[digest] = found
    return found


_MOST_KNOWN = 16
_known: dict[str, Stored] = {}
"""By the catalog's digest."""


def digest_of(connection: duckdb.DuckDBPyConnection) -> str | None:
    """The digest of all that the tables say about names, loops and their columns."""
    rows = _rows(connection, "SELECT value FROM flordb.meta WHERE key = 'catalog'")
    return rows[0][0] if rows else None


@dataclass(frozen=True)
class Run:
    """A run that is over, as a `Want` names it."""

    run_id: int
    projid: str
    tstamp: datetime
    filename: str
    file: str
    version: str | None


def ended_runs(connection: duckdb.DuckDBPyConnection) -> list[Run]:
    """The runs that can be replayed, in the order of time."""
    return [
        Run(*row)
        for row in _rows(
            connection,
            "SELECT run_id, projid, tstamp, filename, file, version FROM flordb.runs "
            "WHERE coalesce(rank, 0) = 0 AND state IN ('finished', 'failed', 'killed') "
            "AND file IS NOT NULL ORDER BY tstamp, filename",
        )
    ]


@dataclass(frozen=True)
class Attempt:
    """What a run has of a name, or was tried for in vain: all, or these iterations."""

    whole: bool
    iterations: frozenset[int]


NOTHING = Attempt(False, frozenset())


def attempts(
    connection: duckdb.DuckDBPyConnection, digests: Mapping[str, Collection[str]]
) -> dict[tuple[int, str], Attempt]:
    """By run_id and name, what need not be tried again.

    ``digests``: of each name's statements. What failed with another statement is forgotten; a
    value stays, whichever statement gave it.
    """
    found: dict[tuple[int, str], Attempt] = {}
    names = list(digests)
    tried = (
        "SELECT run_id, value_name, iterations, status, statement FROM flordb.acquisitions "
        "WHERE value_name IN (SELECT unnest(?::VARCHAR[]))"
    )
    for run_id, name, iterations, status, statement in _rows(connection, tried, [names]):
        # Without git there is no statement to compare with, and no version to replay either.
        if status != "acquired" and statement is not None and statement not in digests[name]:
            continue
        before = found.get((run_id, name), NOTHING)
        done = before.iterations | frozenset(iterations or ())
        found[run_id, name] = Attempt(before.whole or iterations is None, done)
    logged = (
        "SELECT DISTINCT run_id, value_name, source FROM flordb.odd_logs "
        "WHERE value_name IN (SELECT unnest($1::VARCHAR[])) UNION "
        "SELECT run_id, name, 'record' FROM flordb.series JOIN flordb.names USING (name_id) "
        "WHERE name IN (SELECT unnest($1::VARCHAR[]))"
    )
    for run_id, name, source in _rows(connection, logged, [names]):
        if source == "record" or (run_id, name) not in found:
            found[run_id, name] = Attempt(True, frozenset())
    return found


def iterations(connection: duckdb.DuckDBPyConnection, loop: str) -> dict[int, frozenset[int]]:
    """By run_id, the recorded iterations of a top-level loop."""
    nests = _rows(connection, "SELECT nest_id FROM flordb.nests WHERE loops = [?]", [loop])
    if not nests:
        return {}
    rows = _rows(
        connection,
        f"SELECT run_id, list(DISTINCT i1) FROM flordb.flor_at_{nests[0][0]} GROUP BY run_id",
    )
    return {run_id: frozenset(found) for run_id, found in rows}


def _rows(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None
) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = connection.execute(sql, parameters or []).fetchall()
    return rows
