"""Run files: what a run logged, as JSON lines, append-only. They are the truth; the database is
derived from them. The format is on one page in ``docs/run-file.md``.

The reader survives files that end anywhere (a killed run), lines that are no JSON, and lines that
are JSON but not ours: it keeps what it understands and says what it left out.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flordb.errors import RunFileError

FORMAT = 1

# `value_type` in the table `logs`.
NULL, BOOL, INT, FLOAT, STR, JSON, REF, REPR = range(8)

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1

_LEFT_OUT = (
    "Nothing was taken from it. Remove it, and flordb reads the one that was committed to the "
    "flor/ branch, if there is one."
)


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
        if _SMALLEST <= value <= _LARGEST:
            return {"v": value}
        return {"v": str(value), "y": "int"}
    if value is None or kind is bool or kind is str:
        return {"v": value}
    if kind in (list, dict):
        try:
            return {"v": json.loads(json.dumps(value, allow_nan=False))}
        except (TypeError, ValueError, RecursionError):
            # NaN inside, or a value JSON does not know: keep what can be kept, as text.
            return {"v": _text(value), "y": "json"}
    return {"v": repr(value), "y": "repr"}


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
            return int(value)  # type: ignore[arg-type]
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
            return str(value), INT, float(int(value))  # type: ignore[arg-type]
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
        return str(value), INT, float(value)
    if isinstance(value, float):
        return repr(value), FLOAT, value
    if isinstance(value, str):
        return value, STR, None
    return json.dumps(value), JSON, None


@dataclass(frozen=True)
class RunFile:
    """One run file, read.

    ``header``: its first line. ``lines``: the others that are ours, in order. ``problems``: for
    each line left out, its number (from 1) and why. ``torn``: the last line was cut off.
    """

    path: Path
    header: dict[str, Any]
    lines: list[dict[str, Any]]
    problems: list[tuple[int, str]] = field(default_factory=list)
    torn: bool = False

    def of_kind(self, *kinds: str) -> Iterator[dict[str, Any]]:
        return (line for line in self.lines if line["k"] in kinds)

    @property
    def is_replay(self) -> bool:
        return bool(self.header["k"] == "replay")


def read_bytes(path: Path) -> bytes:
    """The text of a run file, whether compressed or not; what is left of a cut-off gzip file."""
    if path.suffix != ".gz":
        return path.read_bytes()
    parts: list[bytes] = []
    with gzip.open(path) as file:
        try:
            while part := file.read(1 << 20):
                parts.append(part)
        except (EOFError, OSError):
            pass  # cut off or damaged: what was read before it is whole
    return b"".join(parts)


def read_run(path: Path) -> RunFile:
    """Read a run file. Raises RunFileError where its first line is not a run's, OSError as open."""
    return parse_run(read_bytes(path), path)


def parse_run(data: bytes, path: Path) -> RunFile:
    """Read a run file's text; ``path`` names it in messages."""
    raw = data.split(b"\n")
    torn = raw.pop() != b""
    if not raw:
        raise RunFileError(
            f"{path}: no complete line; it is not a flordb run file or was cut off. {_LEFT_OUT}"
        )
    header = _header(raw[0], path)
    lines: list[dict[str, Any]] = []
    problems: list[tuple[int, str]] = []
    check = _Checker()
    for number, text in enumerate(raw[1:], start=2):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            problems.append((number, "not JSON"))
            continue
        why = check(line)
        if why:
            problems.append((number, why))
        else:
            lines.append(line)
    return RunFile(path, header, lines, problems, torn)


def _header(text: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("k") not in ("run", "replay"):
        raise RunFileError(f"{path}, line 1: not the first line of a flordb run file. {_LEFT_OUT}")
    version = header.get("flor")
    if not isinstance(version, int) or version > FORMAT:
        raise RunFileError(
            f"{path}: run file format {version!r}; this flordb reads up to {FORMAT}. "
            "Upgrade flordb."
        )
    for key in ("projid", "tstamp", "filename"):
        if not isinstance(header.get(key), str):
            raise RunFileError(f"{path}, line 1: the run has no {key}. Nothing was taken from it.")
    return header


class _Checker:
    """Says why a line is not to be used, or nothing. Contexts must be defined before their use."""

    def __init__(self) -> None:
        self.contexts = {0}

    def __call__(self, line: Any) -> str | None:
        if not isinstance(line, dict):
            return "not a JSON object"
        kind = line.get("k")
        if kind == "log":
            if not isinstance(line.get("n"), str):
                return "a log line without a name"
            if line.get("c", 0) not in self.contexts:
                return f"a log line in context {line.get('c')!r}, which no line defines"
            return _check_value(line)
        if kind == "ctx":
            return self._context(line)
        if not isinstance(kind, str):
            return "no kind"
        return None

    def _context(self, line: dict[str, Any]) -> str | None:
        number, parent = line.get("c"), line.get("p", 0)
        if not isinstance(number, int) or number < 1 or number in self.contexts:
            return f"a context numbered {number!r}"
        if parent not in self.contexts:
            return f"a context in context {parent!r}, which no line defines"
        if not isinstance(line.get("l"), str) or not isinstance(line.get("i"), int):
            return "a context without a loop or an index"
        if not isinstance(line.get("e", 0), int):
            return "a context whose loop entry is no number"
        self.contexts.add(number)
        return None


def _check_value(line: dict[str, Any]) -> str | None:
    try:
        value_columns(line)
        decode_value(line)
    except (TypeError, ValueError, OverflowError):
        return f"a value that is no {line.get('y')}"
    return None


def dump_line(line: dict[str, Any]) -> str:
    """A line of a run file, with its newline."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"
