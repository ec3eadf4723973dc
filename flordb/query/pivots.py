"""The text of a pivot, once worked out by ``sql/pivot.sql``, as long as the catalog is the same.

Working it out takes DuckDB some tens of milliseconds, which is more than most queries take. So the
texts are kept, for later processes in a file of the project's temporary folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from flordb.query.facts import Tables
from flordb.store.project import Project
from flordb.store.schema import SCHEMA_VERSION
from flordb.store.whole import write_whole

_MOST = 200
_MOST_CHARACTERS = 10_000
"""Of a text that is kept in the file: longer ones are of so many names that they run long, too."""


def relation(tables: Tables, names: Sequence[str], brief: bool = False) -> str:
    """A subquery that is ``flor_pivot([names])``, in the catalog attached to the connection.

    ``brief``: without the dimensions other than tstamp, where that saves work.

    It holds for this statement only: what a view stores must be the macro itself.
    """
    known = _texts(tables.catalog, tables.project) if tables.catalog is not None else {}
    key = json.dumps([brief, *names])
    if key not in known:
        quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
        sql = f"SELECT flor_pivot_sql([{quoted}]::VARCHAR[], brief := {brief})"
        ((text,),) = tables.rows(sql)
        if len(known) >= _MOST:
            known.clear()
        known[key] = text
        if tables.project is not None and len(text) <= _MOST_CHARACTERS:
            _keep(tables.project, tables.catalog, known)
    return f"({known[key]})"


@lru_cache(maxsize=32)
def _texts(catalog: str, project: Project | None) -> dict[str, str]:
    """Texts by list of names, of a catalog with this digest."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        if project is not None:
            kept = json.loads(_file(project).read_text(encoding="utf-8"))
            if (kept["schema"], kept["catalog"]) == (SCHEMA_VERSION, catalog):
                return dict(kept["texts"])
    return {}


def _keep(project: Project, catalog: str | None, known: dict[str, str]) -> None:
    """Write the file anew. Where that cannot be, the texts are worked out again another time."""
    short = {key: text for key, text in known.items() if len(text) <= _MOST_CHARACTERS}
    content = json.dumps({"schema": SCHEMA_VERSION, "catalog": catalog, "texts": short})
    with suppress(OSError):
        write_whole(_file(project), content.encode())


def _file(project: Project) -> Path:
    return project.store / "pivots.json"
