"""Numbers for contexts: small, so that joins on them can be looked up in an array.

Contexts are numbered within their nest, those of one file one after another: a *block*. A file
that is taken in anew gives its block back and gets one that is large enough, the first that is
free. So the numbers stay about as small as there are contexts, however often running trainings
are taken in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from flordb.store.layout import Tables, append


class Blocks:
    """The numbers that are taken in a database, by nest, and those that a batch takes."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self._taken: dict[int, list[tuple[int, int]]] = {}
        self._new: list[tuple[int, int, int, int]] = []
        rows = db.execute("SELECT nest_id, first, count FROM blocks ORDER BY ALL").fetchall()
        for nest, first, count in rows:
            spans = self._taken.setdefault(nest, [])
            if spans and spans[-1][1] == first:
                spans[-1] = spans[-1][0], first + count
            else:
                spans.append((first, first + count))

    def take(self, file_id: int, nest: int, count: int) -> int:
        """The first of ``count`` numbers for a file's contexts in a nest."""
        spans = self._taken.setdefault(nest, [])
        first, place = 0, 0
        for place, (start, stop) in enumerate(spans):  # noqa: B007
            if start - first >= count:
                break
            first = stop
        else:
            place = len(spans)
        spans.insert(place, (first, first + count))
        self._merge(spans, place)
        self._new.append((file_id, nest, first, count))
        return first

    def _merge(self, spans: list[tuple[int, int]], place: int) -> None:
        for left in (place, place - 1):
            if 0 <= left < len(spans) - 1 and spans[left][1] == spans[left + 1][0]:
                spans[left : left + 2] = [(spans[left][0], spans[left + 1][1])]

    def write(self) -> None:
        """Note in the database which numbers were taken."""
        if self._new:
            columns = zip(*self._new, strict=True)
            names = ["file_id", "nest_id", "first", "count"]
            append(self._db, "blocks", pa.table(list(map(pa.array, columns)), names=names))
            self._new = []


def forget(db: Any, tables: Tables, depths: dict[int, int], file_ids: Iterable[int]) -> None:
    """Take the contexts of these files out of the tables of their nests."""
    listed = ", ".join(map(str, file_ids))
    rows = db.execute(
        f"SELECT nest_id, first, count FROM blocks WHERE file_id IN ({listed})"
    ).fetchall()
    for nest, first, count in rows:
        own = f"c{depths[nest]}"
        tables.delete(nest, f"{own} >= {first} AND {own} < {first + count}")
    db.execute(f"DELETE FROM blocks WHERE file_id IN ({listed})")
