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
    loops = {row[0] for row in _rows(connection, "SELECT DISTINCT loop_name FROM flordb.loops")}
    stored = {
        label: tuple(tuple(nest) for nest in nests)
        for label, nests in _rows(connection, "SELECT column_name, nests FROM flordb.names")
    }
    virtual: dict[str, list[LogStatement]] = {}
    for statement in statements:
        virtual.setdefault(statement.name, []).append(statement)
    return Columns(
        frozenset(loops), stored, {name: tuple(found) for name, found in virtual.items()}
    )


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
        "SELECT DISTINCT run_id, value_name, source FROM flordb.logs "
        "WHERE value_name IN (SELECT unnest(?::VARCHAR[]))"
    )
    for run_id, name, source in _rows(connection, logged, [names]):
        if source == "record" or (run_id, name) not in found:
            found[run_id, name] = Attempt(True, frozenset())
    return found


def iterations(connection: duckdb.DuckDBPyConnection, loop: str) -> dict[int, frozenset[int]]:
    """By run_id, the recorded iterations of a top-level loop."""
    rows = _rows(
        connection,
        "SELECT l.run_id, list(DISTINCT l.loop_iteration) FROM flordb.loops l "
        "JOIN flordb.nests n USING (nest_id) WHERE n.loops = [?] GROUP BY l.run_id",
        [loop],
    )
    return {run_id: frozenset(found) for run_id, found in rows}


def _rows(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None
) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = connection.execute(sql, parameters or []).fetchall()
    return rows
