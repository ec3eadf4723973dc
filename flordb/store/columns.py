"""What run files say about contexts and values, as arrays, thousands of rows at a time.

A *row* is a context's place among those of a batch of files. Rows stand in the order of the files,
and within a file parents stand before their children.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from flordb.store.names import BOOL as BOOLEAN
from flordb.store.names import EXACT, INT64, INT128, NESTED, NULLS, OTHER, REPEATED, TEXT
from flordb.store.names import FLOAT as FLOATING
from flordb.store.runfile import (
    BOOL,
    FLOAT,
    INT,
    JSON,
    NULL,
    RunFile,
    contexts,
    indexes,
    take_apart,
    value_columns,
)

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_EXACT = 2**53
"""Integers below it are what a double holds exactly."""

INDEX = -1
"""The `value_type` of an iteration whose value is its index."""

Array = Any


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


def numeric(type_: Array) -> Array:
    """Which values of these types have a number."""
    return (type_ == BOOL) | (type_ == INT) | (type_ == FLOAT)


_KINDS = {NULL: NULLS, BOOL: BOOLEAN, FLOAT: FLOATING, JSON: NESTED}


def kind(type_: int, number: float | None, text: str | None) -> int:
    """The kind (flordb/store/names.py) of a value."""
    if type_ != INT:
        return _KINDS.get(type_, TEXT)
    if number is not None and abs(number) < _EXACT:
        return EXACT
    if text is None or "x" in text:
        return FLOATING
    value = int(text)
    if _SMALLEST <= value <= _LARGEST:
        return INT64
    return INT128 if -(2**127) <= value < 2**127 else FLOATING


def _needed(text: str | None, type_: int, number: float | None) -> str | None:
    """A value's text, where its type and its number do not give it."""
    if type_ in (BOOL, FLOAT) or (type_ == INT and number is not None and abs(number) < _EXACT):
        return None
    return text if text is None else clean(text)


# --- contexts -------------------------------------------------------------------------------------


@dataclass
class ContextArrays:
    """The contexts of a batch. ``parent`` is a row (-1: the root), ``file`` a place in the batch.

    ``type`` is INDEX for an iteration whose value is its index; ``number`` holds nothing where
    the type has none; ``texts``, by row, are those that type and number do not give.
    """

    file: Array
    nest: Array
    parent: Array
    entry: Array
    iteration: Array
    type: Array
    number: Array
    texts: dict[int, str]


class ContextRows:
    """The contexts of a batch, as lines define them: some iterations of one loop each."""

    def __init__(self) -> None:
        self.count = 0
        self.kinds: dict[int, int] = {}
        """Which kinds of value the iterations have, by nest."""
        self._lines: list[tuple[int, int, int, int, int, int, int, float, float]] = []
        self._listed: list[tuple[int, Sequence[int]]] = []
        self._texts: dict[int, str] = {}

    def add(
        self,
        file: int,
        nest: int,
        parent: int,
        entry: int,
        iterations: Sequence[int],
        line: Mapping[str, Any],
    ) -> None:
        """Add iterations, with the values that their line gives them."""
        if "r" in line:
            start, step = line["r"]
            if abs(start) + abs(step) * _most(iterations) >= _EXACT:
                for index in iterations:
                    self._add_value(file, nest, parent, entry, [index], {"v": start + step * index})
                return
            if (start, step) == (0, 1):
                self._extend(file, nest, parent, entry, iterations, INDEX, 0, 0)
                self._note(nest, EXACT)
            else:
                self._extend(file, nest, parent, entry, iterations, INT, start, step)
                self._note(nest, EXACT | OTHER)
            return
        self._add_value(file, nest, parent, entry, iterations, line)

    def _add_value(
        self,
        file: int,
        nest: int,
        parent: int,
        entry: int,
        iterations: Sequence[int],
        line: Mapping[str, Any],
    ) -> None:
        try:
            text, type_, number = value_columns(dict(line))
        except (TypeError, ValueError, OverflowError, RecursionError):
            text, type_, number = None, NULL, None
        if type_ == INT and len(iterations) == 1 and text == str(iterations[0]):
            self._extend(file, nest, parent, entry, iterations, INDEX, 0, 0)
            self._note(nest, EXACT if abs(iterations[0]) < _EXACT else INT64)
            return
        needed = _needed(text, type_, number)
        if needed is not None:
            for row in range(self.count, self.count + len(iterations)):
                self._texts[row] = needed
        self._extend(file, nest, parent, entry, iterations, type_, number or 0, 0)
        self._note(nest, kind(type_, number, text) | (OTHER if type_ != NULL else 0))

    def _extend(
        self,
        file: int,
        nest: int,
        parent: int,
        entry: int,
        iterations: Sequence[int],
        type_: int,
        start: float,
        step: float,
    ) -> None:
        count = len(iterations)
        first = iterations[0]
        if isinstance(iterations, list) and count > 1:
            self._listed.append((self.count, iterations))
        self._lines.append((count, file, nest, parent, entry, first, type_, start, step))
        self.count += count

    def _note(self, nest: int, bits: int) -> None:
        self.kinds[nest] = self.kinds.get(nest, 0) | bits

    def arrays(self) -> ContextArrays:
        """All of them, a row each."""
        columns = list(zip(*self._lines, strict=True)) if self._lines else [()] * 9
        counts: Array = np.array(columns[0], np.int64)

        def each(place: int, type_: Any) -> Array:
            return np.repeat(np.array(columns[place], type_), counts)

        starts = np.cumsum(counts) - counts
        iteration = each(5, np.int64) + (np.arange(self.count) - np.repeat(starts, counts))
        for row, listed in self._listed:
            iteration[row : row + len(listed)] = listed
        type_ = each(6, np.int32)
        number = each(7, np.float64)
        if any(columns[8]):
            number += each(8, np.float64) * iteration
        return ContextArrays(
            file=each(1, np.int64),
            nest=each(2, np.int64),
            parent=each(3, np.int64),
            entry=each(4, np.int64),
            iteration=iteration,
            type=type_,
            number=number,
            texts=self._texts,
        )


def _most(iterations: Sequence[int]) -> int:
    ends = iterations if isinstance(iterations, list) else (iterations[0], iterations[-1])
    most: int = max(abs(index) for index in ends)
    return most


@dataclass(frozen=True)
class Context:
    """A context of a run file: its row (-1: the root), and the loops that it is in."""

    row: int
    nest: tuple[str, ...] = ()
    iterations: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        pairs = zip(self.nest, self.iterations, strict=True)
        return "/".join(f"{loop}={index}" for loop, index in pairs)


@dataclass(frozen=True)
class _Span:
    """Contexts that one line defines: numbered from ``first`` on, in rows from ``row`` on."""

    first: int
    row: int
    nest_id: int
    nest: tuple[str, ...]
    above: tuple[int, ...]
    iterations: Sequence[int]

    def at(self, number: int) -> Context:
        place = number - self.first
        return Context(self.row + place, self.nest, (*self.above, self.iterations[place]))


class Contexts:
    """The contexts of one run file, by the numbers that they have in it.

    Parameters: ``rows``, which they are added to; ``place``, the file's in the batch; ``nest_of``
    numbers nests; ``problem`` is told what is left out.
    """

    def __init__(
        self,
        file: RunFile,
        rows: ContextRows,
        place: int,
        nest_of: Callable[[tuple[str, ...]], int],
        problem: Callable[[str], None],
    ) -> None:
        self.root = Context(-1)
        self._rows, self._place, self._nest_of = rows, place, nest_of
        self._spans: list[_Span] = []
        self._firsts: list[int] = []
        self._cache: dict[int, Context] = {0: self.root}
        for line in file.of_kind("ctx", "ctxs"):
            why = self._add(line)
            if why:
                problem(why)
        self._arrays: tuple[Array, Array, Array, Array] | None = None

    def get(self, number: int) -> Context | None:
        """The context with this number in the file, None where it was left out."""
        found = self._cache.get(number)
        if found is None:
            span = self._span(number)
            if span is not None:
                found = self._cache[number] = span.at(number)
        return found

    def locate(self, number: int) -> tuple[int, int] | None:
        """(row, nest) of the context with this number, None where it was left out."""
        if number == 0:
            return -1, 0
        span = self._span(number)
        return None if span is None else (span.row + number - span.first, span.nest_id)

    def locate_all(self, numbers: Sequence[int]) -> tuple[Array, Array | int] | None:
        """(rows, nests) of contexts; one nest where all are in the same. None as `locate`."""
        if isinstance(numbers, range):
            span = self._span(numbers[0])
            if span is not None and numbers.stop <= span.first + len(span.iterations):
                start = span.row + numbers[0] - span.first
                return np.arange(start, start + len(numbers)), span.nest_id
        if self._arrays is None:
            spans = [_Span(0, -1, 0, (), (), range(1)), *self._spans]
            self._arrays = (
                np.array([span.first for span in spans], np.int64),
                np.array([len(span.iterations) for span in spans], np.int64),
                np.array([span.row for span in spans], np.int64),
                np.array([span.nest_id for span in spans], np.int64),
            )
        firsts, counts, rows, nests = self._arrays
        try:
            asked: Array = np.array(numbers, np.int64)
        except OverflowError:
            return None
        places = np.searchsorted(firsts, asked, "right") - 1
        within = asked - firsts[places]
        if bool(np.any(within >= counts[places])):
            return None
        found = nests[places]
        one = int(found[0]) if bool(np.all(found == found[0])) else found
        return rows[places] + within, one

    def _span(self, number: int) -> _Span | None:
        place = bisect_right(self._firsts, number) - 1
        if place < 0:
            return None
        span = self._spans[place]
        return span if number < span.first + len(span.iterations) else None

    def _add(self, line: dict[str, Any]) -> str | None:
        number, loop, entry = line["c"], clean(line["l"]), line.get("e", 0)
        parent = self.get(line.get("p", 0))
        if parent is None or not _SMALLEST <= entry <= _LARGEST or number > _LARGEST:
            return f"context {number} cannot be used"
        iterations = indexes(line) if line["k"] == "ctxs" else [line["i"]]
        if _most(iterations) > _LARGEST:
            return f"context {number} cannot be used: an index is beyond 64 bits"
        nest = (*parent.nest, loop)
        nest_id = self._nest_of(nest)
        span = _Span(number, self._rows.count, nest_id, nest, parent.iterations, iterations)
        place = bisect_right(self._firsts, number)
        self._firsts.insert(place, number)
        self._spans.insert(place, span)
        self._rows.add(self._place, nest_id, parent.row, entry, iterations, line)
        return None


# --- values ---------------------------------------------------------------------------------------


@dataclass
class ValueArrays:
    """The values of a batch, in pieces of one name, nest, file, type and arg.

    By piece: ``start`` is its first value and ``count`` how many it has; ``file`` is a place in the
    batch, ``arg`` one in ``args`` (-1: none). By value: ``row`` is its context's (-1: the root).
    ``texts`` are those that type and number do not give, of the values at ``texts_at``.
    """

    start: Array
    count: Array
    file: Array
    name: Array
    nest: Array
    type: Array
    arg: Array
    row: Array
    number: Array
    texts_at: Array
    texts: list[str]
    args: list[str]

    def __len__(self) -> int:
        return len(self.row)

    def pieces(self, values: Array) -> Array:
        """The pieces that some values are in."""
        return np.searchsorted(self.start, values, "right") - 1

    def texts_of(self, values: Array) -> list[str | None]:
        """The texts of some values, None where type and number give them, or nothing does."""
        found: list[str | None] = [None] * len(values)
        if self.texts:
            places = np.minimum(np.searchsorted(self.texts_at, values), len(self.texts) - 1)
            for at in np.flatnonzero(self.texts_at[places] == values).tolist():
                found[at] = self.texts[places[at]]
        return found

    def kinds(self, values: Array, ordinal: Array) -> dict[tuple[int, int], int]:
        """Which kinds of value (flordb/store/names.py) some of them are, by name and nest."""
        pieces = self.pieces(values)
        type_ = self.type[pieces]
        bits = _BITS[type_]
        large = np.flatnonzero((type_ == INT) & ~(np.abs(self.number[values]) < _EXACT))
        for at, text in zip(large.tolist(), self.texts_of(values[large]), strict=True):
            bits[at] = kind(INT, None, text)
        bits[ordinal > 0] |= REPEATED
        rows: Array = np.stack([self.name[pieces], self.nest[pieces], bits])
        found: dict[tuple[int, int], int] = {}
        for name, nest, some in np.unique(rows, axis=1).T.tolist():
            found[name, nest] = found.get((name, nest), 0) | some
        return found


_BITS: Array = np.array([kind(type_, 0.0, None) for type_ in range(8)], np.int64)


@dataclass
class _Pending:
    """Values that came one a line, or on a line with values of other types."""

    pieces: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)


_UNIFORM = {float: FLOAT, int: INT, bool: BOOL}


class ValueRows:
    """The values of a batch: pieces of one name, nest, file, type and arg, in the files' order."""

    def __init__(self, name_of: Callable[[str], int]) -> None:
        self.count = 0
        self._name_of = name_of
        self._pieces: list[tuple[int, int, int, int, int, int]] = []
        self._rows: list[Array] = []
        self._numbers: list[Array] = []
        self._texts: list[tuple[int, str]] = []
        self._args: dict[str, int] = {}
        self._pending = _Pending()

    def add(
        self, file: RunFile, place: int, found: Contexts, problem: Callable[[str], None]
    ) -> None:
        """Add a file's values."""
        for line in file.lines:
            if line["k"] == "log":
                at = found.locate(line.get("c", 0))
                if at is None:
                    problem(f"a value of {line['n']!r} without its context")
                else:
                    self._add_one(line, place, *at)
            elif line["k"] == "logs" and line["v"]:
                several = found.locate_all(contexts(line))
                if several is None:
                    problem(f"values of {line['n']!r} without their contexts")
                else:
                    self._add_several(line, place, *several)

    def _add_several(
        self, line: dict[str, Any], place: int, rows: Array, nest: Array | int
    ) -> None:
        numbers = None if "y" in line or not isinstance(nest, int) else _numbers(line["v"])
        if numbers is None:
            nests = [nest] * len(rows) if isinstance(nest, int) else nest.tolist()
            for row, at, each in zip(rows.tolist(), nests, take_apart(line), strict=True):
                self._add_one(each, place, row, at)
            return
        self._flush()
        name, type_ = self._name_of(line["n"]), _UNIFORM[type(line["v"][0])]
        assert isinstance(nest, int)
        self._pieces.append((len(rows), place, name, nest, type_, -1))
        self._rows.append(rows)
        self._numbers.append(numbers)
        self.count += len(rows)

    def _add_one(self, line: dict[str, Any], place: int, row: int, nest: int) -> None:
        text, type_, number = value_columns(line)
        arg = line.get("a")
        if arg is not None:
            arg = arg if isinstance(arg, str) else json.dumps(arg)
            arg = self._args.setdefault(clean(arg), len(self._args))
        needed = _needed(text, type_, number)
        if needed is not None:
            self._texts.append((self.count, needed))
        name = self._name_of(line["n"])
        pending = self._pending
        pending.pieces.append((1, place, name, nest, type_, -1 if arg is None else arg))
        pending.rows.append(row)
        pending.numbers.append(number if number is not None else 0.0)
        self.count += 1

    def _flush(self) -> None:
        pending = self._pending
        if pending.rows:
            self._pieces += pending.pieces
            self._rows.append(np.array(pending.rows, np.int64))
            self._numbers.append(np.array(pending.numbers, np.float64))
            self._pending = _Pending()

    def arrays(self) -> ValueArrays:
        """All of them."""
        self._flush()
        columns = list(zip(*self._pieces, strict=True)) if self._pieces else [()] * 6
        count, file, name, nest, type_, arg = (np.array(column, np.int64) for column in columns)
        return ValueArrays(
            start=np.cumsum(count) - count,
            count=count,
            file=file,
            name=name,
            nest=nest,
            type=type_,
            arg=arg,
            row=np.concatenate([np.zeros(0, np.int64), *self._rows]),
            number=np.concatenate([np.zeros(0), *self._numbers]),
            texts_at=np.array([at for at, _ in self._texts], np.int64),
            texts=[text for _, text in self._texts],
            args=list(self._args),
        )


def _numbers(values: list[Any]) -> Array | None:
    """Values of one type that are given by their numbers, None where they are not."""
    kinds = set(map(type, values))
    if len(kinds) > 1 or not kinds <= _UNIFORM.keys():
        return None
    try:
        numbers: Array = np.array(values, np.float64)
    except OverflowError:
        return None
    if kinds == {int} and not bool(np.abs(numbers).max() < _EXACT):
        return None
    return numbers
