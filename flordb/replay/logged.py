"""The contexts and the logged values of a run's file, which are taken apart only where asked for.

A file's lines stand for many contexts or values each. A replay looks up a few of these, or those of
one name; to arrange a million when a worker starts would take longer than the replay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from flordb.record.context import entry_name
from flordb.store.encoding import decode_value
from flordb.store.lines import indexes, take_apart

T = TypeVar("T")


class Spans(Generic[T]):
    """What is known of contexts, by their numbers: ranges of them have it in common."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._spans: list[tuple[int, int, T]] = []

    def add(self, start: int, stop: int, common: T) -> None:
        place = bisect_right(self._starts, start)
        self._starts.insert(place, start)
        self._spans.insert(place, (start, stop, common))

    def get(self, number: int) -> tuple[int, int, T] | None:
        """The range (first, one past the last, what is common) that a context is in."""
        place = bisect_right(self._starts, number) - 1
        if place < 0 or number >= self._spans[place][1]:
            return None
        return self._spans[place]

    def counts(self, numbers: Iterable[int]) -> Iterator[tuple[T, int]]:
        """How many of these contexts are in each range; those in none are left out."""
        if not isinstance(numbers, range):
            for number in numbers:
                if span := self.get(number):
                    yield span[2], 1
            return
        at = numbers.start
        while at < numbers.stop:
            place = bisect_right(self._starts, at) - 1
            if place < 0 or at >= self._spans[place][1]:
                following = self._starts[place + 1 : place + 2]
                at = following[0] if following else numbers.stop
                continue
            stop = min(numbers.stop, self._spans[place][1])
            yield self._spans[place][2], stop - at
            at = stop


class Paths:
    """The paths of a file's contexts, by their numbers."""

    def __init__(self) -> None:
        self._lines = Spans[dict[str, Any]]()
        self._known = {0: ""}

    def add(self, line: dict[str, Any]) -> None:
        """Add what a ``ctx`` or a ``ctxs`` line defines."""
        count = 1 if line["k"] == "ctx" else len(indexes(line))
        self._lines.add(line["c"], line["c"] + count, line)

    def __getitem__(self, number: int) -> str:
        path = self._known.get(number)
        if path is None:
            span = self._lines.get(number)
            if span is None:
                raise KeyError(number)
            first, _, line = span
            outer = self[line.get("p", 0)]
            index = line["i"] if line["k"] == "ctx" else indexes(line)[number - first]
            own = f"{entry_name(line['l'], line.get('e', 0))}={index}"
            path = self._known[number] = f"{outer}/{own}" if outer else own
        return path


class Values(Mapping[tuple[str, str], list[Any]]):
    """What a run logged, by (context path, name), in order."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lines: dict[str, list[dict[str, Any]]] = {}
        self._found: dict[str, dict[str, list[Any]]] = {}

    def add(self, line: dict[str, Any]) -> None:
        """Add what a ``log`` or a ``logs`` line says."""
        self._lines.setdefault(line["n"], []).append(line)
        self._found.pop(line["n"], None)

    def _of(self, name: str) -> dict[str, list[Any]]:
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = {}
            for line in self._lines.get(name, ()):
                for one in take_apart(line):
                    path = self._paths[one.get("c", 0)]
                    found.setdefault(path, []).append(decode_value(one))
        return found

    def __getitem__(self, key: tuple[str, str]) -> list[Any]:
        path, name = key
        return self._of(name)[path]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((path, name) for name in self._lines for path in self._of(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)
