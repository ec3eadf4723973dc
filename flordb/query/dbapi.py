"""The module of PEP 249: ``import flordb`` gives all of these names, too.

A connection must not be used by several threads at once without need: its statements wait for each
other. ``threadsafety`` is DuckDB's.
"""

from __future__ import annotations

from datetime import date, datetime, time
from typing import Any

from duckdb import BINARY, DATETIME, NUMBER, ROWID, STRING

from flordb.query.connecting import connect
from flordb.query.connection import Connection
from flordb.query.cursor import Cursor
from flordb.query.errors import (
    BudgetExceeded,
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    UnknownName,
    Warning,
)

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Binary",
    "BudgetExceeded",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "UnknownName",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "threadsafety",
]

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"

Date = date
Time = time
Timestamp = datetime


def DateFromTicks(ticks: float) -> date:
    """The local date at so many seconds since 1970."""
    return date.fromtimestamp(ticks)


def TimeFromTicks(ticks: float) -> time:
    """The local time of day at so many seconds since 1970."""
    return datetime.fromtimestamp(ticks).time()


def TimestampFromTicks(ticks: float) -> datetime:
    """The local time at so many seconds since 1970."""
    return datetime.fromtimestamp(ticks)


def Binary(value: Any) -> bytes:
    """Bytes, for a parameter of type BLOB."""
    return value.encode() if isinstance(value, str) else bytes(value)
