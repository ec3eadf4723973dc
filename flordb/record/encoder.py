"""What was logged, as lines of the run file: many values of a name on one line.

This runs behind the training but in its process, so it goes through events in bulk: the values of a
loop's iterations are taken as columns, without a look at each one.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flordb.record.context import Context, Steps
from flordb.record.values import Held, Repr, Stored, settle
from flordb.store.encoding import Fields, dump_line, encode_column, encode_value

Event = tuple[Context | Steps | None, int, str | None, Any]
"""What is appended: (place, its index, name, value) for a logged value; for any other line
(context or None, 0, None, the line)."""

WIDTH = 4
"""Events lie flat in one list, this many items each: no object is made that Python's garbage
collector would have to look at, which costs more than logging itself."""

_SHORT = 16
_MOST_SPANS = 65_536
_MOST_NAMES = 10_000
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class Encoder:
    """Turns events into lines; remembers which contexts and names the file has already.

    Parameters: ``max_value_bytes``, where longer values are cut; ``store`` keeps a
    large array and gives its reference; ``warn`` is told what could not be written.
    """

    def __init__(
        self,
        max_value_bytes: int,
        store: Callable[[Any], str],
        warn: Callable[[str], None],
    ) -> None:
        self._max_value_bytes = max_value_bytes
        self._store = store
        self._warn = warn
        self._contexts = 0
        self._names: dict[str, str] = {}
        self._parts: list[str] = []

    def encode(self, events: list[Any]) -> str:
        """The lines of events that lie flat in a list: values first, so that what says "done"
        comes after them."""
        places, indexes, names, values = (events[n::WIDTH] for n in range(WIDTH))
        lines: list[tuple[Any, Any]] = []
        at = 0
        while None in names[at:]:
            at = names.index(None, at)
            lines.append((places.pop(at), values.pop(at)))
            del names[at], indexes[at]
        columns: dict[str, _Column] = {}
        for place, start, stop in _runs(places):
            run = slice(start, stop)
            try:
                self._run(place, indexes[run], names[run], values[run], columns)
            except Exception as error:  # nothing that was logged may stop the flusher
                self._failed(error)
        for name, column in columns.items():
            self._emit(name, column)
        for context, line in lines:
            try:
                self._line(context, line)
            except Exception as error:
                self._failed(error)
        text = "".join(self._parts)
        self._parts = []
        return text

    def _failed(self, error: Exception) -> None:
        self._warn(f"a record could not be written: {type(error).__name__}: {error}")

    def _line(self, context: Context | None, line: Mapping[str, Any]) -> None:
        if context is not None:
            line = {**line, "c": self._number(context)}
        if len(line) > 1:
            self._parts.append(dump_line(dict(line)))

    # Values.

    def _run(
        self,
        place: Context | Steps,
        indexes: list[int],
        names: list[str],
        values: list[Any],
        columns: dict[str, _Column],
    ) -> None:
        """Values that were logged one after another in one context or loop."""
        distinct = set(names)
        if set(map(type, distinct)) != {str}:
            names = list(map(str, names))
            distinct = set(names)
        if len(distinct) == 1:
            self._add(columns, names[0], place, indexes, values)
            return
        by_name: dict[str, tuple[list[int], list[Any]]] = {}
        for index, name, value in zip(indexes, names, values, strict=True):
            found = by_name.get(name)
            if found is None:
                found = by_name[name] = ([], [])
            found[0].append(index)
            found[1].append(value)
        for name, (own_indexes, own_values) in by_name.items():
            self._add(columns, name, place, own_indexes, own_values)

    def _add(
        self,
        columns: dict[str, _Column],
        name: str,
        place: Context | Steps,
        indexes: Sequence[int],
        values: Sequence[Any],
    ) -> None:
        numbers: Sequence[int]
        if isinstance(place, Steps):
            numbers = self._step_numbers(place, indexes)
        else:
            numbers = [self._number(place)] * len(values)
        column = columns.get(name)
        if column is None:
            column = columns[name] = _Column()
        elif column.is_worth_a_line(numbers[0]):
            self._emit(name, column)
            column = columns[name] = _Column()
        column.add(numbers, values)

    def _emit(self, name: str, column: _Column) -> None:
        try:
            self._parts.append(self._column_line(self._quoted(name), column))
        except Exception as error:
            self._failed(error)

    def _quoted(self, name: str) -> str:
        quoted = self._names.get(name)
        if quoted is None:
            quoted = _dump(name)
            if len(self._names) < _MOST_NAMES:
                self._names[name] = quoted
        return quoted

    def _column_line(self, name: str, column: _Column) -> str:
        values = column.values
        if not _is_plain(values):
            values = [v if type(v) in _AS_IS else self._fields(v) for v in values]
        if len(values) == 1:
            fields = values[0] if type(values[0]) is Fields else encode_value(values[0])
            return f'{{"k":"log","c":{column.first},"n":{name},{_dump(fields)[1:]}\n'
        where = column.first if column.consecutive else _dump(column.numbers)
        if values is column.values:
            return f'{{"k":"logs","n":{name},"c":{where},"v":{_dump_plain(values)}}}\n'
        return f'{{"k":"logs","n":{name},"c":{where},{_dump(encode_column(values))[1:]}\n'

    def _fields(self, value: Any) -> Fields:
        try:
            fields = fields_of(value, self._store)
        except Exception as error:  # a device that failed, say
            self._failed(error)
            return Fields(v=f"<lost: {type(error).__name__}: {error}>", y="repr")
        return fields if fields.get("y") == "ref" else self._cut(fields, value)

    def _cut(self, fields: Fields, value: Any) -> Fields:
        text = fields["v"]
        if not isinstance(text, (str, list, dict)):
            return fields
        size = len(text) if isinstance(text, str) else len(_dump(text))
        if size <= self._max_value_bytes:
            return fields
        kind = type(value).__name__
        self._warn(f"a logged {kind} of {size} bytes was cut to its beginning")
        return Fields(v=str(text)[:1000] + "…", y="repr")

    # Contexts.

    def _number(self, context: Context) -> int:
        """The context's number in the file; writes its line, and its parents', before first use."""
        if context.steps is not None:
            return self._step_numbers(context.steps, [context.index])[0]
        if context.number is None:
            assert context.parent is not None
            parent = self._number(context.parent)
            self._contexts += 1
            context.number = self._contexts
            self._parts.append(dump_line(context.line(parent)))
        return context.number

    def _step_numbers(self, steps: Steps, indexes: Sequence[int]) -> Sequence[int]:
        """The numbers of a loop's iterations; writes the line of those that are new."""
        if steps.spans is None:
            steps.spans = _Spans()
        spans: _Spans = steps.spans
        first, last, count = indexes[0], indexes[-1], len(indexes)
        if last - first == count - 1 and list(indexes) == list(range(first, last + 1)):
            known = spans.number(first, last)
            if known is None and first > spans.last:
                known = self._define(steps, range(first, last + 1))
            if known is not None:
                return range(known, known + count)
        new = sorted({index for index in indexes if spans.number(index, index) is None})
        if new:
            self._define(steps, new)
        numbers = [spans.number(index, index) for index in indexes]
        return [number for number in numbers if number is not None]

    def _define(self, steps: Steps, indexes: Sequence[int]) -> int:
        """Write the line of new iterations, in their order; returns the first one's number."""
        parent = self._number(steps.outer)
        first = self._contexts + 1
        self._contexts += len(indexes)
        line: dict[str, Any] = {"k": "ctxs", "c": first, "p": parent, "l": steps.loop}
        if indexes[-1] - indexes[0] == len(indexes) - 1:
            line |= {"i": indexes[0], "m": len(indexes)}
        else:
            line["i"] = list(indexes)
        if steps.values is not None:
            line["r"] = list(steps.values)
        if steps.entry:
            line["e"] = steps.entry
        self._parts.append(dump_line(line))
        steps.spans.add(indexes, first)
        return first


def fields_of(frozen: Any, store: Callable[[Any], str]) -> Fields:
    """The fields of a value that was frozen. ``store`` keeps a large array, gives its reference."""
    value = settle(frozen, store) if type(frozen) is Held else frozen
    if type(value) is Stored:
        return Fields(v=str(value), y="ref")
    if type(value) is Repr:
        return Fields(v=str(value), y="repr")
    return Fields(encode_value(value))


class _Spans:
    """Which iterations of a loop have which numbers: (first index, last index, first number)."""

    def __init__(self) -> None:
        self.last = -1
        self._starts: list[int] = []
        self._spans: list[tuple[int, int, int]] = []

    def number(self, first: int, last: int) -> int | None:
        """The number of ``first``, where all up to ``last`` are known and numbered in order."""
        place = bisect_right(self._starts, first) - 1
        if place < 0:
            return None
        start, stop, number = self._spans[place]
        return number + first - start if last <= stop else None

    def add(self, indexes: Sequence[int], number: int) -> None:
        if indexes[-1] - indexes[0] == len(indexes) - 1:
            self._add(indexes[0], indexes[-1], number)
        else:
            for place, index in enumerate(indexes):
                self._add(index, index, number + place)
        if len(self._spans) > _MOST_SPANS:
            # A loop goes forward: only another thread can still be a few iterations behind.
            del self._starts[: _MOST_SPANS // 2], self._spans[: _MOST_SPANS // 2]

    def _add(self, first: int, last: int, number: int) -> None:
        if self._spans and first == self.last + 1:
            start, stop, known = self._spans[-1]
            if stop == self.last and number - known == first - start:
                self._spans[-1] = (start, last, known)
                self.last = last
                return
        place = bisect_right(self._starts, first)
        self._starts.insert(place, first)
        self._spans.insert(place, (first, last, number))
        self.last = max(self.last, last)


class _Column:
    """Values of one name in the order in which they were logged, and their contexts."""

    def __init__(self) -> None:
        self.numbers: Sequence[int] = ()
        self.values: Sequence[Any] = ()

    @property
    def first(self) -> int:
        return self.numbers[0]

    @property
    def consecutive(self) -> bool:
        return isinstance(self.numbers, range)

    def is_worth_a_line(self, following: int) -> bool:
        """Whether what is there is better written before values in context ``following``."""
        return self.consecutive and len(self.numbers) > _SHORT and following != self.numbers[-1] + 1

    def add(self, numbers: Sequence[int], values: Sequence[Any]) -> None:
        if len(numbers) == 1:
            numbers = range(numbers[0], numbers[0] + 1)
        if not self.numbers:
            self.numbers, self.values = numbers, values
            return
        mine = self.numbers
        if isinstance(mine, range) and isinstance(numbers, range) and mine.stop == numbers.start:
            self.numbers = range(mine.start, numbers.stop)
        else:
            self.numbers = [*mine, *numbers]
        self.values = [*self.values, *values]


def _runs(places: list[Any]) -> Iterator[tuple[Any, int, int]]:
    """(place, start, stop) of values that were logged one after another in one place."""
    start, few = 0, len(set(places)) <= _SHORT
    while start < len(places):
        place, stop = places[start], start + 1
        if few:
            # Counting is quicker than looking at each: mostly, equal places are neighbours.
            end = start + places.count(place)
            if places[start:end].count(place) == end - start:
                stop = end
            else:
                few = False
        if not few:
            while stop < len(places) and places[stop] is place:
                stop += 1
        yield place, start, stop
        start = stop


_AS_IS = frozenset((type(None), bool, int, float))


def _fits(value: int) -> bool:
    return _SMALLEST <= value <= _LARGEST


def _dump_plain(values: Sequence[Any]) -> str:
    try:
        import orjson
    except ImportError:  # no wheel for this platform: the same, at several times the cost
        return _dump(values)
    return orjson.dumps(values).decode()


def _is_plain(values: Sequence[Any]) -> bool:
    """Whether JSON says all of them without loss, each as what it is."""
    kinds = set(map(type, values))
    if kinds == {float}:
        total: float = sum(values)
        return math.isfinite(total)
    if kinds == {int}:
        return _fits(min(values)) and _fits(max(values))
    return kinds <= {bool, type(None)}
