"""What the planner knows about a project before it plans: the columns that exist, those that have
statements, and which runs lack them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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

    def nests(self, name: str) -> set[tuple[str, ...]]:
        found = set(self.stored.get(name, ()))
        return found | {statement.nest for statement in self.virtual.get(name, ())}


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
class Lacking:
    """What is known of one run about one name.

    ``has_value``: the run itself logged it; ``done``: indexes of the top-level loop for which it
    was acquired, or tried in vain; ``all_done``: it was tried for the whole run.
    """

    has_value: bool
    done: frozenset[int]
    all_done: bool


def lacking(
    connection: duckdb.DuckDBPyConnection, name: str, digests: Iterable[str]
) -> dict[int, Lacking]:
    """By run_id, what is known about a name; runs that are not in it know nothing of it.

    ``digests``: of the name's statements; an attempt with another statement does not count.
    """
    found: dict[int, Lacking] = {}
    own = "SELECT DISTINCT run_id FROM flordb.logs WHERE value_name = ? AND source = 'record'"
    for (run_id,) in _rows(connection, own, [name]):
        found[run_id] = Lacking(True, frozenset(), True)
    tried = (
        "SELECT run_id, iterations FROM flordb.acquisitions "
        "WHERE value_name = ? AND statement IN (SELECT unnest(?::VARCHAR[]))"
    )
    for run_id, iterations in _rows(connection, tried, [name, list(digests)]):
        before = found.get(run_id, Lacking(False, frozenset(), False))
        if iterations is None:
            found[run_id] = Lacking(before.has_value, before.done, True)
        else:
            done = before.done | frozenset(iterations)
            found[run_id] = Lacking(before.has_value, done, before.all_done)
    return found


def _rows(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None
) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = connection.execute(sql, parameters or []).fetchall()
    return rows
