"""The tables, as ``sql/`` defines them, and what `flor_pivot` must know about their contents."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa
from xxhash import xxh3_128_hexdigest

from flordb.store import ingest, layout, names
from flordb.store.batch import Numbers
from flordb.store.schema import SCHEMA_VERSION, first_row, script


def create(db: duckdb.DuckDBPyConnection) -> None:
    db.execute("BEGIN")
    db.execute(script("tables.sql") or "")
    db.execute("INSERT INTO meta VALUES ('schema', ?)", [SCHEMA_VERSION])
    db.execute(names.macro(names.catalog({0: ()}, [], {}, False, set())))
    db.execute(script("pivot.sql") or "")
    db.execute("COMMIT")


def is_described(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether `redescribe` was ever called, as new tables need it."""
    return first_row(db, "SELECT 1 FROM meta WHERE key = 'catalog'") is not None


def redescribe(
    db: duckdb.DuckDBPyConnection, numbers: Numbers, kinds: ingest.Kinds, ranked: bool
) -> None:
    """Define ``logs``, ``loops``, ``flor``, what ``flor_pivot`` knows, and `names`, anew where they
    changed; within a transaction."""
    by_name: dict[int, dict[int, int]] = {}
    for (name_id, nest), bits in kinds.names.items():
        by_name.setdefault(name_id, {})[nest] = bits
    # A name has its number when its file is read, and no column before its values are there.
    found = [
        names.Name(id_, name, by_name[id_]) for name, id_ in numbers.names.items() if id_ in by_name
    ]
    nests = {id_: loops for loops, id_ in numbers.nests.items()}
    tables = layout.Tables(db)
    for nest, loops in nests.items():
        tables.create(nest, len(loops), ["rank"] if ranked else [])
    repeated = {nest for nest in nests if tables.has(nest, "ordinal")}
    content = names.catalog(nests, found, kinds.loops, ranked, repeated)
    optional = [(nest, sorted(tables.columns[nest] & layout.OPTIONAL.keys())) for nest in nests]
    written = repr((content, optional)).encode("utf-8", "surrogatepass")
    digest = xxh3_128_hexdigest(written)
    before = first_row(db, "SELECT value FROM meta WHERE key = 'catalog'")
    if before == (digest,):
        return
    _write_kinds(db, kinds)
    _write_names(db, found, nests, content)
    wide: dict[int, list[int]] = {}
    for (name_id, nest), bits in kinds.names.items():
        if bits & names.WIDE:
            wide.setdefault(nest, []).append(name_id)
    for statement in layout.views(tables, nests, wide):
        db.execute(statement)
    db.execute(names.macro(content))
    (text,) = db.execute("SELECT flor_pivot_sql(NULL)").fetchall()[0]
    db.execute(f"CREATE OR REPLACE VIEW flor AS {text}")
    db.execute("INSERT OR REPLACE INTO meta VALUES ('catalog', ?)", [digest])


def _write_kinds(db: duckdb.DuckDBPyConnection, kinds: ingest.Kinds) -> None:
    rows = [(name, nest, bits) for (name, nest), bits in kinds.names.items()]
    table = pa.table([pa.array([r[i] for r in rows], pa.int32()) for i in range(3)], list("abc"))
    db.execute("DELETE FROM name_kinds")
    layout.append(db, "name_kinds", table.rename_columns(["name_id", "nest_id", "bits"]))
    db.execute("DELETE FROM loop_kinds")
    for row in kinds.loops.items():
        db.execute("INSERT INTO loop_kinds VALUES (?, ?)", row)


def _write_names(
    db: duckdb.DuckDBPyConnection,
    found: list[names.Name],
    nests: dict[int, tuple[str, ...]],
    content: dict[str, Any],
) -> None:
    labels = {c["id"]: c["label"] for c in content["columns"] if c["kind"] == "name"}
    rows = [
        {
            "name_id": name.id,
            "name": name.name,
            "type": names.sql_type(name.bits),
            "nests": sorted(list(nests[nest]) for nest in name.kinds),
            "column_name": labels[name.id],
        }
        for name in found
    ]
    schema = pa.schema(
        [
            ("name_id", pa.int32()),
            ("name", pa.string()),
            ("type", pa.string()),
            ("nests", pa.list_(pa.list_(pa.string()))),
            ("column_name", pa.string()),
        ]
    )
    db.execute("DELETE FROM names")
    layout.append(db, "names", pa.Table.from_pylist(rows, schema=schema))
    db.execute("DELETE FROM nests")
    for row in nests.items():
        db.execute("INSERT INTO nests VALUES (?, ?)", [row[0], list(row[1])])
