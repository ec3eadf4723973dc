"""The values that run files log, as arrays; their contexts are rows of `contexts`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flordb.store import names
from flordb.store.columns import EXACT, clean, kind, needed_text
from flordb.store.contexts import Contexts
from flordb.store.encoding import BOOL, FLOAT, INT, value_columns
from flordb.store.lines import contexts, take_apart
from flordb.store.runfile import RunFile

Array = Any


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
        large = np.flatnonzero((type_ == INT) & ~(np.abs(self.number[values]) < EXACT))
        for at, text in zip(large.tolist(), self.texts_of(values[large]), strict=True):
            bits[at] = kind(INT, None, text)
        bits[ordinal > 0] |= names.REPEATED
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
        needed = needed_text(text, type_, number)
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
    if kinds == {int} and not bool(np.abs(numbers).max() < EXACT):
        return None
    return numbers
