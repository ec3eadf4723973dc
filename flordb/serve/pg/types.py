"""Which PostgreSQL type each DuckDB type is, and the SQL that brings values into its formats.

DuckDB itself writes the text format, and reduces what the binary format wants to plain integers,
doubles and bytes: `flordb.serve.pg.rows` then only puts them side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_EPOCH_US = 946_684_800_000_000  # 2000-01-01, from which PostgreSQL counts
_LEAST, _MOST = "-9223372036854775808", "9223372036854775807"


@dataclass(frozen=True)
class Type:
    """A PostgreSQL type.

    ``size``: bytes of a value, -1 where they differ. ``text`` and ``binary``: SQL for a value in
    that format, with ``{}`` for the value (text: VARCHAR; binary: what ``packed`` reads).
    ``packed``: how `rows` writes the binary format: a NumPy type, ``bytes``, or a name there.
    ``array``: the OID of arrays of it.
    """

    name: str
    oid: int
    size: int
    array: int
    packed: str
    text: str = "{}::VARCHAR"
    binary: str = "{}"


_FLOAT = (
    "CASE WHEN isnan({0}) THEN 'NaN' WHEN isinf({0}) THEN if({0} > 0, 'Infinity', '-Infinity') "
    "ELSE {0}::VARCHAR END"
)
_INSTANT = (
    "CASE WHEN {0} IS NULL THEN NULL WHEN isfinite({0}) THEN epoch_us({0}) - "
    + str(_EPOCH_US)
    + " "
    "WHEN {0} > '2000-01-01' THEN " + _MOST + " ELSE " + _LEAST + " END"
)

BOOL = Type(
    "bool",
    16,
    1,
    1000,
    ">u1",
    "CASE {0} WHEN true THEN 't' WHEN false THEN 'f' END",
    "{}::UTINYINT",
)
BYTEA = Type("bytea", 17, -1, 1001, "bytes", r"'\x' || lower(hex({}))")
INT8 = Type("int8", 20, 8, 1016, ">i8", binary="{}::BIGINT")
INT2 = Type("int2", 21, 2, 1005, ">i2", binary="{}::SMALLINT")
INT4 = Type("int4", 23, 4, 1007, ">i4", binary="{}::INTEGER")
TEXT = Type("text", 25, -1, 1009, "bytes", binary="{}::VARCHAR")
JSON = Type("json", 114, -1, 199, "bytes", "to_json({})::VARCHAR", "to_json({})::VARCHAR")
FLOAT4 = Type("float4", 700, 4, 1021, ">f4", _FLOAT)
FLOAT8 = Type("float8", 701, 8, 1022, ">f8", _FLOAT)
DATE = Type("date", 1082, 4, 1182, ">i4", binary="({}::DATE - DATE '2000-01-01')::INTEGER")
TIME = Type("time", 1083, 8, 1183, ">i8", binary="epoch_us({})")
TIMESTAMP = Type(
    *("timestamp", 1114, 8, 1115, ">i8", "{}::TIMESTAMP::VARCHAR"),
    _INSTANT.replace("{0}", "{0}::TIMESTAMP"),
)
TIMESTAMPTZ = Type("timestamptz", 1184, 8, 1185, ">i8", binary=_INSTANT)
INTERVAL = Type("interval", 1186, 16, 1187, "interval")
NUMERIC = Type("numeric", 1700, -1, 1231, "numeric", binary="{}::VARCHAR")
OID = Type("oid", 26, 4, 1028, ">u4")
UUID = Type("uuid", 2950, 16, 2951, "bytes", binary="unhex(replace({}::VARCHAR, '-', ''))")

_BY_ID = {
    "boolean": BOOL,
    "tinyint": INT2,
    "smallint": INT2,
    "utinyint": INT2,
    "integer": INT4,
    "usmallint": INT4,
    "bigint": INT8,
    "uinteger": INT8,
    "ubigint": NUMERIC,
    "hugeint": NUMERIC,
    "uhugeint": NUMERIC,
    "bignum": NUMERIC,
    "decimal": NUMERIC,
    "float": FLOAT4,
    "double": FLOAT8,
    "varchar": TEXT,
    "blob": BYTEA,
    "date": DATE,
    "time": TIME,
    "timestamp": TIMESTAMP,
    "timestamp_s": TIMESTAMP,
    "timestamp_ms": TIMESTAMP,
    "timestamp_ns": TIMESTAMP,
    "timestamp with time zone": TIMESTAMPTZ,
    "interval": INTERVAL,
    "uuid": UUID,
    "struct": JSON,
    "map": JSON,
    "union": JSON,
    "variant": JSON,
}
# Those whose values need no SQL: `rows` writes them as they come from DuckDB.
_NATIVE_TEXT = frozenset({"smallint", "integer", "bigint", "varchar"})
_NATIVE_BINARY = _NATIVE_TEXT | {"float", "double"}
BY_OID = {kind.oid: kind for kind in (*_BY_ID.values(), JSON, OID)}


@dataclass(frozen=True)
class Column:
    """A column of a result. ``element``: the type of an array's elements; ``duckdb``: what DuckDB
    calls its type."""

    name: str
    type: Type
    typmod: int = -1
    element: Type | None = None
    duckdb: str = ""

    def is_native(self, binary: bool) -> bool:
        """Whether the values are written as they come from DuckDB, without `sql`."""
        return self.duckdb in (_NATIVE_BINARY if binary else _NATIVE_TEXT)

    def sql(self, name: str, binary: bool) -> str:
        """SQL for the column's values in a format, where ``name`` is what they are called."""
        if self.is_native(binary):
            return name
        if self.element is not None:
            return name if binary else _array_text(name, self.element)
        return (self.type.binary if binary else self.type.text).format(name)


def column_of(name: str, duckdb_type: Any, is_catalog: bool = False) -> Column:
    """The column that a DuckDB type becomes. What PostgreSQL has no type for is text or JSON.

    ``is_catalog``: it is of PostgreSQL's catalog, where lists of BIGINT are lists of oids.
    """
    if str(duckdb_type) == "JSON":
        return Column(name, JSON)
    kind = duckdb_type.id
    if kind in ("list", "array"):
        inner = column_of(name, duckdb_type.children[0][1])
        if inner.element is not None or inner.type in (JSON, BYTEA, INTERVAL):
            return Column(name, JSON)
        if is_catalog and inner.type is INT8:
            inner = Column(name, OID)
        array = Type(f"_{inner.type.name}", inner.type.array, -1, 0, "array")
        return Column(name, array, -1, inner.type)
    if kind == "decimal":
        precision, scale = (int(value) for _, value in duckdb_type.children)
        return Column(name, NUMERIC, ((precision << 16) | scale) + 4)
    return Column(name, _BY_ID.get(kind, TEXT), duckdb=kind)


def _array_text(name: str, element: Type) -> str:
    value = element.text.format("x")
    if element.oid in (TEXT.oid, TIMESTAMP.oid, TIMESTAMPTZ.oid):
        value = rf"""'"' || replace(replace({value}, '\', '\\'), '"', '\"') || '"'"""
    inside = f"list_transform({name}, lambda x: CASE WHEN x IS NULL THEN 'NULL' ELSE {value} END)"
    return f"'{{' || array_to_string({inside}, ',') || '}}'"
