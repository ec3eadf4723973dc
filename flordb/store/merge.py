"""What replays and second files say about runs that are there: what is not there yet goes in.

A context is known by its run, its parent, the entry of its loop and its index. A value is known by
its context, its name and which occurrence of it it is; what a run logged itself stands before what
a replay found, and an earlier file before a later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from flordb.store.blocks import Blocks
from flordb.store.fresh import Series
from flordb.store.incoming import Incoming, Left, Numbered, odd_rows
from flordb.store.layout import OPTIONAL, Tables, base, table_of
from flordb.store.names import WIDE

Array = Any


def widen(tables: Tables, incoming: Incoming) -> None:
    """Make the tables and columns that `insert` needs; before rows of them are deleted."""
    nest_of, nests = incoming.numbered.contexts.nest, incoming.nests
    for nest in sorted(np.unique(nest_of).tolist(), key=lambda nest: len(nests[nest])):
        columns = incoming.columns(nest, np.flatnonzero(nest_of == nest))
        tables.create(nest, len(nests[nest]), columns.keys() & OPTIONAL.keys())


def insert(
    db: Any, tables: Tables, incoming: Incoming, kinds: Mapping[tuple[int, int], int]
) -> Left:
    """Put contexts and values of files, in their order, beside what is there.

    ``kinds``, by name and nest, tells what has a column. Returns the values, with their ordinals.
    """
    numbered = incoming.numbered
    _number(db, tables, incoming)
    if not len(incoming.values):
        return Left.none()
    series = Series(incoming.values)
    left = Left(series.values, series.ordinal)
    db.register("incoming_rows", odd_rows(incoming, left))
    try:
        db.execute(
            "CREATE OR REPLACE TEMP TABLE incoming AS SELECT * FROM incoming_rows QUALIFY "
            "row_number() OVER (PARTITION BY run_id, rank, name_id, ctx_id, ordinal "
            "ORDER BY place) = 1"
        )
    finally:
        db.unregister("incoming_rows")
    _leave_out_columns(db, tables, numbered, kinds)
    db.execute(
        "INSERT INTO odd_logs BY NAME SELECT * EXCLUDE (place) FROM incoming i WHERE NOT EXISTS "
        "(FROM odd_logs t WHERE t.run_id = i.run_id AND t.rank = i.rank AND t.name_id = i.name_id "
        "AND t.ctx_id IS NOT DISTINCT FROM i.ctx_id AND t.ordinal = i.ordinal) "
        "ORDER BY name_id, ctx_id, ordinal"
    )
    db.execute("DROP TABLE incoming")
    return left


def _leave_out_columns(
    db: Any, tables: Tables, numbered: Numbered, kinds: Mapping[tuple[int, int], int]
) -> None:
    for name, nest in db.execute("SELECT DISTINCT name_id, nest_id FROM incoming").fetchall():
        if not kinds.get((name, nest), 0) & WIDE:
            continue
        depth = len(numbered.nests[nest])
        context = f"AND t.c{depth} = i.ctx_id - {base(nest)}" if depth else ""
        db.execute(
            f"DELETE FROM incoming i USING {table_of(nest)} t WHERE t.run_id = i.run_id "
            f"AND {tables.of(nest, 'rank', 't.')} = i.rank AND i.name_id = {name} "
            f"AND i.nest_id = {nest} {context} "
            f"AND {tables.of(nest, 'ordinal', 't.')} = i.ordinal AND t.n{name} IS NOT NULL"
        )


def _number(db: Any, tables: Tables, incoming: Incoming) -> None:
    """Find the numbers of contexts that are there, and insert the others."""
    files, numbered, nests = incoming.files, incoming.numbered, incoming.nests
    contexts = numbered.contexts
    blocks = Blocks(db)
    changed: set[tuple[int, int]] = set()
    found = sorted(np.unique(contexts.nest).tolist(), key=lambda nest: len(nests[nest]))
    tables.write()
    for nest in found:
        depth = len(nests[nest])
        rows = np.flatnonzero(contexts.nest == nest)
        file = contexts.file[rows]
        parent = numbered.number[contexts.parent[rows]] if depth > 1 else np.zeros_like(rows)
        keys: Array = np.stack(
            [
                files.run_id[file].astype(np.int64),
                files.rank[file].astype(np.int64),
                parent,
                contexts.entry[rows],
                contexts.iteration[rows],
            ]
        )
        _, first, which = np.unique(keys, axis=1, return_index=True, return_inverse=True)
        known = _known(db, tables, nest, depth, keys[:, first])
        new = np.sort(first[known < 0])
        counts = np.bincount(file[new], minlength=len(files.file_id))
        numbers: Array = np.zeros(len(new), np.int64)
        for at in np.flatnonzero(counts).tolist():
            start = blocks.take(int(files.file_id[at]), nest, int(counts[at]))
            numbers[file[new] == at] = np.arange(start, start + counts[at])
        number_of: Array = np.empty(len(rows), np.int64)
        number_of[first] = known
        number_of[new] = numbers
        numbered.number[rows] = number_of[first][which.reshape(-1)]
        if len(new):
            tables.append(nest, depth, incoming.columns(nest, rows[new]))
            tables.write()
            changed |= {(run, rank) for run, rank in keys[:2, new].T.tolist()}
    blocks.write()
    for run, rank in changed:
        db.execute("UPDATE series SET covers = 0 WHERE run_id = ? AND rank = ?", [run, rank])


def _known(db: Any, tables: Tables, nest: int, depth: int, keys: Array) -> Array:
    """The numbers of contexts that are in the table of their nest, -1 for the others."""
    found: Array = np.full(keys.shape[1], -1, np.int64)
    names = ["run_id", "rank", "parent", "entry", "iteration"]
    table = dict(zip(names, keys, strict=True)) | {"place": np.arange(keys.shape[1])}
    parent = f"AND t.c{depth - 1} = i.parent" if depth > 1 else ""
    first = "AND t.ordinal = 0" if tables.has(nest, "ordinal") else ""
    db.register("incoming_keys", pa.table(table))
    try:
        known = db.execute(
            f"SELECT i.place, t.c{depth} AS number FROM incoming_keys i JOIN {table_of(nest)} t "
            f"ON t.run_id = i.run_id AND t.i{depth} = i.iteration {parent} {first} "
            f"WHERE {tables.of(nest, 'rank', 't.')} = i.rank "
            f"AND {tables.of(nest, 'entry', 't.')} = i.entry"
        ).fetchnumpy()
    finally:
        db.unregister("incoming_keys")
    found[known["place"]] = known["number"]
    return found
