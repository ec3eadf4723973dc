"""DataRow messages from Arrow batches, column by column with NumPy rather than value by value."""

from __future__ import annotations

import datetime
import struct
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from flordb.serve.pg.types import Column, Type

_EPOCH = datetime.datetime(2000, 1, 1)
_MICROSECOND = datetime.timedelta(microseconds=1)
_HEAD_BYTES = 7  # 'D', the length, the number of columns
_INSTANT_UNITS = {"timestamp", "timestamptz"}


class Field:
    """The values of a column in a batch: their bytes one after another, and how many each has
    (-1: NULL)."""

    def __init__(self, data: Any, lengths: Any) -> None:
        self.data = data
        self.lengths = lengths


def encode(batch: pa.RecordBatch, columns: Sequence[Column], binary: Sequence[bool]) -> bytes:
    """The rows of a batch as DataRow messages.

    Parameters: ``batch``, whose columns are what `Column.sql` made; ``binary``, the format of each.
    """
    count = batch.num_rows
    fields = [
        _field(array, column, is_binary)
        for array, column, is_binary in zip(batch.columns, columns, binary, strict=True)
    ]
    sizes = np.full(count, _HEAD_BYTES, np.int64)
    for field in fields:
        sizes += 4 + np.maximum(field.lengths, 0)
    starts = np.zeros(count, np.int64)
    np.cumsum(sizes[:-1], out=starts[1:])
    out: Any = np.empty(int(sizes.sum()), np.uint8)
    out[starts] = ord("D")
    _put(out, starts + 1, (sizes - 1).astype(">i4"))
    _put(out, starts + 5, np.full(count, len(fields), ">i2"))
    at = starts + _HEAD_BYTES
    for field in fields:
        _put(out, at, field.lengths.astype(">i4"))
        at += 4
        _put_all(out, at, field)
        at += np.maximum(field.lengths, 0)
    return bytes(out)


def _put(out: Any, at: Any, values: Any) -> None:
    """Write numbers of one size to these places, wherever they are."""
    if not len(values):
        return
    places = len(out) - values.dtype.itemsize + 1
    np.ndarray((places,), values.dtype, buffer=out, strides=(1,))[at] = values


def _put_all(out: Any, at: Any, field: Field) -> None:
    """Write bytes of any number to these places."""
    lengths = np.maximum(field.lengths, 0)
    if not len(lengths) or not len(field.data):
        return
    width = int(lengths[0])
    if width in _WORDS and (lengths == width).all():
        _put(out, at, np.ascontiguousarray(field.data).view(_WORDS[width]))
        return
    begins = np.cumsum(lengths)
    begins -= lengths
    places: Any = np.repeat(at - begins, lengths)
    places += np.arange(len(places))
    out[places] = field.data


_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def _field(array: pa.Array, column: Column, binary: bool) -> Field:
    if not binary:
        return _bytes(array)
    packed = column.type.packed
    if packed == "bytes":
        return _bytes(array)
    if packed == "numeric":
        return _values([_numeric(v) if v is not None else None for v in array.to_pylist()])
    if packed == "interval":
        return _values([_interval(v) if v is not None else None for v in array.to_pylist()])
    if packed == "array":
        assert column.element is not None
        element = column.element
        return _values([_array(v, element) if v is not None else None for v in array.to_pylist()])
    return _numbers(array, np.dtype(packed))


def _numbers(array: pa.Array, kind: np.dtype[Any]) -> Field:
    valid = _valid(array)
    values = array.fill_null(0) if array.null_count else array
    data = values.to_numpy(zero_copy_only=False).astype(kind)
    lengths: Any = np.full(len(array), kind.itemsize, np.int64)
    if valid is not None:
        lengths[~valid] = -1
        data = data[valid]
    return Field(data.view(np.uint8), lengths)


def _bytes(array: pa.Array) -> Field:
    """Of strings, bytes, or integers as text."""
    if pa.types.is_null(array.type):
        return Field(np.empty(0, np.uint8), np.full(len(array), -1, np.int64))
    if pa.types.is_integer(array.type):
        array = array.cast(pa.large_string())
    plain = array.cast(pa.large_binary()) if not pa.types.is_large_binary(array.type) else array
    _, offsets_buffer, data_buffer = plain.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[plain.offset : plain.offset + len(plain) + 1]
    lengths = np.diff(offsets)
    begin, end = int(offsets[0]), int(offsets[-1])
    data = (
        np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.empty(0, np.uint8)
    )
    data = data[begin:end]
    valid = _valid(array)
    if valid is not None:
        if lengths[~valid].any():  # bytes under a NULL
            data = data[np.repeat(valid, lengths)]
        lengths[~valid] = -1
    return Field(data, lengths)


def _valid(array: pa.Array) -> Any:
    if not array.null_count:
        return None
    return array.is_valid().to_numpy(zero_copy_only=False)


def _values(values: Sequence[bytes | None]) -> Field:
    lengths = np.array([-1 if v is None else len(v) for v in values], np.int64)
    joined = b"".join(v for v in values if v is not None)
    return Field(np.frombuffer(joined, np.uint8), lengths)


def _numeric(text: str) -> bytes:
    """PostgreSQL's numeric: digits of base 10,000."""
    value = Decimal(text)
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    whole = "".join(map(str, digits)) + "0" * max(0, exponent)
    before, after = (whole[:-scale], whole[-scale:].rjust(scale, "0")) if scale else (whole, "")
    before = before.rjust(-(-len(before) // 4) * 4, "0")
    after = after.ljust(-(-len(after) // 4) * 4, "0")
    groups = [int((before + after)[i : i + 4]) for i in range(0, len(before + after), 4)]
    weight = len(before) // 4 - 1
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    head = struct.pack("!HhHH", len(groups), weight if groups else 0, 0x4000 * sign, scale)
    return head + struct.pack(f"!{len(groups)}H", *groups)


def _interval(value: Any) -> bytes:
    return struct.pack("!qii", value.nanoseconds // 1000, value.days, value.months)


def _array(values: Sequence[Any], element: Type) -> bytes:
    """PostgreSQL's array of one dimension."""
    parts = [_element(v, element) if v is not None else None for v in values]
    has_null = any(part is None for part in parts)
    head = struct.pack("!iiI", 1 if parts else 0, int(has_null), element.oid)
    if parts:
        head += struct.pack("!ii", len(parts), 1)
    body = [
        struct.pack("!i", -1) if part is None else struct.pack("!i", len(part)) + part
        for part in parts
    ]
    return head + b"".join(body)


def _element(value: Any, kind: Type) -> bytes:
    if kind.packed == "numeric":
        return _numeric(str(value))
    if kind.packed == "bytes":
        return value.bytes if hasattr(value, "bytes") else str(value).encode()
    if kind.name in _INSTANT_UNITS:
        passed = value.replace(tzinfo=None) - _EPOCH
        return struct.pack("!q", passed // _MICROSECOND)
    if kind.name == "date":
        return struct.pack("!i", value.toordinal() - 730120)
    if kind.name == "time":
        seconds = (value.hour * 60 + value.minute) * 60 + value.second
        return struct.pack("!q", seconds * 1_000_000 + value.microsecond)
    number: bytes = np.array(value, np.dtype(kind.packed)).tobytes()
    return number
