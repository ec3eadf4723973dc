"""The database's name in a connection, the files of ``sql/``, and which of them made a database."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
from xxhash import xxh3_128_hexdigest

CATALOG = "flordb"
"""What the database is called in a connection, and in the DuckDB shell (after its file)."""

_LAYOUT = "5"
"""Of the tables that are made as they are needed, see `layout`: a number for each change."""


def first_row(db: duckdb.DuckDBPyConnection, query: str, *parameters: Any) -> Any:
    """The first row of a query's result, or None. Reads it to its end: DuckDB 2 refuses to do
    other things on a connection with a result that was only begun."""
    rows = db.execute(query, parameters).fetchall()
    return rows[0] if rows else None


def schema_version(db: duckdb.DuckDBPyConnection) -> str | None:
    try:
        row = first_row(db, f"SELECT value FROM {CATALOG}.meta WHERE key = 'schema'")
    except duckdb.CatalogException:
        return None
    return row[0] if row else None


def script(name: str) -> str | None:
    """A file of ``sql/``, None where there is none of this name.

    The package is found but not imported: importing it would put it in the place of the function
    `flordb.sql`.
    """
    found = find_spec("flordb.sql")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).with_name(name)
    return path.read_text(encoding="utf-8") if path.is_file() else None


_DEFINED = "".join(script(name) or "" for name in ("tables.sql", "pivot.sql"))
SCHEMA_VERSION = f"{_LAYOUT}-{xxh3_128_hexdigest(_DEFINED.encode())[:8]}"
"""What the database says that it was made by. Another one's is made anew from the run files."""
