"""A run file's contexts and values as columns, thousands of rows at a time.

Only what a line says for itself is worked out here; which run, file and rank the rows belong to is
the same for all of a file.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from xxhash import xxh3_64_intdigest

from flordb.store.runfile import (
    FLOAT,
    INT,
    NULL,
    RunFile,
    contexts,
    indexes,
    take_apart,
    value_columns,
)

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_MASK = 2**64 - 1


def clean(text: str) -> str:
    """A text that SQL can hold: JSON admits halves of surrogate pairs and the character 0."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def texts(values: list[Any], type_: pa.DataType) -> pa.Array:
    """An array, with texts cleaned where Arrow refuses them."""
    try:
        return pa.array(values, type_)
    except UnicodeEncodeError:
        return pa.array([v and clean(v) for v in values], type_)


@dataclass(frozen=True)
class Context:
    """A context's row: ``seq`` in the batch (-1: the root), ``id`` in the tables."""

    seq: int
    id: int | None
    hash: int
    nest: tuple[str, ...] = ()
    path: tuple[int, ...] = ()
    iterations: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        pairs = zip(self.nest, self.iterations, strict=True)
        return "/".join(f"{loop}={index}" for loop, index in pairs)


@dataclass(frozen=True)
class _Span:
    """Contexts that one line defines: numbered from ``first``, rows from ``seq`` on."""

    first: int
    seq: int
    parent: Context
    loop: str
    iterations: np.ndarray
    ids: np.ndarray

    def at(self, number: int) -> Context:
        place = number - self.first
        id_, index = int(self.ids[place]), int(self.iterations[place])
        above = self.parent
        return Context(
            self.seq + place,
            id_,
            id_,
            (*above.nest, self.loop),
            (*above.path, id_),
            (*above.iterations, index),
        )


def run_hash(identity: Sequence[Any], rank: int) -> int:
    """Where the ids of a run's contexts start."""
    projid, tstamp, filename = identity
    return _hash(f"{projid}\n{tstamp.isoformat()}\n{filename}\n{rank}")


def _hash(text: str) -> int:
    return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) - 2**63


def _start_of(parent: int, entry: int, loop: str) -> int:
    return _hash(f"{parent}/{entry}/{loop}") & _MASK


def _id(start: int, iteration: int) -> int:
    """An iteration's id: the loop's hash and the index, mixed (splitmix64)."""
    mixed = (start + iteration * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    mixed ^= mixed >> 31
    return mixed - 2**64 if mixed >= 2**63 else mixed


def _ids(start: int, iterations: np.ndarray) -> Any:
    """`_id` of many iterations."""
    mixed = np.uint64(start) + iterations.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))).astype(np.int64)


class Contexts:
    """The contexts of one run file.

    Parameters: ``start``, the run's hash; ``seq``, the row that the first one gets; ``nest_of``
    numbers nests; ``problem`` is told what is left out.
    """

    def __init__(
        self,
        file: RunFile,
        start: int,
        seq: int,
        nest_of: Callable[[tuple[str, ...]], int],
        problem: Callable[[str], None],
    ) -> None:
        self.root = Context(-1, None, start)
        self.count = 0
        self.columns: list[dict[str, Any]] = []
        self._single: list[dict[str, Any]] = []
        self._first = seq
        self._nest_of = nest_of
        self._entries = {} if file.is_replay else _entries(file)
        self._spans: list[_Span] = []
        self._starts: list[int] = []
        self._cache: dict[int, Context] = {0: self.root}
        for line in file.of_kind("ctx", "ctxs"):
            why = self._add(line)
            if why:
                problem(why)
        self._gather()

    def get(self, number: int) -> Context | None:
        """The context with this number in the file."""
        found = self._cache.get(number)
        if found is None:
            span = self._span(number)
            if span is not None:
                found = self._cache[number] = span.at(number)
        return found

    def _span(self, number: int) -> _Span | None:
        place = bisect_right(self._starts, number) - 1
        if place < 0:
            return None
        span = self._spans[place]
        return span if number < span.first + len(span.ids) else None

    def rows(self, numbers: Sequence[int]) -> np.ndarray | None:
        """The rows of contexts (-1: the root), None where one of them was left out."""
        first = numbers[0]
        if isinstance(numbers, range) and first > 0:
            span = self._span(first)
            if span is not None and numbers.stop <= span.first + len(span.ids):
                start = span.seq + first - span.first
                return np.arange(start, start + len(numbers))
        found = [self.get(number) for number in numbers]
        known = [context.seq for context in found if context is not None]
        return np.array(known, np.int64) if len(known) == len(found) else None

    def _add(self, line: dict[str, Any]) -> str | None:
        number, loop, entry = line["c"], clean(line["l"]), line.get("e", 0)
        parent = self.get(line.get("p", 0))
        if parent is None or not _SMALLEST <= entry <= _LARGEST:
            return f"context {number} cannot be used"
        start = _start_of(parent.hash, entry, loop)
        nest = (*parent.nest, loop)
        same = {
            "loop_entries": self._entries.get((line.get("p", 0), loop, entry)),
            "entry": entry,
            "nest_id": self._nest_of(nest),
        }
        row = self._first + self.count
        if line["k"] == "ctxs":
            try:
                iterations = np.array(indexes(line), np.int64)
            except OverflowError:
                return f"context {number} cannot be used: an index is beyond 64 bits"
            span = _Span(number, row, parent, loop, iterations, _ids(start, iterations))
            place = bisect_right(self._starts, number)
            self._starts.insert(place, number)
            self._spans.insert(place, span)
            self._gather()
            self.columns.append(_columns_of(span, line, same))
            self.count += len(iterations)
            return None
        index = line["i"]
        if not _SMALLEST <= index <= _LARGEST:
            return f"context {number} cannot be used: its index is beyond 64 bits"
        id_ = _id(start, index)
        path, steps = (*parent.path, id_), (*parent.iterations, index)
        self._cache[number] = Context(row, id_, id_, nest, path, steps)
        own = {"seq": row, "ctx_id": id_, "loop_iteration": index, "path": path}
        own |= _loop_value(line)
        self._single.append({**same, **own, "iterations": steps})
        self.count += 1
        return None

    def _gather(self) -> None:
        """The contexts that came one a line, as columns."""
        if not self._single:
            return
        lists = {"path", "iterations"}
        self.columns.append(
            {
                name: pa.array([row[name] for row in self._single], pa.list_(pa.int64()))
                if name in lists
                else texts([row[name] for row in self._single], type_)
                for name, type_ in _TYPES.items()
            }
        )
        self._single = []


_TYPES = {
    "seq": pa.int64(),
    "ctx_id": pa.int64(),
    "loop_entries": pa.int64(),
    "loop_iteration": pa.int64(),
    "loop_value": pa.string(),
    "value_type": pa.int32(),
    "number": pa.float64(),
    "entry": pa.int64(),
    "nest_id": pa.int32(),
    "path": pa.list_(pa.int64()),
    "iterations": pa.list_(pa.int64()),
}


def _columns_of(span: _Span, line: dict[str, Any], same: dict[str, Any]) -> dict[str, Any]:
    count, parent = len(span.ids), span.parent
    columns = {name: _filled(name, value, count) for name, value in same.items()}
    columns["seq"] = pa.array(np.arange(span.seq, span.seq + count))
    columns["ctx_id"] = pa.array(span.ids)
    columns["loop_iteration"] = pa.array(span.iterations)
    columns["path"] = _lists(parent.path, span.ids)
    columns["iterations"] = _lists(parent.iterations, span.iterations)
    return columns | _loop_values(line, span.iterations)


def _lists(above: tuple[int, ...], own: np.ndarray) -> pa.Array:
    """Lists that begin with ``above`` and end with one of ``own``."""
    depth = len(above) + 1
    table: Any = np.empty((len(own), depth), np.int64)
    table[:, :-1] = above
    table[:, -1] = own
    offsets: Any = np.arange(0, (len(own) + 1) * depth, depth, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(table.reshape(-1)))


def _repeat(value: Any, count: int, type_: pa.DataType) -> pa.Array:
    if value is None:
        return pa.nulls(count, type_)
    return pa.repeat(pa.scalar(clean(value) if isinstance(value, str) else value, type_), count)


_INTEGERS = {"loop_entries": "i8", "value_type": "i4", "entry": "i8", "nest_id": "i4"}


def _filled(name: str, value: Any, count: int) -> Any:
    """A column of contexts that has one value."""
    if value is not None and name in _INTEGERS:
        return np.full(count, value, _INTEGERS[name])
    return _repeat(value, count, _TYPES[name])


def _loop_values(line: dict[str, Any], iterations: np.ndarray) -> dict[str, pa.Array]:
    count = len(iterations)
    if "r" not in line:
        same = _loop_value(line)
        return {name: _filled(name, value, count) for name, value in same.items()}
    start, step = line["r"]
    if max(abs(start), abs(step), int(abs(iterations).max())) < 2**31:
        numbers = pa.array(start + step * iterations)
        value, number = numbers.cast(pa.string()), numbers.cast(pa.float64(), safe=False)
    else:
        values = [start + step * index for index in iterations.tolist()]
        value = pa.array(list(map(str, values)), pa.string())
        number = pa.array([float(value) for value in values], pa.float64())
    kinds = _filled("value_type", INT, count)
    return {"loop_value": value, "value_type": kinds, "number": number}


def _loop_value(line: dict[str, Any]) -> dict[str, Any]:
    try:
        value, type_, number = value_columns(line)
    except (TypeError, ValueError, OverflowError, RecursionError):
        value, type_, number = None, NULL, None
    return {"loop_value": value, "value_type": type_, "number": number}


def _entries(file: RunFile) -> dict[tuple[Any, Any, Any], int | None]:
    """How many iterations a loop had, by (parent's number, loop's name, entry)."""
    found = {}
    for line in file.of_kind("loop"):
        above, entry, count = line.get("p", line.get("c", 0)), line.get("e", 0), line.get("n")
        loop = line.get("l")
        if isinstance(loop, str) and isinstance(above, int) and isinstance(entry, int):
            fits = isinstance(count, int) and _SMALLEST <= count <= _LARGEST
            found[above, clean(loop), entry] = count if fits else None
    return found


@dataclass
class _Values:
    """Values of one name, in order."""

    name: int
    rows: np.ndarray
    value: pa.Array
    type: pa.Array
    number: pa.Array
    arg: pa.Array


def log_columns(
    file: RunFile,
    found: Contexts,
    name_of: Callable[[str], int],
    problem: Callable[[str], None],
) -> dict[str, pa.Array]:
    """The values of a run file. ``name_of`` numbers names; ``problem`` hears what is left out."""
    pieces: list[_Values] = []
    single = _Singles(name_of)
    for line in file.lines:
        if line["k"] == "log":
            context = found.get(line.get("c", 0))
            if context is None:
                problem(f"a value of {line['n']!r} without its context")
            else:
                single.add(line, context.seq)
        elif line["k"] == "logs" and line["v"]:
            rows = found.rows(contexts(line))
            if rows is None:
                problem(f"values of {line['n']!r} without their contexts")
                continue
            if "y" not in line and set(map(type, line["v"])) == {float}:
                pieces += single.taken()
                pieces.append(_floats(name_of(line["n"]), rows, line["v"]))
                continue
            for row, each in zip(rows.tolist(), take_apart(line), strict=True):
                single.add(each, row)
    return _joined([*pieces, *single.taken()])


def _floats(name: int, rows: np.ndarray, values: list[float]) -> _Values:
    """Values whose texts are those of their numbers."""
    count = len(values)
    return _Values(
        name,
        rows,
        pa.nulls(count, pa.string()),
        pa.array(np.full(count, FLOAT, np.int32)),
        pa.array(values, pa.float64()),
        pa.nulls(count, pa.string()),
    )


class _Singles:
    """Values that come one a line, or with types of their own."""

    def __init__(self, name_of: Callable[[str], int]) -> None:
        self._name_of = name_of
        self._start()

    def _start(self) -> None:
        self.names: list[int] = []
        self.rows: list[int] = []
        self.values: list[tuple[str | None, int, float | None]] = []
        self.args: list[str | None] = []

    def add(self, line: Mapping[str, Any], row: int) -> None:
        self.names.append(self._name_of(line["n"]))
        self.rows.append(row)
        self.values.append(value_columns(dict(line)))
        arg = line.get("a")
        self.args.append(arg if arg is None or isinstance(arg, str) else json.dumps(arg))

    def taken(self) -> list[_Values]:
        """What was added, by names; begins anew."""
        by_name: dict[int, list[int]] = {}
        for place, name in enumerate(self.names):
            by_name.setdefault(name, []).append(place)
        pieces = []
        for name, places in by_name.items():
            value, type_, number = zip(*(self.values[p] for p in places), strict=True)
            pieces.append(
                _Values(
                    name,
                    np.array([self.rows[p] for p in places], np.int64),
                    texts(list(value), pa.string()),
                    pa.array(type_, pa.int32()),
                    pa.array(number, pa.float64()),
                    texts([self.args[p] for p in places], pa.string()),
                )
            )
        self._start()
        return pieces


def _joined(pieces: list[_Values]) -> dict[str, pa.Array]:
    if not pieces:
        return {}
    counts = [len(piece.rows) for piece in pieces]
    names: Any = np.repeat(np.array([piece.name for piece in pieces], np.int32), counts)
    rows = np.concatenate([piece.rows for piece in pieces])
    return {
        "seq": pa.array(rows),
        "name_id": pa.array(names),
        "value": pa.chunked_array([piece.value for piece in pieces]),
        "value_type": pa.chunked_array([piece.type for piece in pieces]),
        "number": pa.chunked_array([piece.number for piece in pieces]),
        "ordinal": pa.array(_ordinals(names, rows)),
        "arg": pa.chunked_array([piece.arg for piece in pieces]),
    }


def _ordinals(names: Any, rows: Any) -> Any:
    """Which value of its name in its context each one is, from 0."""
    order = np.lexsort((rows, names))  # stable: equal places stay in the order of the file
    names, rows = names[order], rows[order]
    place = np.arange(len(rows))
    new: Any = np.ones(len(rows), bool)
    new[1:] = (names[1:] != names[:-1]) | (rows[1:] != rows[:-1])
    first = np.maximum.accumulate(np.where(new, place, 0))
    ordinals: Any = np.empty(len(rows), np.int64)
    ordinals[order] = place - first
    return ordinals
