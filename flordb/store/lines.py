"""The lines of run files: what those of several values stand for, and which are not to be used."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeGuard

from flordb.store.encoding import LARGEST, SMALLEST, decode_value, value_columns

_MOST_CONTEXTS = 1_000_000
"""On one line; the writer stays far below, and a foreign line must not fill the memory."""


def indexes(line: dict[str, Any]) -> Sequence[int]:
    """The indexes of the iterations that a ``ctxs`` line defines."""
    first = line["i"]
    return first if isinstance(first, list) else range(first, first + line["m"])


def contexts(line: dict[str, Any]) -> Sequence[int]:
    """The contexts of a ``logs`` line's values."""
    first = line.get("c", 0)
    return first if isinstance(first, list) else range(first, first + len(line["v"]))


def take_apart(line: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The ``ctx`` or ``log`` lines that a ``ctxs`` or ``logs`` line stands for; others as is."""
    if line["k"] == "ctxs":
        same = {"p": line.get("p", 0), "l": line["l"]} | ({"e": line["e"]} if "e" in line else {})
        for number, index in enumerate(indexes(line), start=line["c"]):
            own = {"k": "ctx", "c": number, **same, "i": index}
            if "r" in line:
                own["v"] = line["r"][0] + line["r"][1] * index
            yield own
    elif line["k"] == "logs":
        types = line.get("y", {})
        for position, (number, value) in enumerate(zip(contexts(line), line["v"], strict=True)):
            own = {"k": "log", "c": number, "n": line["n"], "v": value}
            if str(position) in types:
                own["y"] = types[str(position)]
            yield own
    else:
        yield line


class _Spans:
    """A set of numbers that come mostly in order: (first, one past the last), sorted."""

    def __init__(self) -> None:
        self._starts = [0]
        self._stops = [1]

    def has(self, start: int, stop: int) -> bool:
        place = bisect_right(self._starts, start) - 1
        return place >= 0 and stop <= self._stops[place]

    def add(self, start: int, stop: int) -> bool:
        """Add numbers; False where one of them is there already."""
        place = bisect_right(self._starts, start)
        if place and self._stops[place - 1] > start:
            return False
        if place < len(self._starts) and self._starts[place] < stop:
            return False
        if place and self._stops[place - 1] == start:
            self._stops[place - 1] = stop
        else:
            self._starts.insert(place, start)
            self._stops.insert(place, stop)
        return True


class Checker:
    """Says why a line is not to be used, or nothing. Contexts must be defined before their use."""

    def __init__(self) -> None:
        self._known = _Spans()

    def __call__(self, line: Any) -> str | None:
        if not isinstance(line, dict):
            return "not a JSON object"
        kind = line.get("k")
        if kind == "log":
            if not isinstance(line.get("n"), str):
                return "a log line without a name"
            return self._contexts([line.get("c", 0)]) or _check_value(line)
        if kind == "logs":
            return self._logs(line)
        if kind == "ctx":
            return self._context(line, 1, [line.get("i")])
        if kind == "ctxs":
            return self._several(line)
        if not isinstance(kind, str):
            return "no kind"
        return None

    def _logs(self, line: dict[str, Any]) -> str | None:
        values, types = line.get("v"), line.get("y", {})
        if not isinstance(line.get("n"), str):
            return "a log line without a name"
        if not isinstance(values, list) or not isinstance(types, dict):
            return "a log line without its values"
        first = line.get("c", 0)
        if isinstance(first, list) and len(first) != len(values):
            return f"{len(values)} values in {len(first)} contexts"
        if not isinstance(first, list) and not _is_int(first):
            return f"a log line in context {first!r}"
        why = self._contexts(contexts(line))
        for place, type_ in types.items():
            if not place.isdecimal() or int(place) >= len(values):
                return f"a type for value {place} of {len(values)}"
            why = why or _check_value({"v": values[int(place)], "y": type_})
        return why

    def _contexts(self, numbers: Sequence[Any]) -> str | None:
        if isinstance(numbers, range):
            if self._known.has(numbers.start, max(numbers.stop, numbers.start + 1)):
                return None
            return f"a log line in contexts from {numbers.start}, which no line defines"
        for number in numbers:
            if not _is_int(number) or not self._known.has(number, number + 1):
                return f"a log line in context {number!r}, which no line defines"
        return None

    def _several(self, line: dict[str, Any]) -> str | None:
        first, values = line.get("i"), line.get("r", [0, 0])
        if isinstance(first, list):
            count: Any = len(first)
        else:
            first, count = [first], line.get("m")
        if not _is_int(count) or not 0 < count <= _MOST_CONTEXTS:
            return f"contexts for {count!r} iterations"
        if not isinstance(values, list) or len(values) != 2 or not all(map(_fits, values)):
            return "iterations whose values are no range"
        return self._context(line, count, first)

    def _context(self, line: dict[str, Any], count: int, iterations: Iterable[Any]) -> str | None:
        number, parent = line.get("c"), line.get("p", 0)
        if not _is_int(number) or number < 1:
            return f"a context numbered {number!r}"
        if not _is_int(parent) or not self._known.has(parent, parent + 1):
            return f"a context in context {parent!r}, which no line defines"
        if not isinstance(line.get("l"), str) or not all(map(_is_int, iterations)):
            return "a context without a loop or an index"
        if not _is_int(line.get("e", 0)):
            return "a context whose loop entry is no number"
        if not self._known.add(number, number + count):
            return f"a context numbered {number!r}, which another line defines"
        return None


def _is_int(value: Any) -> TypeGuard[int]:
    return type(value) is int


def _fits(value: Any) -> bool:
    return _is_int(value) and SMALLEST <= value <= LARGEST


def _check_value(line: dict[str, Any]) -> str | None:
    try:
        value_columns(line)
        decode_value(line)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return f"a value that is no {line.get('y')}"
    return None
