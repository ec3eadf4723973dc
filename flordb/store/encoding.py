"""How values stand in the lines of run files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

# `value_type` in the table `logs`.
NULL, BOOL, INT, FLOAT, STR, JSON, REF, REPR = range(8)

SMALLEST, LARGEST = -(2**63), 2**63 - 1


def encode_value(value: Any) -> dict[str, Any]:
    """The fields of a log line for ``value``: ``v``, and ``y`` where JSON alone would lose it.

    ``value`` is None, bool, int, float, str, or a list or dict of those; anything else is kept as
    its ``repr`` (type ``repr``), so that nothing that was logged makes a run file unreadable.
    """
    kind = type(value)
    if kind is float:
        if math.isfinite(value):
            return {"v": value}
        return {"v": repr(value), "y": "float"}
    if kind is int:
        if SMALLEST <= value <= LARGEST:
            return {"v": value}
        return {"v": _digits(value), "y": "int"}
    if value is None or kind is bool or kind is str:
        return {"v": value}
    if kind in (list, dict):
        try:
            return {"v": json.loads(json.dumps(value, allow_nan=False))}
        except (TypeError, ValueError, RecursionError):
            # NaN inside, or a value JSON does not know: keep what can be kept, as text.
            return {"v": _text(value), "y": "json"}
    return {"v": repr(value), "y": "repr"}


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python refuses to write thousands of decimal digits
        return hex(value)


def _int(text: str) -> int:
    return int(text, 16) if "x" in text else int(text)


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _text(value: Any) -> str:
    try:
        return json.dumps(value, default=repr)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(repr(value))


def decode_value(line: dict[str, Any]) -> Any:
    """The Python value of a log line, as ``flor.log`` was given it (``repr`` texts stay texts)."""
    value = line.get("v")
    match line.get("y"):
        case "float":
            return float(value)  # type: ignore[arg-type]
        case "int":
            return _int(value)  # type: ignore[arg-type]
        case "json":
            return json.loads(value)  # type: ignore[arg-type]
        case _:
            return value


def value_columns(line: dict[str, Any]) -> tuple[str | None, int, float | None]:
    """(value as text, value_type, number) of a log line, as the table ``logs`` keeps them."""
    value = line.get("v")
    match line.get("y"):
        case "float":
            return str(value), FLOAT, float(value)  # type: ignore[arg-type]
        case "int":
            return str(value), INT, _as_float(_int(value))  # type: ignore[arg-type]
        case "json":
            return str(value), JSON, None
        case "ref":
            return str(value), REF, None
        case "repr":
            return str(value), REPR, None
    if value is None:
        return None, NULL, None
    if isinstance(value, bool):
        return ("true" if value else "false"), BOOL, float(value)
    if isinstance(value, int):
        return str(value), INT, _as_float(value)
    if isinstance(value, float):
        return repr(value), FLOAT, value
    if isinstance(value, str):
        return value, STR, None
    return json.dumps(value), JSON, None


def encode_column(values: Sequence[Any]) -> dict[str, Any]:
    """The fields of a ``logs`` line for several values: ``v``, and ``y`` by their positions in it.

    Each value is one that `encode_value` takes, or the fields that it gave for one.
    """
    texts: list[Any] = []
    types: dict[str, str] = {}
    for position, value in enumerate(values):
        fields = value if type(value) is Fields else encode_value(value)
        texts.append(fields["v"])
        if "y" in fields:
            types[str(position)] = fields["y"]
    return {"y": types, "v": texts} if types else {"v": texts}


class Fields(dict[str, Any]):
    """The fields ``v`` and ``y`` of a value that is encoded already."""


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dump_line(line: dict[str, Any]) -> str:
    """A line of a run file, with its newline."""
    return _encode(line) + "\n"
