"""The contexts and values of runs of which nothing is there yet, into the tables of their nests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flordb.store import names
from flordb.store.blocks import Blocks
from flordb.store.columns import numeric
from flordb.store.encoding import BOOL, FLOAT, INT
from flordb.store.incoming import Files, Incoming, Left, Numbered, odd_rows
from flordb.store.layout import Tables, append
from flordb.store.values import ValueArrays

_SPARSE = 20
"""A name with values in fewer than one of so many contexts of its nest is not worth a column."""

_BITS = {BOOL: names.BOOL, INT: names.EXACT, FLOAT: names.FLOAT}

Array = Any


class Series:
    """The values of a batch by nest, name and file, each with its ordinal."""

    def __init__(self, values: ValueArrays) -> None:
        order = np.lexsort((values.file, values.name, values.nest))  # stable: files' order stays
        nest, name, file = values.nest[order], values.name[order], values.file[order]
        first: Array = np.ones(len(order), bool)
        first[1:] = (nest[1:] != nest[:-1]) | (name[1:] != name[:-1]) | (file[1:] != file[:-1])
        starts = np.flatnonzero(first)
        self.nest, self.name, self.file = nest[starts], name[starts], file[starts]
        counts, types, arg = values.count[order], values.type[order], values.arg[order]
        self.type, self.arg = types[starts], arg[starts]
        self.count = np.add.reduceat(counts, starts)
        self.start = np.cumsum(self.count) - self.count
        ends = np.cumsum(counts)
        self.values = np.repeat(values.start[order] - (ends - counts), counts) + np.arange(ends[-1])
        self.ordinal = self._ordinals(values.row[self.values])
        self.repeats = np.maximum.reduceat(self.ordinal, self.start) > 0
        one_type = np.minimum.reduceat(types, starts) == np.maximum.reduceat(types, starts)
        one_arg = np.minimum.reduceat(arg, starts) == np.maximum.reduceat(arg, starts)
        plain = numeric(values.type)
        plain[values.pieces(values.texts_at)] = False
        self.plain = one_type & one_arg & np.logical_and.reduceat(plain[order], starts)

    def __len__(self) -> int:
        return len(self.nest)

    def _ordinals(self, row: Array) -> Array:
        """Which value of its name in its context each one is, from 0."""
        found: Array = np.zeros(len(row), np.int64)
        back: Array = np.ones(len(row), bool)
        back[1:] = row[1:] <= row[:-1]
        back[self.start] = False
        places = np.unique(np.searchsorted(self.start, np.flatnonzero(back), "right") - 1)
        for place in places.tolist():
            start, count = int(self.start[place]), int(self.count[place])
            of = slice(start, start + count)
            order = np.argsort(row[of], kind="stable")
            ordered = row[of][order]
            new: Array = np.ones(count, bool)
            new[1:] = ordered[1:] != ordered[:-1]
            place = np.arange(count)
            found[of][order] = place - np.maximum.accumulate(np.where(new, place, 0))
        return found

    def of(self, chosen: Array) -> Array:
        """The positions (in ``values`` and ``ordinal``) of the values of some series."""
        return np.flatnonzero(np.repeat(chosen, self.count))


def insert(db: Any, tables: Tables, incoming: Incoming, kinds: dict[tuple[int, int], int]) -> Left:
    """Put contexts and values into the tables of their nests; returns the values that have no
    column there.

    The contexts get their numbers. ``kinds``, by name and nest, is brought up to date for what has
    a column.
    """
    files, numbered, values = incoming.files, incoming.numbered, incoming.values
    contexts, nests = numbered.contexts, numbered.nests
    width = len(files.file_id)
    counts = np.bincount(contexts.nest * width + contexts.file, minlength=len(nests) * width)
    per_file: Array = np.zeros((max(nests) + 1, width), np.int64)
    per_file.reshape(-1)[: len(counts)] = counts[: per_file.size]
    present: list[int] = np.flatnonzero(per_file.any(1)).tolist()
    members: dict[int, Array] = {nest: np.flatnonzero(contexts.nest == nest) for nest in present}
    _number(Blocks(db), files, numbered, members, per_file)
    if not len(values):
        for nest, rows in members.items():
            tables.append(nest, len(nests[nest]), incoming.columns(nest, rows))
        tables.write()
        return Left.none()
    series = Series(values)
    chosen = series.plain & (series.count * _SPARSE >= per_file[series.nest, series.file])
    covers: Array = np.zeros(len(series), np.int64)
    for nest in sorted({*members, *np.unique(series.nest[chosen]).tolist()}):
        columns = list(_columns(values, series, chosen & (series.nest == nest)))
        if nest:
            _insert_nest(tables, incoming, nest, members[nest], columns)
            _note_covers(covers, series, numbered, nest, members, per_file, columns)
        else:
            _insert_runs(tables, files, columns)
    tables.write()
    for place in np.flatnonzero(chosen).tolist():
        key = int(series.name[place]), int(series.nest[place])
        bits = _BITS[int(series.type[place])] | names.WIDE
        bits |= names.REPEATED if series.repeats[place] else 0
        kinds[key] = kinds.get(key, 0) | bits
    _write_series(db, files, series, chosen, covers, values.args)
    at = series.of(~chosen)
    left = Left(series.values[at], series.ordinal[at])
    if len(at):
        append(db, "odd_logs", odd_rows(incoming, left).drop_columns("place"))
    return left


def _number(
    blocks: Blocks, files: Files, numbered: Numbered, members: dict[int, Array], per_file: Array
) -> None:
    for nest, rows in members.items():
        counts = per_file[nest]
        firsts: Array = np.zeros(len(counts), np.int64)
        for file in np.flatnonzero(counts).tolist():
            firsts[file] = blocks.take(int(files.file_id[file]), int(nest), int(counts[file]))
        shift = firsts - (np.cumsum(counts) - counts)
        numbered.number[rows] = np.arange(len(rows)) + shift[numbered.contexts.file[rows]]
    blocks.write()


@dataclass(frozen=True)
class _Column:
    """The values of a name in a nest: the series they are of, their contexts or files, numbers."""

    name: int
    series: Array
    count: Array
    row: Array
    file: Array
    ordinal: Array
    number: Array


def _columns(values: ValueArrays, series: Series, which: Array) -> Iterator[_Column]:
    places = np.flatnonzero(which)
    cuts: Array = np.flatnonzero(np.diff(series.name[places])) + 1
    for group in np.split(places, cuts) if len(places) else ():
        start, count = series.start[group], series.count[group]
        if len(group) == 1 or bool(np.all(start[1:] == start[:-1] + count[:-1])):
            at: Any = slice(int(start[0]), int(start[-1] + count[-1]))
        else:
            at = np.concatenate([np.arange(s, s + c) for s, c in zip(start, count, strict=True)])
        own = series.values[at]
        yield _Column(
            int(series.name[group[0]]),
            group,
            count,
            values.row[own],
            np.repeat(series.file[group], count),
            series.ordinal[at],
            values.number[own],
        )


def _insert_nest(
    tables: Tables, incoming: Incoming, nest: int, rows: Array, columns: list[_Column]
) -> None:
    place_of: Array = np.zeros(len(incoming.numbered.number), np.int64)
    place_of[rows] = np.arange(len(rows))
    found = [(column, place_of[column.row]) for column in columns]
    extra, found = _occurrences(found, len(rows))
    all_rows = rows if not len(extra[0]) else np.concatenate([rows, rows[extra[0]]])
    table = incoming.columns(nest, all_rows)
    _append(tables, nest, len(incoming.nests[nest]), table, len(rows), extra[1], found)


def _insert_runs(tables: Tables, files: Files, columns: list[_Column]) -> None:
    used = np.unique(np.concatenate([column.file for column in columns]))
    found = [(column, np.searchsorted(used, column.file)) for column in columns]
    extra, found = _occurrences(found, len(used))
    rows = np.concatenate([used, used[extra[0]]])
    _append(tables, 0, 0, files.columns(rows), len(used), extra[1], found)


def _append(
    tables: Tables,
    nest: int,
    depth: int,
    table: dict[str, Any],
    count: int,
    ordinals: Array,
    found: list[tuple[_Column, Array]],
) -> None:
    if len(ordinals):
        table["ordinal"] = np.concatenate([np.zeros(count, np.int64), ordinals])
    for column, at in found:
        table[f"n{column.name}"] = _filled(at, column.number, count + len(ordinals))
    tables.append(nest, depth, table)


def _occurrences(
    found: list[tuple[_Column, Array]], count: int
) -> tuple[tuple[Array, Array], list[tuple[_Column, Array]]]:
    """(context's place, ordinal) of the further rows, and where the values stand in the end."""
    none: Array = np.zeros(0, np.int64)
    further = [
        np.stack([at[column.ordinal > 0], column.ordinal[column.ordinal > 0]])
        for column, at in found
        if column.ordinal.any()
    ]
    if not further:
        return (none, none), found
    pairs = np.unique(np.concatenate(further, axis=1), axis=1)
    width = int(pairs[1].max()) + 1
    keys = pairs[0] * width + pairs[1]
    moved = []
    for column, at in found:
        later = count + np.searchsorted(keys, at * width + column.ordinal)
        moved.append((column, np.where(column.ordinal > 0, later, at)))
    return (pairs[0], pairs[1]), moved


def _filled(at: Array, number: Array, count: int) -> pa.Array:
    if len(at) == count and bool(np.all(at[1:] > at[:-1])):
        return pa.array(number)
    column: Array = np.zeros(count)
    missing: Array = np.ones(count, bool)
    column[at], missing[at] = number, False
    return pa.array(column, mask=missing)


def _note_covers(
    covers: Array,
    series: Series,
    numbered: Numbered,
    nest: int,
    members: dict[int, Array],
    per_file: Array,
    columns: list[_Column],
) -> None:
    """Which series have a value below every context of the nests around theirs: a bit a level."""
    around = numbered.up(nest)[:-1]
    if not around or not columns:
        return
    for column in columns:
        above = numbered.ancestors(column.row, len(around) + 1)
        for level, (outer, rows) in enumerate(zip(around, above, strict=False)):
            of = members[outer]
            under: Array = np.zeros(len(of), bool)
            under[np.searchsorted(of, rows)] = True
            files = numbered.contexts.file[of[under]]
            full = np.bincount(files, minlength=per_file.shape[1]) == per_file[outer]
            covers[column.series] |= full[series.file[column.series]].astype(np.int64) << level


def _write_series(
    db: Any, files: Files, series: Series, chosen: Array, covers: Array, args: list[str]
) -> None:
    file = series.file[chosen]
    words = [args[at] if at >= 0 else None for at in series.arg[chosen].tolist()]
    if len(file):
        append(
            db,
            "series",
            pa.table(
                {
                    "run_id": files.run_id[file],
                    "rank": files.rank[file],
                    "name_id": series.name[chosen],
                    "nest_id": series.nest[chosen],
                    "value_type": series.type[chosen],
                    "arg": pa.array(words, pa.string()),
                    "covers": covers[chosen],
                    "file_id": files.file_id[file],
                }
            ),
        )
