"""The parameters of a prepared statement, put into its text as literals.

PostgreSQL decides a parameter's type where it stands; DuckDB's string literals do just that, so
a parameter of unknown type becomes one. The statement that results is checked and planned as any.
"""

from __future__ import annotations

import datetime
import re
import struct
import uuid
from collections.abc import Iterator, Sequence
from decimal import Decimal

from flordb.serve.engine import quoted
from flordb.serve.pg import types

_EPOCH = datetime.datetime(2000, 1, 1)
_INTEGERS = {21: "!h", 23: "!i", 20: "!q", 26: "!I"}
_FLOATS = {700: "!f", 701: "!d"}
_SQL_TYPES = {
    16: "BOOLEAN",
    17: "BLOB",
    114: "JSON",
    700: "FLOAT",
    701: "DOUBLE",
    1082: "DATE",
    1083: "TIME",
    1114: "TIMESTAMP",
    1184: "TIMESTAMPTZ",
    1186: "INTERVAL",
    2950: "UUID",
}
# What a dollar sign can be part of, besides a parameter: strings, names, comments.
_TOKENS = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/"""
    r"""|\$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$|\$(?P<number>\d{1,5})\b|[A-Za-z_][\w$]*""",
    re.DOTALL,
)
_NUMBER = re.compile(r"[+-]?\d+")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")


_ELEMENTS = {kind.array: oid for oid, kind in types.BY_OID.items()}
_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^",]+)')


class ParameterError(Exception):
    """A parameter that is none, or whose value is not of its type."""


def positions(sql: str) -> list[tuple[int, int, int]]:
    """(start, end, number) of each ``$1`` in a statement."""
    found = []
    for token in _TOKENS.finditer(sql):
        if token["number"]:
            found.append((token.start(), token.end(), int(token["number"])))
    return found


def declared(sql: str) -> dict[int, int]:
    """Number to type of the parameters that are cast where they stand: ``$1::int``."""
    found = {}
    for _, end, number in positions(sql):
        cast = _CAST.match(sql, end)
        oid = _NAMES.get(cast[1].lower()) if cast is not None else None
        if cast is not None and oid is not None:
            found[number] = types.BY_OID[oid].array if cast[2] else oid
    return found


_CAST = re.compile(r"\s*::\s*(?:pg_catalog\.)?(\w+(?:\s+precision)?)(\s*\[\])?(?![\w(])", re.I)
# SQL's names of types, beside PostgreSQL's own.
_NAMES = {kind.name: oid for oid, kind in types.BY_OID.items()} | {
    "boolean": 16,
    "bytea": 17,
    "blob": 17,
    "bigint": 20,
    "smallint": 21,
    "int": 23,
    "integer": 23,
    "varchar": 25,
    "string": 25,
    "real": 700,
    "float": 700,
    "double": 701,
    "double precision": 701,
    "decimal": 1700,
    "datetime": 1114,
}


def bound(sql: str, values: Sequence[str]) -> str:
    """The statement with SQL in place of each parameter. Raises ParameterError."""
    for start, end, number in reversed(positions(sql)):
        if not 0 < number <= len(values):
            raise ParameterError(f"there is no parameter ${number}")
        sql = sql[:start] + values[number - 1] + sql[end:]
    return sql


def literal(value: bytes | None, oid: int, binary: bool) -> str:
    """A parameter's value as SQL. Raises ParameterError."""
    if value is None:
        return "NULL"
    try:
        return _typed(_text(value, oid) if binary else value.decode(), oid)
    except (struct.error, ValueError, UnicodeDecodeError, OverflowError) as error:
        raise ParameterError(f"a parameter of type {oid} cannot be read: {error}") from error


def _typed(text: str, oid: int) -> str:
    if "\0" in text:
        raise ParameterError("a parameter with a zero byte")
    if oid in _INTEGERS:
        if not _NUMBER.fullmatch(text.strip()):
            raise ParameterError(f"{text!r} is no integer")
        number = int(text)
        return str(number) if number >= 0 else f"({number})"
    if oid == types.NUMERIC.oid and _DECIMAL.fullmatch(text.strip()):
        return f"({text.strip()})"
    if oid in _ELEMENTS:
        return f"[{', '.join(_elements(text, _ELEMENTS[oid]))}]"
    if oid in _SQL_TYPES:
        return f"CAST({quoted(text)} AS {_SQL_TYPES[oid]})"
    return quoted(text)


def _elements(text: str, oid: int) -> list[str]:
    """The elements of an array of one dimension, as SQL."""
    if not (text.startswith("{") and text.endswith("}")) or "{" in text[1:]:
        raise ParameterError(f"{text!r} is no array of one dimension")
    return [
        "NULL"
        if plain.upper() == "NULL"
        else _typed(plain or re.sub(r"\\(.)", r"\1", quoted_), oid)
        for quoted_, plain in _ELEMENT.findall(text[1:-1])
    ]


def _text(value: bytes, oid: int) -> str:
    """The text of a value in the binary format."""
    if oid in _ELEMENTS:
        return "{" + ",".join(_binary_elements(value, _ELEMENTS[oid])) + "}"
    if oid in _INTEGERS:
        return str(struct.unpack(_INTEGERS[oid], value)[0])
    if oid in _FLOATS:
        return repr(struct.unpack(_FLOATS[oid], value)[0])
    if oid == types.BOOL.oid:
        return "true" if value != b"\0" else "false"
    if oid == types.BYTEA.oid:
        return "".join(f"\\x{byte:02X}" for byte in value)
    if oid == types.DATE.oid:
        days = struct.unpack("!i", value)[0]
        return (_EPOCH + datetime.timedelta(days=days)).date().isoformat()
    if oid in (types.TIMESTAMP.oid, types.TIMESTAMPTZ.oid):
        moment = _EPOCH + datetime.timedelta(microseconds=struct.unpack("!q", value)[0])
        return moment.isoformat(sep=" ") + ("+00" if oid == types.TIMESTAMPTZ.oid else "")
    if oid == types.TIME.oid:
        moment = _EPOCH + datetime.timedelta(microseconds=struct.unpack("!q", value)[0])
        return moment.time().isoformat()
    if oid == types.UUID.oid:
        return str(uuid.UUID(bytes=value))
    if oid == types.NUMERIC.oid:
        return _numeric(value)
    return value.decode()


def _binary_elements(value: bytes, oid: int) -> Iterator[str]:
    """The elements of an array of one dimension in the binary format, as in its text."""
    dimensions = struct.unpack_from("!i", value)[0]
    if dimensions not in (0, 1):
        raise ParameterError("an array of more than one dimension")
    count = struct.unpack_from("!i", value, 12)[0] if dimensions else 0
    at = 20
    for _ in range(count):
        length = struct.unpack_from("!i", value, at)[0]
        at += 4
        if length < 0:
            yield "NULL"
            continue
        text = _text(value[at : at + length], oid)
        yield '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        at += length


def _numeric(value: bytes) -> str:
    count, weight, sign, scale = struct.unpack_from("!HhHH", value)
    if sign == 0xC000:
        return "NaN"
    digits = struct.unpack_from(f"!{count}H", value, 8)
    number = sum(
        (Decimal(d) * Decimal(10000) ** (weight - i) for i, d in enumerate(digits)), Decimal(0)
    )
    return f"{-number if sign == 0x4000 else number:.{scale}f}"
