"""A session's settings: those that PostgreSQL's clients set and ask for, and two of our own."""

from __future__ import annotations

import math
import time

from flordb.query.options import Assignment, assigned
from flordb.serve.pg.errors import SessionError
from flordb.settings import Settings, seconds_of

SERVER_VERSION = "15.0"
"""The version that clients take us for: it decides which catalog queries they send."""

# What is told to each client at its start, and what it may ask for.
REPORTED = {
    "server_version": SERVER_VERSION,
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "application_name": "",
    "default_transaction_read_only": "on",
    "in_hot_standby": "off",
    "is_superuser": "off",
    "session_authorization": "flor",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
}
_OTHERS = {
    "bytea_output": "hex",
    "default_transaction_isolation": "read committed",
    "default_table_access_method": "heap",
    "extra_float_digits": "1",
    "jit": "off",
    "lc_collate": "C",
    "lc_ctype": "C",
    "max_identifier_length": "63",
    "max_index_keys": "32",
    "role": "none",
    "search_path": "main",
    "server_version_num": "150000",
    "ssl": "on",
    "statement_timeout": "0",
    "transaction_isolation": "read committed",
    "transaction_read_only": "on",
}
_FIXED = frozenset(
    {
        *("server_version", "server_version_num", "server_encoding", "is_superuser"),
        *("integer_datetimes", "in_hot_standby", "max_identifier_length", "max_index_keys"),
        *("transaction_read_only", "default_transaction_read_only", "session_authorization"),
    }
)


class Variables:
    """What SET, SHOW, RESET and DISCARD ALL are about. ``settings`` are flordb's own."""

    def __init__(self, settings: Settings, given: dict[str, str]) -> None:
        self._first_settings = self.settings = settings
        self._defaults = {k.lower(): v for k, v in (REPORTED | _OTHERS).items()}
        known = {k.lower(): v for k, v in given.items() if k.lower() not in _FIXED}
        self._first = {**self._defaults, **known}
        self.values = dict(self._first)
        self._timeout = _timeout(self.values["statement_timeout"])

    def deadline(self) -> float:
        """When a statement that begins now is to be cancelled, by time.monotonic."""
        return time.monotonic() + self._timeout if self._timeout else math.inf

    def set(self, name: str, value: str) -> None:
        """Raises SessionError, ProgrammingError for what cannot be set, or not to that."""
        if name.startswith("flor_"):
            option = Assignment(name.removeprefix("flor_"), value)
            if value.lower() == "default":
                option = Assignment(option.name, None)
            self.settings = assigned(self.settings, self._first_settings, option)
        elif value.lower() == "default":
            self.reset(name)
        elif name == "client_encoding" and value.upper().replace("-", "") not in (
            *("UTF8", "UNICODE", "SQL_ASCII"),
        ):
            raise SessionError("22023", f"the server speaks UTF8, not {value}")
        elif name in _FIXED and value.lower() != self.values[name].lower():
            raise SessionError("55P02", f"{name} cannot be changed")
        elif name == "statement_timeout":
            self._timeout = _timeout(value)
            self.values[name] = value
        elif name:
            self.values[name] = value

    def show(self, name: str) -> str:
        """Raises SessionError where there is no such setting."""
        if name == "flor_budget":
            return f"{self.settings.budget_seconds:g} s"
        if name == "flor_acquire":
            return self.settings.acquire
        if name not in self.values:
            raise SessionError("42704", f"unrecognized configuration parameter {name!r}")
        return self.values[name]

    def reset(self, name: str) -> None:
        if name.startswith("flor_"):
            self.set(name, "default")
        elif name == "all":
            self.values = dict(self._first)
            self._timeout = _timeout(self.values["statement_timeout"])
            self.settings = self._first_settings
        elif name in self._first:
            self.set(name, self._first[name])
        else:
            self.values.pop(name, None)


def _timeout(value: str) -> float:
    """The seconds of a timeout, which is in milliseconds where it has no unit. Raises
    SessionError."""
    text = value.strip().lower()
    try:
        if text.endswith("ms") or text.isdigit():
            return float(text.removesuffix("ms")) / 1000
        return seconds_of(text)
    except ValueError as error:
        raise SessionError("22023", f"statement_timeout: {error}") from None
