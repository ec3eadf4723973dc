"""Run files into tables, a column at a time.

A file's rows are a function of the file alone, but for the numbers of its contexts, which are those
of the run's own file where that has the context too. So a file may be taken in again when it has
grown, and each value is there once (flordb/store/merge.py says which of several stands).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from flordb.store import blocks, fresh, merge
from flordb.store.batch import OWNED, Batch
from flordb.store.incoming import Incoming, Numbered
from flordb.store.layout import Tables, append
from flordb.store.names import ODD


@dataclass
class Kinds:
    """Which kinds of value were logged where; grows with each batch."""

    names: dict[tuple[int, int], int] = field(default_factory=dict)
    loops: dict[int, int] = field(default_factory=dict)

    def add(self, names: dict[tuple[int, int], int], loops: dict[int, int]) -> None:
        for key, bits in names.items():
            self.names[key] = self.names.get(key, 0) | bits
        for nest, bits in loops.items():
            self.loops[nest] = self.loops.get(nest, 0) | bits


@dataclass
class Gone:
    """What is to be taken out first: all that these files gave.

    ``files``: their names by file_id. ``runs``: (run_id, rank) of runs that are taken in anew.
    """

    files: dict[int, str] = field(default_factory=dict)
    runs: set[tuple[int, int]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.files)


def insert(db: Any, new: Batch, merged: Batch, kinds: Kinds, gone: Gone) -> None:
    """Take out what is gone, put in runs of which nothing is there then (``new``), and merge others
    with what is there; into the tables of a DuckDB connection, within its transaction."""
    tables = Tables(db)
    incoming = [batch.incoming() for batch in (new, merged)]
    nests = incoming[0].nests
    if any(each.files.rank.any() for each in incoming):
        for nest in tables.columns:
            tables.create(nest, len(nests[nest]), ["rank"])
    merge.widen(tables, incoming[1])
    if gone:
        _forget(db, tables, gone, nests)
    for batch, each in zip((new, merged), incoming, strict=True):
        if batch.size("files"):
            _insert(db, tables, batch, each, kinds)
        if batch.size("problems"):
            append(db, "problems", batch.table("problems"))
    tables.write()


def _insert(db: Any, tables: Tables, batch: Batch, incoming: Incoming, kinds: Kinds) -> None:
    insert_values = fresh.insert if batch.is_fresh else merge.insert
    left = insert_values(db, tables, incoming, kinds.names)
    odd_kinds = incoming.values.kinds(left.values, left.ordinal)
    kinds.add({key: bits | ODD for key, bits in odd_kinds.items()}, batch.contexts.kinds)
    if batch.is_fresh:
        append(db, "runs", batch.table("runs"))
    else:
        _add_unknown_runs(db, batch.table("files"))
    for table in OWNED:
        if batch.size(table):
            append(db, table, _with_ctx_ids(batch.table(table), incoming.numbered))


def _with_ctx_ids(table: pa.Table, numbered: Numbered) -> pa.Table:
    """Replace contexts' rows in the batch by their ctx_ids."""
    if "row" not in table.schema.names:
        return table
    rows = table["row"].to_numpy()
    ids = np.append(numbered.ctx_id, 0)[rows]  # the root's row is -1, and it has no ctx_id
    place = table.schema.get_field_index("row")
    return table.set_column(place, "ctx_id", pa.array(ids, mask=rows < 0))


def _forget(db: Any, tables: Tables, gone: Gone, nests: Mapping[int, tuple[str, ...]]) -> None:
    blocks.forget(db, tables, {nest: len(loops) for nest, loops in nests.items()}, gone.files)
    listed = ", ".join(map(str, gone.files))
    for table in ("series", "odd_logs", *OWNED):
        db.execute(f"DELETE FROM {table} WHERE file_id IN ({listed})")
    for run_id, rank in gone.runs:
        db.execute("DELETE FROM runs WHERE run_id = ? AND rank = ?", [run_id, rank])
        if 0 in tables.columns:
            tables.delete(0, f"run_id = {run_id} AND {tables.of(0, 'rank')} = {rank}")
    db.execute("DELETE FROM problems WHERE list_contains(?, file)", [list(gone.files.values())])


def _add_unknown_runs(db: Any, files: pa.Table) -> None:
    """A replay may come before its run's own file: the run is known, and little else of it."""
    db.register("incoming_files", files)
    try:
        db.execute(
            "INSERT INTO runs BY NAME SELECT DISTINCT run_id, projid, tstamp, filename, rank, "
            "tstamp AS started, 'lost' AS state FROM incoming_files f WHERE NOT EXISTS "
            "(FROM runs t WHERE t.run_id = f.run_id AND t.rank = f.rank)"
        )
    finally:
        db.unregister("incoming_files")
