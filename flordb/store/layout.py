"""Where values lie: a table a nest of loops, wide, and a long one for what does not fit in there.

``flor_at_<nest>`` has a row a context (and a further one for each further occurrence of a name in
it): its path resolved into a column a level, and a column ``n<name_id>`` a name, DOUBLE, NULL where
the name has no value there. What a run logged under one name in one nest goes there if each value
is given by a number and one type (`series` says which), and if there are enough of them. All
else, and what replays bring later, is in ``odd_logs``, a row a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flordb.store import names
from flordb.store.runfile import BOOL, FLOAT, INT

_EXACT = 2.0**53
_SPARSE = 20
"""A name with values in fewer than one of so many contexts of its nest is not worth a column."""

_BITS = {BOOL: names.BOOL, INT: names.EXACT, FLOAT: names.FLOAT}

Array = Any


def table_of(nest: int) -> str:
    return f"flor_at_{nest}"


def levels(depth: int) -> list[str]:
    """The columns of a context's path and of its iteration indexes."""
    return [f"{kind}{level}" for kind in "ci" for level in range(1, depth + 1)]


def create(db: Any, nest: int, depth: int, columns: Iterable[str] = ()) -> None:
    """Make the table of a nest, if it is not there; with columns for names."""
    own = [f"{column} BIGINT" for column in levels(depth)]
    own += [f"{column} DOUBLE" for column in columns]
    db.execute(
        f"CREATE TABLE IF NOT EXISTS {table_of(nest)} (run_id INTEGER, rank INTEGER, "
        "ordinal BIGINT, entry BIGINT, entries BIGINT, type INTEGER, number DOUBLE, "
        f"value VARCHAR, file_id INTEGER{''.join(', ' + column for column in own)})"
    )


_MANY = 8


def _widen(db: Any, nest: int, depth: int, columns: list[str]) -> None:
    table = table_of(nest)
    there = {
        row[0]
        for row in db.execute(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = ? "
            "AND database_name = current_database()",
            [table],
        ).fetchall()
    }
    if not there:
        create(db, nest, depth, columns)
        return
    new = [column for column in columns if column not in there]
    if len(new) <= _MANY:
        for column in new:
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} DOUBLE")
        return
    # Each ALTER copies the description of the table: many of them take long.
    listed = ", ".join(f"NULL::DOUBLE AS {column}" for column in new)
    db.execute(f"CREATE TABLE widened AS SELECT *, {listed} FROM {table}")
    db.execute(f"DROP TABLE {table}")
    db.execute(f"ALTER TABLE widened RENAME TO {table}")


@dataclass(frozen=True)
class Rows:
    """The rows of run files, as `ingest.Batch` has them."""

    files: pa.Table
    contexts: pa.Table
    logs: pa.Table


class _Batch:
    """The arrays of a batch's contexts and values."""

    def __init__(self, rows: Rows) -> None:
        files, contexts, logs = rows.files, rows.contexts, rows.logs
        self.contexts = contexts
        self.path = _Lists(contexts["path"])
        self.iterations = _Lists(contexts["iterations"])
        self.file_ids = _numpy(files["file_id"])
        self.run_ids, self.ranks = _numpy(files["run_id"]), _numpy(files["rank"])
        self.nest = _numpy(contexts["nest_id"])
        self.context_file = self._places(_numpy(contexts["file_id"]))
        self.seq, self.name = _numpy(logs["seq"]), _numpy(logs["name_id"])
        self.type, self.ordinal = _numpy(logs["value_type"]), _numpy(logs["ordinal"])
        self.number = _numpy(logs["number"].fill_null(0.0))
        self.file = self._places(_numpy(logs["file_id"]))
        self.log_nest: Array = np.zeros(len(self.seq), np.int32)
        below = self.seq >= 0
        self.log_nest[below] = self.nest[self.seq[below]]
        words = logs["arg"].combine_chunks().dictionary_encode()
        words = words.combine_chunks() if isinstance(words, pa.ChunkedArray) else words
        self.arg, self.args = _numpy(words.indices.fill_null(-1)), words.dictionary.to_pylist()
        exact = (self.type == INT) & (np.abs(self.number) < _EXACT)
        self.plain = exact | (self.type == BOOL) | (self.type == FLOAT)

    def _places(self, ids: Array) -> Array:
        """The rows of ``files`` that these file_ids are in."""
        order = np.argsort(self.file_ids)
        return order[np.searchsorted(self.file_ids, ids, sorter=order)]


def _numpy(column: Any) -> Array:
    return column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(False)


class _Lists:
    """A column of lists."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        lists = column.combine_chunks()
        lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
        self._values: Array = lists.values.to_numpy(zero_copy_only=False)
        self._starts: Array = lists.offsets.to_numpy(zero_copy_only=False)

    def at(self, rows: Array, level: int) -> Array:
        """The items at a position of the lists in these rows."""
        return self._values[self._starts[rows] + level]


class _Series:
    """The values of a batch by nest, name and file; those that get a column are ``chosen``."""

    def __init__(self, batch: _Batch) -> None:
        self.order = np.lexsort((batch.file, batch.name, batch.log_nest))
        nest, name = batch.log_nest[self.order], batch.name[self.order]
        file = batch.file[self.order]
        first: Array = np.ones(len(nest), bool)
        first[1:] = (nest[1:] != nest[:-1]) | (name[1:] != name[:-1]) | (file[1:] != file[:-1])
        self.starts = np.flatnonzero(first)
        self.counts: Array = np.diff(np.append(self.starts, len(nest)))
        self.nest, self.name, self.file = nest[first], name[first], file[first]
        types, arg = batch.type[self.order], batch.arg[self.order]
        self.type, self.arg = types[first], arg[first]
        self.repeats = np.maximum.reduceat(batch.ordinal[self.order], self.starts)
        one_type = np.minimum.reduceat(types, self.starts) == np.maximum.reduceat(
            types, self.starts
        )
        one_arg = np.minimum.reduceat(arg, self.starts) == np.maximum.reduceat(arg, self.starts)
        plain = np.logical_and.reduceat(batch.plain[self.order], self.starts)
        self.chosen = one_type & one_arg & plain & self._dense(batch)

    def _dense(self, batch: _Batch) -> Array:
        width = len(batch.file_ids)
        places = batch.nest.astype(np.int64) * width + batch.context_file
        size = int(max(batch.nest.max(initial=0), self.nest.max(initial=0)) + 1) * width
        contexts = np.bincount(places, minlength=size)
        return self.counts * _SPARSE >= contexts[self.nest.astype(np.int64) * width + self.file]

    def rows(self) -> Array:
        """For each value, in the order of the batch, whether it gets a column."""
        found: Array = np.empty(len(self.order), bool)
        found[self.order] = np.repeat(self.chosen, self.counts)
        return found


def insert(
    db: Any,
    rows: Rows,
    nests: Mapping[int, tuple[str, ...]],
    kinds: dict[tuple[int, int], int],
) -> pa.Table:
    """Put fresh contexts and values into the tables of their nests; returns the values left over.

    Parameters: ``kinds``, by name and nest, which is brought up to date for what went in.
    """
    batch, logs = _Batch(rows), rows.logs
    if not len(logs):
        for nest in np.unique(batch.nest).tolist():
            _insert_nest(db, batch, None, nest, len(nests[nest]))
        return logs
    series = _Series(batch)
    chosen = np.flatnonzero(series.chosen)
    below = series.nest[chosen]
    for nest in np.union1d(np.unique(batch.nest), below).tolist():
        _insert_nest(db, batch, series, nest, len(nests[nest]))
    for place in chosen.tolist():
        key = int(series.name[place]), int(series.nest[place])
        bits = _BITS[int(series.type[place])] | names.WIDE
        bits |= names.REPEATED if series.repeats[place] else 0
        kinds[key] = kinds.get(key, 0) | bits
    args = [batch.args[place] if place >= 0 else None for place in series.arg[chosen].tolist()]
    table = pa.table(
        {
            "run_id": batch.run_ids[series.file[chosen]],
            "rank": batch.ranks[series.file[chosen]],
            "name_id": series.name[chosen],
            "nest_id": below,
            "value_type": series.type[chosen],
            "arg": pa.array(args, pa.string()),
            "file_id": batch.file_ids[series.file[chosen]],
        }
    )
    _append(db, "series", table)
    return logs.filter(pa.array(~series.rows()))


def _insert_nest(db: Any, batch: _Batch, series: _Series | None, nest: int, depth: int) -> None:
    """Insert the rows of one nest: its contexts, with the values of its columns."""
    if nest:
        members = np.flatnonzero(batch.nest == nest)
        file = batch.context_file[members]
    else:
        members, file = np.zeros(0, np.int64), np.arange(len(batch.file_ids))
    place_of: Array = np.zeros(len(batch.nest), np.int64)
    place_of[members] = np.arange(len(members))
    values: dict[int, tuple[Array, Array, Array]] = {}
    for name, logs in _by_name(batch, series, nest) if series is not None else ():
        at = place_of[batch.seq[logs]] if nest else batch.file[logs]
        values[name] = at, batch.ordinal[logs], batch.number[logs]
    if not nest:
        used = np.unique(np.concatenate([at for at, _, _ in values.values()]))
        narrow: Array = np.searchsorted(used, np.arange(len(file)))
        file = file[used]
        values = {name: (narrow[at], o, number) for name, (at, o, number) in values.items()}
    extra, values = _occurrences(values, len(file))
    rows = np.concatenate([np.arange(len(file)), extra[0]])
    columns: dict[str, Any] = {
        "run_id": batch.run_ids[file][rows],
        "rank": batch.ranks[file][rows],
        "ordinal": np.concatenate([np.zeros(len(file), np.int64), extra[1]]),
        "file_id": batch.file_ids[file][rows],
    }
    if nest:
        columns |= _of_contexts(batch, members[rows], depth)
    for name, (at, _, number) in values.items():
        columns[f"n{name}"] = _column(at, number, len(rows))
    _widen(
        db, nest, depth, [column for column in columns if column[0] == "n" and column[1:].isdigit()]
    )
    _append(db, table_of(nest), pa.table(columns))


def _by_name(batch: _Batch, series: _Series, nest: int) -> list[tuple[int, Array]]:
    """The values of each name that get a column, as rows of the batch."""
    places = np.flatnonzero(series.chosen & (series.nest == nest))
    found: list[tuple[int, Array]] = []
    cuts: Array = np.flatnonzero(np.diff(series.name[places])) + 1
    for group in np.split(places, cuts) if len(places) else ():
        ranges = [
            series.order[start : start + count]
            for start, count in zip(series.starts[group], series.counts[group], strict=True)
        ]
        found.append((int(series.name[group[0]]), np.concatenate(ranges)))
    return found


def _occurrences(
    values: dict[int, tuple[Array, Array, Array]], count: int
) -> tuple[tuple[Array, Array], dict[int, tuple[Array, Array, Array]]]:
    """(context's row, ordinal) of the further rows, and the values with their rows in the end."""
    none: Array = np.zeros(0, np.int64)
    further = [
        np.stack([at[ordinal > 0], ordinal[ordinal > 0]])
        for at, ordinal, _ in values.values()
        if ordinal.any()
    ]
    if not further:
        return (none, none), values
    pairs = np.unique(np.concatenate(further, axis=1), axis=1)
    width = int(pairs[1].max()) + 1
    keys = pairs[0] * width + pairs[1]
    moved = {}
    for name, (at, ordinal, number) in values.items():
        later = count + np.searchsorted(keys, at * width + ordinal)
        moved[name] = np.where(ordinal > 0, later, at), ordinal, number
    return (pairs[0], pairs[1]), moved


def _of_contexts(batch: _Batch, rows: Array, depth: int) -> dict[str, Any]:
    own = ["entry", "loop_entries", "value_type", "number", "loop_value"]
    given = batch.contexts.select(own)
    if len(rows) < len(given) or not bool(np.all(rows[1:] > rows[:-1])):
        given = given.take(pa.array(rows))
    found = dict(zip(["entry", "entries", "type", "number", "value"], given.columns, strict=True))
    for kind, lists in (("c", batch.path), ("i", batch.iterations)):
        for level in range(depth):
            found[f"{kind}{level + 1}"] = lists.at(rows, level)
    return found


def _column(at: Array, number: Array, count: int) -> pa.Array:
    if len(at) == count and bool(np.all(at[1:] > at[:-1])):
        return pa.array(number)
    column: Array = np.zeros(count)
    missing: Array = np.ones(count, bool)
    column[at], missing[at] = number, False
    return pa.array(column, mask=missing)


def _append(db: Any, table: str, rows: pa.Table) -> None:
    db.register("incoming_rows", rows)
    try:
        db.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming_rows")
    finally:
        db.unregister("incoming_rows")


def delete(db: Any, file_ids: Iterable[int], nests: Iterable[int]) -> None:
    """Take out all that these files gave."""
    listed = ", ".join(map(str, file_ids))
    if not listed:
        return
    there = {row[0] for row in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    tables = [table for nest in nests if (table := table_of(nest)) in there]
    for table in (*tables, "series", "odd_logs"):
        db.execute(f"DELETE FROM {table} WHERE file_id IN ({listed})")


# The value's text, as Python and JSON write it, of a row with `type`, `number` and `value`.
def text_sql(type_: str, number: str, value: str) -> str:
    """SQL for a value's text from its type, its number, and the text that was logged."""
    return (
        f"CASE {type_} WHEN {BOOL} THEN CASE WHEN {number} <> 0 THEN 'true' ELSE 'false' END "
        f"WHEN {INT} THEN coalesce({value}, ({number})::BIGINT::VARCHAR) "
        f"WHEN {FLOAT} THEN ({number})::VARCHAR ELSE {value} END"
    )


def views(nests: Mapping[int, tuple[str, ...]], wide: Mapping[int, list[int]]) -> list[str]:
    """The statements that define ``loops``, ``logs`` and what the pivot reads, over these tables.

    Parameters: ``wide``, by nest, the names that have a column there.
    """
    loops = [_loops(nest, nests[nest]) for nest in nests if nest]
    logs = [_logs(nest, len(nests[nest])) for nest, columns in wide.items() if columns]
    return [
        f"CREATE OR REPLACE VIEW flor_loops AS {' UNION ALL BY NAME '.join([*loops, _NO_LOOPS])}",
        _LOOPS,
        f"CREATE OR REPLACE VIEW flor_odd_logs AS {_ODD}",
        f"CREATE OR REPLACE VIEW flor_logs AS {' UNION ALL BY NAME '.join([_ODD, *logs])}",
        _LOGS,
    ]


def _loops(nest: int, loops: tuple[str, ...]) -> str:
    depth = len(loops)
    name = loops[-1].replace("'", "''")
    parent = f"c{depth - 1}" if depth > 1 else "NULL::BIGINT"
    path, iterations = (
        ", ".join(f"{kind}{level}" for level in range(1, depth + 1)) for kind in "ci"
    )
    return (
        f"SELECT c{depth} AS ctx_id, {parent} AS parent_ctx_id, '{name}' AS loop_name, "
        f"entries AS loop_entries, i{depth} AS loop_iteration, "
        f"{text_sql('type', 'number', 'value')} AS loop_value, type AS value_type, number, entry, "
        f"run_id, rank, {nest}::INTEGER AS nest_id, [{path}] AS path, "
        f"[{iterations}] AS iterations, file_id FROM {table_of(nest)} WHERE ordinal = 0"
    )


_NO_LOOPS = (
    "SELECT NULL::BIGINT AS ctx_id, NULL::BIGINT AS parent_ctx_id, NULL::VARCHAR AS loop_name, "
    "NULL::BIGINT AS loop_entries, NULL::BIGINT AS loop_iteration, NULL::VARCHAR AS loop_value, "
    "NULL::INTEGER AS value_type, NULL::DOUBLE AS number, NULL::BIGINT AS entry, "
    "NULL::INTEGER AS run_id, NULL::INTEGER AS rank, NULL::INTEGER AS nest_id, "
    "NULL::BIGINT[] AS path, NULL::BIGINT[] AS iterations, NULL::INTEGER AS file_id WHERE false"
)
_LOOPS = (
    "CREATE OR REPLACE VIEW loops AS SELECT projid, tstamp, filename, ctx_id, parent_ctx_id, "
    "loop_name, loop_entries, loop_iteration, loop_value, value_type, number, entry, run_id, "
    "rank, nest_id, path, iterations, file_id FROM flor_loops JOIN runs USING (run_id, rank)"
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


def _logs(nest: int, depth: int) -> str:
    context = f"c{depth}" if depth else "NULL::BIGINT"
    path, iterations = (
        ", ".join(f"{kind}{level}" for level in range(1, depth + 1)) for kind in "ci"
    )
    lists = (f"[{path}]", f"[{iterations}]") if depth else ("NULL::BIGINT[]", "NULL::BIGINT[]")
    return (
        f"SELECT {context} AS ctx_id, {text_sql('s.value_type', 'x', 'NULL')} AS value, "
        "s.value_type, x AS number, ordinal, 'record' AS source, s.arg, u.run_id, u.rank, "
        f"s.name_id, {nest}::INTEGER AS nest_id, {lists[0]} AS path, {lists[1]} AS iterations, "
        f"s.file_id FROM (UNPIVOT {table_of(nest)} ON COLUMNS('^n[0-9]+$') INTO NAME n VALUE x) u "
        f"JOIN series s ON s.nest_id = {nest} AND u.n = 'n' || s.name_id "
        "AND u.run_id = s.run_id AND u.rank = s.rank"
    )
