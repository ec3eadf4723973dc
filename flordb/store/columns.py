"""What run files say about contexts (`contexts`) and values (`values`) becomes arrays, thousands of
rows at a time; here is what both need to know of single values.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from flordb.store import names
from flordb.store.encoding import BOOL, FLOAT, INT, JSON, NULL

SMALLEST, LARGEST = -(2**63), 2**63 - 1
EXACT = 2**53
"""Integers below it are what a double holds exactly."""

Array = Any


def clean(text: str) -> str:
    """A text that SQL can hold: JSON admits halves of surrogate pairs and the character 0."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def texts(values: list[Any], type_: pa.DataType) -> pa.Array:
    """An array, with texts cleaned where Arrow refuses them."""
    try:
        return pa.array(values, type_)
    except UnicodeEncodeError:
        return pa.array([v and clean(v) for v in values], type_)


def numeric(type_: Array) -> Array:
    """Which values of these types have a number."""
    return (type_ == BOOL) | (type_ == INT) | (type_ == FLOAT)


_KINDS = {NULL: names.NULLS, BOOL: names.BOOL, FLOAT: names.FLOAT, JSON: names.NESTED}


def kind(type_: int, number: float | None, text: str | None) -> int:
    """The kind (flordb/store/names.py) of a value."""
    if type_ != INT:
        return _KINDS.get(type_, names.TEXT)
    if number is not None and abs(number) < EXACT:
        return names.EXACT
    if text is None or "x" in text:
        return names.FLOAT
    value = int(text)
    if SMALLEST <= value <= LARGEST:
        return names.INT64
    return names.INT128 if -(2**127) <= value < 2**127 else names.FLOAT


def needed_text(text: str | None, type_: int, number: float | None) -> str | None:
    """A value's text, where its type and its number do not give it."""
    if type_ in (BOOL, FLOAT) or (type_ == INT and number is not None and abs(number) < EXACT):
        return None
    return text if text is None else clean(text)
