"""The text of a pivot, once worked out by ``sql/pivot.sql``, as long as the catalog is the same.

Working it out takes DuckDB some ten milliseconds, which is more than most queries take.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from flordb.query.facts import Tables


@lru_cache(maxsize=32)
def _texts(catalog: str) -> dict[tuple[str, ...], str]:
    """Texts by list of names, of a catalog with this digest."""
    return {}


_MOST = 1_000


def relation(tables: Tables, names: Sequence[str]) -> str:
    """A subquery that is ``flor_pivot([names])``, in the catalog attached to the connection.

    It holds for this statement only: what a view stores must be the macro itself.
    """
    known = _texts(tables.catalog) if tables.catalog is not None else {}
    key = tuple(names)
    if key not in known:
        quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
        sql = f"SELECT flor_pivot_sql([{quoted}]::VARCHAR[])"
        ((text,),) = tables.rows(sql)
        if len(known) >= _MOST:
            known.clear()
        known[key] = text
    return f"({known[key]})"
