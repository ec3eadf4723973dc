"""A statement's result, held in memory: the store is let go of before the user looks at it."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from flordb.uncollected import uncollected


class Result:
    """A materialized result: an Arrow table and the description of its columns."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, relation: Any) -> None:
        self._connection = connection
        self.names: list[str] = list(relation.columns)
        self.types = list(relation.types)
        table = relation.to_arrow_table()
        # Columns of one name are allowed in a result, but not in a relation over it.
        self._table: pa.Table = table.rename_columns([f"c{n}" for n in range(len(self.names))])
        self._rows: list[tuple[Any, ...]] | None = None
        self.position = 0

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, sql: str, relation: Any) -> Result | None:
        """The result of a statement, None where the statement is none that has rows.

        DuckDB 2 gives one for each, 1.5 for those with rows.
        """
        result = cls(connection, relation)
        if result.names in (["Count"], ["Success"]) and not _has_rows(connection, sql):
            return None
        return result

    @property
    def description(self) -> list[tuple[Any, ...]]:
        return [
            (name, kind, None, None, None, None, None)
            for name, kind in zip(self.names, self.types, strict=True)
        ]

    @property
    def rowcount(self) -> int:
        return int(self._table.num_rows)

    def fetch(self, size: int | None) -> list[tuple[Any, ...]]:
        """The next rows, as Python values; all that are left where ``size`` is None."""
        if self._rows is None:
            self._rows = self._relation().fetchall()
        end = len(self._rows) if size is None else self.position + size
        rows = self._rows[self.position : end]
        self.position += len(rows)
        return rows

    def table(self) -> pa.Table:
        return self._table.rename_columns(self.names)

    def frame(self) -> Any:
        """The result as a pandas DataFrame, with DuckDB's own conversions."""
        with uncollected():  # the first time it imports pandas
            frame = self._relation().df()
        frame.columns = self.names
        return frame

    def chunk(self, count: int) -> Any:
        """The next rows as a pandas DataFrame; those that were fetched are not among them."""
        frame = self._relation().limit(count, offset=self.position).df()
        frame.columns = self.names
        self.position += len(frame)
        return frame

    def numpy(self) -> Any:
        arrays = self._relation().fetchnumpy()
        # Of columns of one name the last is kept, as in DuckDB.
        return {name: arrays[f"c{n}"] for n, name in enumerate(self.names)}

    def head(self, count: int) -> list[tuple[Any, ...]]:
        """The first rows as Python values; what was fetched does not matter."""
        rows: list[tuple[Any, ...]] = self._relation().limit(count).fetchall()
        return rows

    def drawn(self) -> str:
        """The first rows as a table of text, as wide as the terminal."""
        table = self._table if len(set(self.names)) < len(self.names) else self.table()
        return str(self._connection.from_arrow(table))

    def polars(self) -> Any:
        frame = self._relation().pl()
        frame.columns = self.names
        return frame

    def _relation(self) -> Any:
        relation = self._connection.from_arrow(self._table)
        if relation.types == self.types:
            return relation
        # Arrow does not tell tuples from structs, nor enumerations from texts.
        pairs = enumerate(zip(self.types, relation.types, strict=True))
        casts = (f"c{n}" if own == has else f"c{n}::{own} AS c{n}" for n, (own, has) in pairs)
        return relation.project(", ".join(casts))


def _has_rows(connection: duckdb.DuckDBPyConnection, sql: str) -> bool:
    """Whether the last statement of a text is one that answers with rows."""
    found = connection.extract_statements(sql)
    return bool(found) and found[-1].type == duckdb.StatementType.SELECT
