"""The cursor of PEP 249, with DuckDB's extras: the forms in which a result can be had."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from flordb.query.errors import InterfaceError, mapped
from flordb.query.predicates import Parameters
from flordb.query.result import Result

if TYPE_CHECKING:
    from flordb.query.connection import Connection


_VECTOR_ROWS = 2048


class Cursor:
    """Executes statements and holds the result of the last one (PEP 249, with DuckDB's extras)."""

    arraysize = 1
    lastrowid = None
    _result: Result | None = None
    _closed = False

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def execute(
        self,
        sql: str,
        parameters: Parameters = None,
        *,
        acquire: str | None = None,
        budget: str | float | None = None,
    ) -> Cursor:
        """Run one statement, or several separated by semicolons, of which the last gives the rows.

        Parameters: ``parameters``, a sequence for ``?``, a mapping for ``$name``; ``acquire`` and
        ``budget``, for this call only, as in `connect`. Raises errors of `flordb.query.errors`,
        all of which are duckdb's too.
        """
        self._check()
        frame = inspect.currentframe()
        assert frame is not None
        self._result = None
        run = self.connection.run
        self._result = run(sql, parameters, _caller(frame), acquire=acquire, budget=budget)
        return self

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> Cursor:
        """Run a statement once for each of the parameters; it leaves no rows."""
        for each in parameters:
            self.execute(sql, list(each))
        self._result = None
        return self

    @property
    def description(self) -> list[tuple[Any, ...]] | None:
        return self._result.description if self._result is not None else None

    @property
    def rowcount(self) -> int:
        return self._result.rowcount if self._result is not None else -1

    def fetchone(self) -> tuple[Any, ...] | None:
        rows = self._fetch(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        return self._fetch(self.arraysize if size is None else size)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._fetch(None)

    def _fetch(self, size: int | None) -> list[tuple[Any, ...]]:
        with self.connection._lock, mapped():
            return self.result().fetch(size)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self

    def __next__(self) -> tuple[Any, ...]:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    @property
    def rownumber(self) -> int | None:
        """The index, from 0, of the row that is fetched next; None without a result."""
        return self._result.position if self._result is not None else None

    def nextset(self) -> None:
        """There is never another set of rows: of several statements the last one's are kept."""
        self._check()

    def df(self) -> Any:
        """The rows as a pandas DataFrame."""
        with self.connection._lock, mapped():
            return self.result().frame()

    fetchdf = df

    def pl(self) -> Any:
        """The rows as a Polars DataFrame (needs polars)."""
        with self.connection._lock, mapped():
            return self.result().polars()

    def to_arrow_table(self) -> Any:
        return self.result().table()

    def to_arrow_reader(self, rows_per_batch: int = 1_000_000) -> Any:
        return self.result().table().to_reader(max_chunksize=rows_per_batch)

    def arrow(self, rows_per_batch: int = 1_000_000) -> Any:
        """The rows as a RecordBatchReader, as in DuckDB."""
        return self.to_arrow_reader(rows_per_batch)

    def fetchnumpy(self) -> Any:
        """The rows as a dict of NumPy arrays, as in DuckDB."""
        with self.connection._lock, mapped():
            return self.result().numpy()

    def fetch_df_chunk(self, vectors_per_chunk: int = 1) -> Any:
        """The next rows as a pandas DataFrame, 2,048 a vector, as in DuckDB; in the end none."""
        with self.connection._lock, mapped():
            return self.result().chunk(_VECTOR_ROWS * vectors_per_chunk)

    fetch_arrow_table = to_arrow_table
    fetch_record_batch = to_arrow_reader
    fetch_df = df

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The rows for any library that speaks Arrow's C stream interface (Polars, pandas, …)."""
        return self.result().table().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        if self._result is None:
            return f"<{type(self).__name__} without a result>"
        count, names = self._result.rowcount, self._result.names
        columns = f"{len(names)} column{'s' * (len(names) != 1)}"
        return f"<{type(self).__name__}: {count} row{'s' * (count != 1)} of {columns}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """DuckDB's table, which fits the terminal, in IPython."""
        printer.text(repr(self) if self._result is None else self._result.drawn())

    def _repr_html_(self) -> str | None:
        """A table, in a notebook."""
        from flordb.query.html import table_of

        return None if self._result is None else table_of(self._result)

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """Does nothing, as PEP 249 allows."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Does nothing, as PEP 249 allows."""

    def close(self) -> None:
        self._closed = True
        self._result = None

    def result(self) -> Result:
        """The result of the last statement. Raises InterfaceError where it has none."""
        self._check()
        if self._result is None:
            raise InterfaceError("there is no result to fetch: execute a SELECT first")
        return self._result

    def _check(self) -> None:
        if self.connection._closed:
            raise InterfaceError("this connection is closed")
        if self._closed:
            raise InterfaceError("this cursor is closed")

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _caller(frame: FrameType) -> FrameType | None:
    """The first frame outside this package, where the statement's DataFrames are looked up."""
    found: FrameType | None = frame
    while found is not None and str(found.f_globals.get("__name__")).startswith("flordb.query."):
        found = found.f_back
    return found
