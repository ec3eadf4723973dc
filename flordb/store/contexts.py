"""The contexts that run files define, as arrays.

A *row* is a context's place among those of a batch of files. Rows stand in the order of the files,
and within a file parents stand before their children.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flordb.store import names
from flordb.store.columns import EXACT, LARGEST, SMALLEST, clean, kind, needed_text
from flordb.store.encoding import INT, NULL, value_columns
from flordb.store.lines import indexes
from flordb.store.runfile import RunFile

Array = Any

INDEX = -1
"""The `value_type` of an iteration whose value is its index."""


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


@dataclass(slots=True)
class Entered:
    """Some iterations of a loop, entered once: in which file of the batch, nest and row (-1: the
    root), and which time that the loop is entered there, from 0."""

    file: int
    nest: int
    parent: int
    entry: int
    iterations: Sequence[int]


class ContextRows:
    """The contexts of a batch, as lines define them: some iterations of one loop each."""

    def __init__(self) -> None:
        self.count = 0
        self.kinds: dict[int, int] = {}
        """Which kinds of value the iterations have, by nest."""
        self._lines: list[tuple[int, int, int, int, int, int, int, float, float]] = []
        self._listed: list[tuple[int, Sequence[int]]] = []
        self._texts: dict[int, str] = {}

    def add(self, entered: Entered, line: Mapping[str, Any]) -> None:
        """Add iterations, with the values that their line gives them."""
        if "r" in line:
            start, step = line["r"]
            if abs(start) + abs(step) * _most(entered.iterations) >= EXACT:
                for index in entered.iterations:
                    self._add_value(
                        replace(entered, iterations=[index]), {"v": start + step * index}
                    )
            elif (start, step) == (0, 1):
                self._extend(entered, INDEX, 0, 0)
                self._note(entered.nest, names.EXACT)
            else:
                self._extend(entered, INT, start, step)
                self._note(entered.nest, names.EXACT | names.OTHER)
            return
        self._add_value(entered, line)

    def _add_value(self, entered: Entered, line: Mapping[str, Any]) -> None:
        nest, iterations = entered.nest, entered.iterations
        try:
            text, type_, number = value_columns(dict(line))
        except (TypeError, ValueError, OverflowError, RecursionError):
            text, type_, number = None, NULL, None
        if type_ == INT and len(iterations) == 1 and text == str(iterations[0]):
            self._extend(entered, INDEX, 0, 0)
            self._note(nest, names.EXACT if abs(iterations[0]) < EXACT else names.INT64)
            return
        needed = needed_text(text, type_, number)
        if needed is not None:
            for row in range(self.count, self.count + len(iterations)):
                self._texts[row] = needed
        self._extend(entered, type_, number or 0, 0)
        self._note(nest, kind(type_, number, text) | (names.OTHER if type_ != NULL else 0))

    def _extend(self, entered: Entered, type_: int, start: float, step: float) -> None:
        """Add rows of this type, whose numbers are ``start`` and ``step`` more an iteration."""
        iterations = entered.iterations
        count = len(iterations)
        first = iterations[0]
        if isinstance(iterations, list) and count > 1:
            self._listed.append((self.count, iterations))
        place = (entered.file, entered.nest, entered.parent, entered.entry)
        self._lines.append((count, *place, first, type_, start, step))
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
        if parent is None or not SMALLEST <= entry <= LARGEST or number > LARGEST:
            return f"context {number} cannot be used"
        iterations = indexes(line) if line["k"] == "ctxs" else [line["i"]]
        if _most(iterations) > LARGEST:
            return f"context {number} cannot be used: an index is beyond 64 bits"
        nest = (*parent.nest, loop)
        nest_id = self._nest_of(nest)
        span = _Span(number, self._rows.count, nest_id, nest, parent.iterations, iterations)
        place = bisect_right(self._firsts, number)
        self._firsts.insert(place, number)
        self._spans.insert(place, span)
        self._rows.add(Entered(self._place, nest_id, parent.row, entry, iterations), line)
        return None
