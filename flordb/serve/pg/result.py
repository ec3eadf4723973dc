"""A query under way: its columns at once, its rows as the client asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import duckdb
import pyarrow as pa

from flordb.query.errors import translate
from flordb.serve.database import READ_ONLY, Database
from flordb.serve.pg.rows import encode
from flordb.serve.pg.types import column_of

_BATCH_ROWS = 16_384


class Rows:
    """The rows of a query, read in a read-only transaction of their own.

    ``columns`` are known from the beginning; `take` gives the rows as messages. Used by one thread;
    `interrupt` may be called by any. ``is_catalog``: they are PostgreSQL's catalog. Raises the
    errors of `flordb.query.errors`.
    """

    def __init__(self, database: Database, sql: str, is_catalog: bool = False) -> None:
        self._cursor = database.cursor()
        self._sql = sql
        self._reader: Any = None
        self._rest: pa.RecordBatch | None = None
        self._binary: Sequence[bool] = ()
        self.taken = 0
        self.done = False
        try:
            self._cursor.execute(READ_ONLY)
            relation = self._cursor.sql(self._sql)
        except duckdb.Error as error:
            self.close()
            raise translate(error) from error
        names = list(relation.columns)
        self.columns = [
            column_of(name, kind, is_catalog)
            for name, kind in zip(names, relation.types, strict=True)
        ]

    def take(self, most: int | None, binary: Sequence[bool]) -> Iterator[bytes]:
        """Rows as DataRow messages, at most so many; `taken` then counts them.

        ``binary``: the format of each column, the same in each call.
        """
        self.taken = 0
        if self.done:
            return
        with self._translated():
            if self._reader is None:
                self._start(binary)
            while not self.done and (most is None or self.taken < most):
                batch = self._next()
                if batch is None:
                    self.close()
                    return
                if most is not None and batch.num_rows > most - self.taken:
                    room = most - self.taken
                    self._rest = batch.slice(room)
                    batch = batch.slice(0, room)
                self.taken += batch.num_rows
                yield encode(batch, self.columns, self._binary)

    def whole(self, binary: Sequence[bool]) -> pa.Table:
        """All rows, for `encoded`. Instead of `take`."""
        with self._translated():
            self._start(binary)
            table = self._reader.read_all()
        self.close()
        return table

    def encoded(self, table: pa.Table) -> Iterator[bytes]:
        """Rows of the `whole` as DataRow messages."""
        for batch in table.combine_chunks().to_batches(_BATCH_ROWS):
            yield encode(batch, self.columns, self._binary)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            self.close()
            raise translate(error) from error
        except pa.ArrowException as error:  # DuckDB's error, on its way through Arrow
            self.close()
            raise translate(_duckdb_error(error)) from error

    def _next(self) -> pa.RecordBatch | None:
        batch, self._rest = self._rest, None
        while batch is None or not batch.num_rows:
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                return None
        return batch

    def _start(self, binary: Sequence[bool]) -> None:
        self._binary = binary
        names = [f"c{number}" for number in range(len(self.columns))]
        values = [
            column.sql(name, is_binary)
            for name, column, is_binary in zip(names, self.columns, binary, strict=True)
        ]
        sql = self._sql
        pairs = zip(self.columns, binary, strict=True)
        if not all(column.is_native(is_binary) for column, is_binary in pairs):
            # The line break ends a comment at the statement's end.
            inside = self._sql.strip().rstrip(";")
            sql = f"SELECT {', '.join(values)} FROM (\n{inside}\n) AS t({', '.join(names)})"
        self._reader = self._cursor.sql(sql).to_arrow_reader(_BATCH_ROWS)

    def interrupt(self) -> None:
        with suppress(duckdb.Error):
            self._cursor.interrupt()

    def close(self) -> None:
        self.done = True
        self._reader = self._rest = None
        with suppress(duckdb.Error):
            self._cursor.close()


def _duckdb_error(error: pa.ArrowException) -> duckdb.Error:
    text = str(error)
    kind = duckdb.InterruptException if "INTERRUPT" in text.upper() else duckdb.OperationalError
    return kind(text)
