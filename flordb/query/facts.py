"""What the planner knows about a project before it plans: the columns that exist, those that have
statements, and which runs lack them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar, cast

import duckdb

from flordb import __version__
from flordb.analysis.statements import LogStatement
from flordb.store.project import Project

DIMENSIONS = ("projid", "tstamp", "filename", "rank")

_T = TypeVar("_T")


class Memory:
    """What planning has worked out for one connection, kept while the tables stay as they are.

    Conditions are evaluated by the connection: `forget` when its settings or functions change.
    ``project``: where to keep what is of use to other processes; None: nowhere.
    """

    _MOST = 500

    def __init__(self, project: Project | None = None) -> None:
        self.project = project
        self._found: tuple[object, dict[Hashable, Any]] = (None, {})

    def of(self, state: object) -> dict[Hashable, Any]:
        """What is known of this state of the tables."""
        found = self._found  # another thread may see another state
        if found[0] != state or len(found[1]) >= self._MOST:
            found = self._found = (state, {})
        return found[1]

    def forget(self) -> None:
        self._found = (None, {})


class Tables:
    """The project's tables in the state in which a connection sees them while it plans.

    ``catalog`` is a digest of the names, the loops and their columns.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, memory: Memory) -> None:
        self.connection = connection
        self.project = memory.project
        meta = dict(self.rows("SELECT key, value FROM flordb.meta"))
        self.catalog: str | None = meta.get("catalog")
        # An id that each change of the tables makes anew; there is none before the first.
        content = meta.get("content")
        self._known = {} if content is None else memory.of((self.catalog, content))

    def rows(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.connection.execute(sql, parameters or None).fetchall()
        return found

    def once(self, key: Hashable, find: Callable[[], _T]) -> _T:
        """What ``find`` gives, or gave for this key while the tables were as they are."""
        if key not in self._known:
            self._known[key] = find()
        return cast(_T, self._known[key])


@dataclass(frozen=True)
class Columns:
    """The columns of ``flor``.

    ``loops``: loops, as their columns are called. ``stored``: logged names to the nests that they
    were logged in.
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
            for loop in (loop for statement in statements for loop in labels(statement.nest)):
                if name.lower() in (loop.lower(), f"{loop}_value".lower()):
                    return loop
        return None

    def logged(self, name: str) -> str | None:
        """The logged name that a column means: exactly that, or but for its case."""
        if name in self.stored or name in self.virtual:
            return name
        return self._by_lower.get(name.lower())

    @cached_property
    def _by_lower(self) -> dict[str, str]:
        names = (*self.stored, *self.virtual)
        return {name.lower(): name for name in reversed(names)}  # of several, the first

    def is_new(self, name: str) -> bool:
        """Whether no column of the stored ones has this name."""
        taken = name.lower() in DIMENSIONS or name.lower() in self._stored_lower
        return not taken and self.loop_of(name) is None

    @cached_property
    def _stored_lower(self) -> frozenset[str]:
        return frozenset(known.lower() for known in self.stored)


def columns(
    tables: Tables, statements: Sequence[LogStatement], asked: Collection[str] = ()
) -> Columns:
    """Read what was logged from the tables; ``statements`` are those of the code.

    Parameters: ``asked``, the names in an SQL statement: one that an f-string may log is a column.
    """
    loops, stored = _stored(tables)
    virtual: dict[str, list[LogStatement]] = {}
    for statement in statements:
        if not statement.pattern:
            virtual.setdefault(statement.name, []).append(statement)
    nests = (loop for found in virtual.values() for statement in found for loop in statement.nest)
    taken = {name.lower() for name in (*DIMENSIONS, *loops, *nests, *virtual)}
    free = [name for name in asked if name.lower() not in taken]
    for statement in (each for each in statements if each.pattern):
        for name in filter(statement.logs, free):
            virtual.setdefault(name, []).append(replace(statement, name=name))
    return Columns(loops, stored, {name: tuple(found) for name, found in virtual.items()})


def labels(nest: Sequence[str]) -> tuple[str, ...]:
    """What the columns of a nest's loops are called: a loop within its like has another."""
    found = []
    for depth, loop in enumerate(nest):
        count = nest[: depth + 1].count(loop)
        found.append(loop if count == 1 else f"{loop}_{count}")
    return tuple(found)


Stored = tuple[frozenset[str], dict[str, tuple[tuple[str, ...], ...]]]


def _stored(tables: Tables) -> Stored:
    """The names of loops, and the logged names with their nests."""
    if tables.catalog is not None and tables.catalog in _stored_by_catalog:
        return _stored_by_catalog[tables.catalog]
    loops = {labels(row[0])[-1] for row in tables.rows("SELECT loops FROM flordb.nests") if row[0]}
    stored = {
        label: tuple(labels(nest) for nest in nests)
        for label, nests in tables.rows("SELECT column_name, nests FROM flordb.names")
    }
    found = frozenset(loops), stored
    if tables.catalog is not None:
        while len(_stored_by_catalog) >= _MOST_CATALOGS:
            _stored_by_catalog.pop(next(iter(_stored_by_catalog)))
        _stored_by_catalog[tables.catalog] = found
    return found


_MOST_CATALOGS = 16
_stored_by_catalog: dict[str, Stored] = {}


@dataclass(frozen=True)
class Run:
    """A run that is over, as a `Want` names it."""

    run_id: int
    projid: str
    tstamp: datetime
    filename: str
    file: str
    version: str | None


def ended_runs(tables: Tables) -> list[Run]:
    """The runs that can be replayed, in the order of time."""
    return [
        Run(*row)
        for row in tables.rows(
            "SELECT run_id, projid, tstamp, filename, file, version FROM flordb.runs "
            "WHERE coalesce(rank, 0) = 0 AND state IN ('finished', 'failed', 'killed') "
            "AND file IS NOT NULL ORDER BY tstamp, filename",
        )
    ]


@dataclass(frozen=True)
class Attempt:
    """What a run has of a name, or was tried for in vain: all, or these iterations.

    ``why`` nothing came of what was tried in vain; empty where nothing was.
    """

    whole: bool
    iterations: frozenset[int]
    why: str = ""


NOTHING = Attempt(False, frozenset())


def attempts(
    tables: Tables, digests: Mapping[str, Collection[str]]
) -> dict[tuple[int, str], Attempt]:
    """By run_id and name, what need not be tried again.

    ``digests``: of each name's statements. What failed with another statement, or with another
    version of flordb, is forgotten; a value stays, whichever statement gave it.
    """
    found: dict[tuple[int, str], Attempt] = {}
    names = list(digests)
    tried = (
        "SELECT run_id, value_name, iterations, status, reason, statement, flordb "
        "FROM flordb.acquisitions "
        "WHERE value_name IN (SELECT unnest(?::VARCHAR[])) ORDER BY tstamp_tried"
    )
    for run_id, name, iterations, status, reason, statement, version in tables.rows(tried, [names]):
        # Without git there is no statement to compare with, and no version to replay either.
        if status != "acquired" and (
            (statement is not None and statement not in digests[name])
            or version not in (None, __version__)
        ):
            continue
        before = found.get((run_id, name), NOTHING)
        done = before.iterations | frozenset(iterations or ())
        why = before.why if status == "acquired" else reason or status
        found[run_id, name] = Attempt(before.whole or iterations is None, done, why)
    logged = (
        "SELECT run_id, name, source FROM flordb.odd_logs JOIN flordb.names USING (name_id) "
        "WHERE name IN (SELECT unnest($1::VARCHAR[])) UNION "
        "SELECT run_id, name, 'record' FROM flordb.series JOIN flordb.names USING (name_id) "
        "WHERE name IN (SELECT unnest($1::VARCHAR[]))"
    )
    for run_id, name, source in tables.rows(logged, [names]):
        if source == "record" or (run_id, name) not in found:
            found[run_id, name] = Attempt(True, frozenset())
    return found


def iterations(tables: Tables, loop: str) -> dict[int, frozenset[int]]:
    """By run_id, the recorded iterations of a top-level loop."""
    nests = tables.rows("SELECT nest_id FROM flordb.nests WHERE loops = [?]", [loop])
    if not nests:
        return {}
    rows = tables.rows(
        f"SELECT run_id, list(DISTINCT i1) FROM flordb.flor_at_{nests[0][0]} GROUP BY run_id"
    )
    return {run_id: frozenset(found) for run_id, found in rows}
