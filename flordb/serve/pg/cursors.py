"""A cursor of a session (DECLARE, FETCH, MOVE): forward row by row, or to and fro over all rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from flordb.serve.pg.dialect import Command
from flordb.serve.pg.errors import SessionError
from flordb.serve.pg.result import Rows


@dataclass
class Cursor:
    """``scrolls``: it goes backward too, for which its rows are kept in memory. ``holds``: it
    outlives its transaction where that commits, and is then ``kept``. ``taken``: how many rows the
    last FETCH gave."""

    rows: Rows
    scrolls: bool
    holds: bool
    kept: bool
    taken: int = 0
    _place: int = 0  # the row that it stands on, counted from 1
    _whole: Any = field(default=None, repr=False)

    def fetch(self, command: Command, binary: Sequence[bool]) -> Iterator[bytes]:
        """The rows that FETCH asks for, as messages. Raises SessionError."""
        if not self.scrolls:
            yield from self._forward(command, binary)
            return
        if self._whole is None:
            self._whole = self.rows.whole(binary)
        found, self._place = moved(self._place, self._whole.num_rows, command.way, command.count)
        self.taken = len(found)
        yield from self.rows.encoded(self._whole.take(pa.array(found, pa.int64())))

    def _forward(self, command: Command, binary: Sequence[bool]) -> Iterator[bytes]:
        way, count = command.way, command.count
        if (way, count, self._place) == ("absolute", 1, 0):
            way = "forward"
        if way != "forward" or (count is not None and count < 1):
            raise SessionError(
                "55000", "cursor can only scan forward: DECLARE … SCROLL CURSOR goes both ways"
            )
        yield from self.rows.take(count, binary)
        self.taken = self.rows.taken
        self._place += self.taken


def moved(place: int, total: int, way: str, count: int | None) -> tuple[list[int], int]:
    """The indexes (from 0) of the rows that a FETCH gives, and the row on which it ends.

    Rows count from 1 to ``total``; 0 is before the first, ``total`` + 1 after the last.
    ``way``: forward, backward (``count`` None: all), absolute (negative: from the end), relative.
    """
    if way == "backward":
        way, count = "forward", -total - 1 if count is None else -count
    if way in ("absolute", "relative"):
        assert count is not None
        if way == "absolute":
            target = count if count >= 0 else total + 1 + count
        else:
            target = place + count
        target = min(max(target, 0), total + 1)
        return [target - 1] if 0 < target <= total else [], target
    steps = total + 1 if count is None else count
    if steps == 0:
        return [place - 1] if 0 < place <= total else [], place
    target = min(max(place + steps, 0), total + 1)
    rows = range(place + 1, target + 1) if steps > 0 else range(place - 1, target - 1, -1)
    return [row - 1 for row in rows if 0 < row <= total], target
