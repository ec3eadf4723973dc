"""Where values lie: a table a nest of loops, wide, and a long one for what does not fit in there.

``flor_at_<nest>`` has a row a context (and a further one for each further occurrence of a name in
it): its run and when that began, a column ``c<level>`` and ``i<level>`` a level for the numbers of
its ancestors and its own and for their iteration indexes, and a column ``n<name_id>`` a name,
DOUBLE, NULL where the name has no value there. Each column costs time for every row that is taken
in, so those that are rarely needed (`OPTIONAL`) are only there once a row has something to say in
them.

What a run logged under one name in one nest goes there if each value is given by a number and one
type (`series` says which), and if there are enough of them. All else, and what replays bring
later, is in ``odd_logs``, a row a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from flordb.store.encoding import BOOL, FLOAT, INT

Array = Any

OPTIONAL = {
    "rank": "INTEGER DEFAULT 0",
    "ordinal": "BIGINT DEFAULT 0",
    "entry": "BIGINT DEFAULT 0",
    "type": "INTEGER",
    "number": "DOUBLE",
    "value": "VARCHAR",
}
"""Columns of a nest's table that may not be there. ``type``, ``number`` and ``value`` are those of
the iteration: NULL where its value is its index."""

_MANY = 8


def table_of(nest: int) -> str:
    return f"flor_at_{nest}"


def base(nest: int) -> int:
    """What is added to a context's number within its nest to make its ctx_id."""
    return nest << 40


def always(depth: int) -> dict[str, str]:
    """The columns that the table of a nest of this depth has in any case, with their types."""
    return {"run_id": "INTEGER", "tstamp": "TIMESTAMP"} | dict.fromkeys(levels(depth), "BIGINT")


def levels(depth: int) -> list[str]:
    """The columns of a context's path and of its iteration indexes."""
    return [f"{kind}{level}" for kind in "ci" for level in range(1, depth + 1)]


class Tables:
    """The tables of nests in a connection's current database, with their columns.

    What is to be deleted and appended is only noted, until `write`: in one transaction, DuckDB 1.5
    cannot alter a table after it has deleted rows of it.
    """

    def __init__(self, db: Any) -> None:
        self._db = db
        self._deletions: list[str] = []
        self._rows: list[tuple[int, dict[str, Any]]] = []
        self.columns: dict[int, set[str]] = {}
        rows = db.execute(
            "SELECT table_name, column_name FROM duckdb_columns() "
            "WHERE database_name = current_database() AND starts_with(table_name, 'flor_at_')"
        ).fetchall()
        for table, column in rows:
            self.columns.setdefault(int(table.removeprefix("flor_at_")), set()).add(column)

    def create(self, nest: int, depth: int, columns: Iterable[str] = ()) -> None:
        """Make the table of a nest, with these columns, or add those of them that are lacking."""
        if nest not in self.columns:
            self._make(table_of(nest), depth, columns)
            self.columns[nest] = {*always(depth), *columns}
            return
        there, table = self.columns[nest], table_of(nest)
        lacking = [column for column in columns if column not in there]
        if len(lacking) <= _MANY:
            for column in lacking:
                self._db.execute(f"ALTER TABLE {table} ADD COLUMN {_definition(column)}")
        else:  # each ALTER copies the description of the table: many of them take long
            own = [c for c in there if c in OPTIONAL or (c[0] == "n" and c[1:].isdigit())]
            self._make("widened", depth, [*own, *lacking])
            self._db.execute(f"INSERT INTO widened BY NAME SELECT * FROM {table}")
            self._db.execute(f"DROP TABLE {table}")
            self._db.execute(f"ALTER TABLE widened RENAME TO {table}")
        there.update(lacking)

    def _make(self, table: str, depth: int, columns: Iterable[str]) -> None:
        own = [f"{column} {type_}" for column, type_ in always(depth).items()]
        listed = ", ".join([*own, *map(_definition, columns)])
        self._db.execute(f"CREATE TABLE {table} ({listed})")

    def append(self, nest: int, depth: int, rows: dict[str, Any]) -> None:
        """Add rows to the table of a nest."""
        there = always(depth)
        self.create(nest, depth, [column for column in rows if column not in there])
        self._rows.append((nest, rows))

    def delete(self, nest: int, where: str) -> None:
        """Delete rows of the table of a nest."""
        self._deletions.append(f"DELETE FROM {table_of(nest)} WHERE {where}")

    def write(self) -> None:
        """Carry out what was noted: first what is to be deleted."""
        for statement in self._deletions:
            self._db.execute(statement)
        for nest, rows in self._rows:
            append(self._db, table_of(nest), pa.table(rows))
        self._deletions, self._rows = [], []

    def has(self, nest: int, column: str) -> bool:
        return column in self.columns.get(nest, ())

    def of(self, nest: int, column: str, alias: str = "") -> str:
        """A column of `OPTIONAL` that has a default, as an expression."""
        return f"{alias}{column}" if self.has(nest, column) else "0"


def _definition(column: str) -> str:
    return f"{column} {OPTIONAL.get(column, 'DOUBLE')}"


def append(db: Any, table: str, rows: pa.Table) -> None:
    """Insert rows by the names of their columns."""
    db.register("incoming_rows", rows)
    try:
        db.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming_rows")
    finally:
        db.unregister("incoming_rows")


def text_sql(type_: str, number: str, value: str) -> str:
    """SQL for a value's text, as Python and JSON write it, from its type, number and text."""
    return (
        f"CASE {type_} WHEN {BOOL} THEN CASE WHEN {number} <> 0 THEN 'true' ELSE 'false' END "
        f"WHEN {INT} THEN coalesce({value}, ({number})::BIGINT::VARCHAR) "
        f"WHEN {FLOAT} THEN ({number})::VARCHAR ELSE {value} END"
    )


def views(
    tables: Tables, nests: Mapping[int, tuple[str, ...]], wide: Mapping[int, list[int]]
) -> list[str]:
    """The statements that define ``loops``, ``logs`` and what the pivot reads, over these tables.

    Parameters: ``wide``, by nest, the names that have a column there.
    """
    ids = {loops: nest for nest, loops in nests.items()}
    up = {nest: [ids[loops[:n]] for n in range(1, len(loops) + 1)] for nest, loops in nests.items()}
    loops = [_loops(tables, nest, nests[nest][-1], up[nest]) for nest in nests if nest]
    logs = [_logs(tables, nest, up[nest]) for nest, columns in wide.items() if columns]
    return [
        f"CREATE OR REPLACE VIEW flor_loops AS {' UNION ALL BY NAME '.join([*loops, _NO_LOOPS])}",
        _LOOPS,
        f"CREATE OR REPLACE VIEW flor_odd_logs AS {_ODD}",
        f"CREATE OR REPLACE VIEW flor_logs AS {' UNION ALL BY NAME '.join([_ODD, *logs])}",
        _LOGS,
    ]


def _place(up: list[int]) -> tuple[str, str, str]:
    """A context's ctx_id, path and iterations, as SQL over the table of its nest."""
    if not up:
        return "NULL::BIGINT", "NULL::BIGINT[]", "NULL::BIGINT[]"
    ids = [f"c{level} + {base(nest)}" for level, nest in enumerate(up, start=1)]
    indexes = ", ".join(f"i{level}" for level in range(1, len(up) + 1))
    return ids[-1], f"[{', '.join(ids)}]", f"[{indexes}]"


def _loops(tables: Tables, nest: int, loop: str, up: list[int]) -> str:
    depth = len(up)
    ctx_id, path, iterations = _place(up)
    name = loop.replace("'", "''")
    index = f"i{depth}"
    value, type_, number = f"{index}::VARCHAR", f"{INT}::INTEGER", f"{index}::DOUBLE"
    if tables.has(nest, "type"):
        value = (
            f"CASE WHEN type IS NULL THEN {value} ELSE {text_sql('type', 'number', 'value')} END"
        )
        number = f"CASE WHEN type IS NULL THEN {number} ELSE number END"
        type_ = f"coalesce(type, {INT})"
    first = " WHERE ordinal = 0" if tables.has(nest, "ordinal") else ""
    return (
        f"SELECT {ctx_id} AS ctx_id, {_place(up[:-1])[0]} AS parent_ctx_id, '{name}' AS loop_name, "
        f"{index} AS loop_iteration, {value} AS loop_value, {type_} AS value_type, "
        f"{number} AS number, {tables.of(nest, 'entry')} AS entry, run_id, "
        f"{tables.of(nest, 'rank')} AS rank, {nest}::INTEGER AS nest_id, {path} AS path, "
        f"{iterations} AS iterations FROM {table_of(nest)}{first}"
    )


_NO_LOOPS = (
    "SELECT NULL::BIGINT AS ctx_id, NULL::BIGINT AS parent_ctx_id, NULL::VARCHAR AS loop_name, "
    "NULL::BIGINT AS loop_iteration, NULL::VARCHAR AS loop_value, "
    "NULL::INTEGER AS value_type, NULL::DOUBLE AS number, NULL::BIGINT AS entry, "
    "NULL::INTEGER AS run_id, NULL::INTEGER AS rank, NULL::INTEGER AS nest_id, "
    "NULL::BIGINT[] AS path, NULL::BIGINT[] AS iterations WHERE false"
)
_LOOPS = (
    "CREATE OR REPLACE VIEW loops AS SELECT projid, tstamp, filename, l.ctx_id, parent_ctx_id, "
    "l.loop_name, loop_entries, loop_iteration, loop_value, value_type, number, l.entry, l.run_id, "
    "l.rank, nest_id, path, iterations FROM flor_loops l JOIN runs USING (run_id, rank) "
    "LEFT JOIN (SELECT t.run_id, t.rank, ctx_id, loop_name, entry, max(iterations) AS loop_entries "
    "FROM timings t JOIN files f USING (file_id) WHERE what = 'loop' AND f.kind = 'run' "
    "GROUP BY ALL) e ON e.run_id = l.run_id AND e.rank = l.rank AND e.loop_name = l.loop_name "
    "AND e.entry = l.entry AND e.ctx_id IS NOT DISTINCT FROM l.parent_ctx_id"
)
_ODD = (
    f"SELECT ctx_id, {text_sql('value_type', 'number', 'value')} AS value, value_type, number, "
    "ordinal, source, arg, run_id, rank, name_id, nest_id, path, iterations, file_id FROM odd_logs"
)
_LOGS = (
    "CREATE OR REPLACE VIEW logs AS SELECT projid, tstamp, filename, ctx_id, n.name AS value_name, "
    "value, value_type, number, ordinal, source, arg, run_id, rank, name_id, nest_id, path, "
    "iterations, l.file_id FROM flor_logs l JOIN runs USING (run_id, rank) "
    "JOIN names n USING (name_id)"
)


def _logs(tables: Tables, nest: int, up: list[int]) -> str:
    ctx_id, path, iterations = _place(up)
    return (
        f"SELECT {ctx_id} AS ctx_id, {text_sql('s.value_type', 'x', 'NULL')} AS value, "
        f"s.value_type, x AS number, {tables.of(nest, 'ordinal')} AS ordinal, 'record' AS source, "
        f"s.arg, u.run_id, s.rank, s.name_id, {nest}::INTEGER AS nest_id, {path} AS path, "
        f"{iterations} AS iterations, s.file_id "
        f"FROM (UNPIVOT {table_of(nest)} ON COLUMNS('^n[0-9]+$') INTO NAME n VALUE x) u "
        f"JOIN series s ON s.nest_id = {nest} AND u.n = 'n' || s.name_id "
        f"AND u.run_id = s.run_id AND s.rank = {tables.of(nest, 'rank', 'u.')}"
    )
