"""A batch of run files on its way into the tables, as arrays: what `fresh` and `merge` put in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flordb.store.columns import numeric
from flordb.store.contexts import INDEX, ContextArrays
from flordb.store.layout import base
from flordb.store.values import ValueArrays

Array = Any
Nests = Mapping[int, tuple[str, ...]]


@dataclass(frozen=True)
class Files:
    """The files of a batch, in their order."""

    file_id: Array
    run_id: Array
    rank: Array
    tstamp: Array

    def columns(self, file: Array) -> dict[str, Any]:
        """What the rows of a nest's table say about their runs, given the places of their files."""
        found = {"run_id": self.run_id[file], "tstamp": self.tstamp[file]}
        return found | {"rank": self.rank[file]} if self.rank.any() else found


class Numbered:
    """The contexts of a batch with the numbers that they have in the database."""

    def __init__(self, contexts: ContextArrays, nests: Nests) -> None:
        self.contexts, self.nests = contexts, nests
        self.number: Array = np.zeros(len(contexts.nest), np.int64)
        self._ids = {loops: nest for nest, loops in nests.items()}

    @property
    def ctx_id(self) -> Array:
        return (self.contexts.nest << 40) + self.number

    def up(self, nest: int) -> list[int]:
        """The nests around a nest, from the outermost on, and it itself."""
        loops = self.nests[nest]
        return [self._ids[loops[:level]] for level in range(1, len(loops) + 1)]

    def ancestors(self, rows: Array, depth: int) -> list[Array]:
        """The rows of contexts' ancestors from the outermost on, and their own."""
        found = [rows]
        while len(found) < depth:
            found.insert(0, self.contexts.parent[found[0]])
        return found

    def columns(self, files: Files, rows: Array, depth: int) -> dict[str, Any]:
        """The columns of contexts in the table of their nest."""
        contexts = self.contexts
        file = contexts.file[rows]
        found = files.columns(file)
        above = self.ancestors(rows, depth)
        for level, at in enumerate(above, start=1):
            found[f"c{level}"] = self.number[at]
        for level, at in enumerate(above, start=1):
            found[f"i{level}"] = contexts.iteration[at]
        entry = contexts.entry[rows]
        if entry.any():
            found["entry"] = entry
        type_ = contexts.type[rows]
        if bool(np.any(type_ != INDEX)):
            found["type"] = pa.array(type_, mask=type_ == INDEX)
            found["number"] = pa.array(contexts.number[rows], mask=~numeric(type_))
            texts = contexts.texts
            found["value"] = pa.array([texts.get(row) for row in rows.tolist()], pa.string())
        return found


@dataclass(frozen=True)
class Left:
    """Values that have no column: which, and their ordinals."""

    values: Array
    ordinal: Array

    @classmethod
    def none(cls) -> Left:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Incoming:
    """A batch: its files, their contexts, and the values in these. ``sources``, by file, are
    ``record`` or ``replay``."""

    files: Files
    numbered: Numbered
    values: ValueArrays
    sources: list[str]

    @property
    def nests(self) -> Nests:
        return self.numbered.nests

    def columns(self, nest: int, rows: Array) -> dict[str, Any]:
        """The columns of contexts in the table of their nest."""
        return self.numbered.columns(self.files, rows, len(self.nests[nest]))


def odd_rows(incoming: Incoming, left: Left) -> pa.Table:
    """Rows of ``odd_logs`` for values, and ``place``, their file's in the batch."""
    values = incoming.values
    pieces = values.pieces(left.values)
    nest = values.nest[pieces]
    tables = []
    for at in np.unique(nest).tolist():
        which = np.flatnonzero(nest == at)
        order = np.lexsort((left.ordinal[which], values.name[pieces[which]]))
        tables.append(_odd_of_nest(incoming, left, which[order], at))
    return pa.concat_tables(tables)


def _odd_of_nest(incoming: Incoming, left: Left, which: Array, nest: int) -> pa.Table:
    files, numbered, values = incoming.files, incoming.numbered, incoming.values
    own = left.values[which]
    pieces = values.pieces(own)
    file, type_, arg = values.file[pieces], values.type[pieces], values.arg[pieces]
    count = len(which)
    ids: Any = pa.nulls(count, pa.int64())
    path: Any = pa.nulls(count, pa.list_(pa.int64()))
    iterations: Any = path
    if nest:
        up = numbered.up(nest)
        above = numbered.ancestors(values.row[own], len(up))
        all_ids = [numbered.number[at] + base(of) for at, of in zip(above, up, strict=True)]
        ids, path = pa.array(all_ids[-1]), _lists(all_ids)
        iterations = _lists([numbered.contexts.iteration[at] for at in above])
    words = [values.args[at] if at >= 0 else None for at in arg.tolist()]
    return pa.table(
        {
            "run_id": pa.array(files.run_id[file]),
            "rank": pa.array(files.rank[file]),
            "name_id": pa.array(values.name[pieces]),
            "nest_id": pa.array(np.full(count, nest)),
            "ctx_id": ids,
            "ordinal": pa.array(left.ordinal[which]),
            "value": pa.array(values.texts_of(own), pa.string()),
            "value_type": pa.array(type_),
            "number": pa.array(values.number[own], mask=~numeric(type_)),
            "source": pa.array([incoming.sources[at] for at in file.tolist()], pa.string()),
            "arg": pa.array(words, pa.string()),
            "path": path,
            "iterations": iterations,
            "file_id": pa.array(files.file_id[file]),
            "place": pa.array(file),
        }
    )


def _lists(levels: list[Array]) -> pa.Array:
    """A list a row, of the values of each level."""
    table: Any = np.stack(levels, axis=1)
    depth = len(levels)
    offsets: Any = np.arange(0, (len(table) + 1) * depth, depth, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(table.reshape(-1)))
