"""Run files: what a run logged, as JSON lines, append-only. They are the truth; the database is
derived from them. The format is on one page in ``docs/run-file.md``.

The reader survives files that end anywhere (a killed run), lines that are no JSON, and lines that
are JSON but not ours: it keeps what it understands and says what it left out.
"""

from __future__ import annotations

import json
import math
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import orjson

from flordb.errors import RunFileError

FORMAT = 2

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


def indexes(line: dict[str, Any]) -> Sequence[int]:
    """The indexes of the iterations that a ``ctxs`` line defines."""
    first = line["i"]
    return first if isinstance(first, list) else range(first, first + line["m"])


def contexts(line: dict[str, Any]) -> Sequence[int]:
    """The contexts of a ``logs`` line's values."""
    first = line.get("c", 0)
    return first if isinstance(first, list) else range(first, first + len(line["v"]))


def take_apart(line: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The ``ctx`` or ``log`` lines that a ``ctxs`` or ``logs`` line stands for; others as is."""
    if line["k"] == "ctxs":
        same = {"p": line.get("p", 0), "l": line["l"]} | ({"e": line["e"]} if "e" in line else {})
        for number, index in enumerate(indexes(line), start=line["c"]):
            own = {"k": "ctx", "c": number, **same, "i": index}
            if "r" in line:
                own["v"] = line["r"][0] + line["r"][1] * index
            yield own
    elif line["k"] == "logs":
        types = line.get("y", {})
        for position, (number, value) in enumerate(zip(contexts(line), line["v"], strict=True)):
            own = {"k": "log", "c": number, "n": line["n"], "v": value}
            if str(position) in types:
                own["y"] = types[str(position)]
            yield own
    else:
        yield line


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

    def singly(self) -> Iterator[dict[str, Any]]:
        """The lines, with those that stand for several contexts or values taken apart."""
        for line in self.lines:
            yield from take_apart(line)

    @property
    def is_replay(self) -> bool:
        return bool(self.header["k"] == "replay")


def read_bytes(path: Path) -> bytes:
    """The text of a run file, whether compressed or not; what is left of a cut-off gzip file.

    A run file is compressed once it is long, so ``x.jsonl`` may be ``x.jsonl.gz`` by now.
    """
    if path.suffix != ".gz":
        try:
            return path.read_bytes()
        except FileNotFoundError:
            path = compressed(path)
            if not path.exists():
                raise
    return decompress(path.read_bytes())


def compressed(path: Path) -> Path:
    """What a run file is called when it is compressed."""
    return path.with_name(path.name + ".gz")


def decompress(data: bytes) -> bytes:
    """The contents of a gzip file; where it is cut off or damaged, what stands before that."""
    parts: list[bytes] = []
    while data:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            parts.append(member.decompress(data))
        except zlib.error:
            parts.append(_before_the_damage(data))
            break
        data = member.unused_data
    return b"".join(parts)


def _before_the_damage(data: bytes) -> bytes:
    parts: list[bytes] = []
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        for start in range(0, len(data), 64):
            parts.append(member.decompress(data[start : start + 64]))
    except zlib.error:
        pass  # what was read before it is whole
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
            line = _loaded(text)
        except (ValueError, RecursionError):
            problems.append((number, "not JSON"))
            continue
        why = check(line)
        if why:
            problems.append((number, why))
            continue
        lines.append(line)
    return RunFile(path, header, lines, problems, torn)


def _loaded(text: bytes) -> Any:
    """A line. orjson is five times as fast, but takes huge integers for floats."""
    if text.startswith(b'{"k":"logs"'):
        try:
            line = orjson.loads(text)
        except ValueError:
            return json.loads(text)
        values = line.get("v")
        if isinstance(values, list) and text.count(b".") + text.count(b"e") >= len(values):
            return line
    return json.loads(text)


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


class _Spans:
    """A set of numbers that come mostly in order: (first, one past the last), sorted."""

    def __init__(self) -> None:
        self._starts = [0]
        self._stops = [1]

    def has(self, start: int, stop: int) -> bool:
        place = bisect_right(self._starts, start) - 1
        return place >= 0 and stop <= self._stops[place]

    def add(self, start: int, stop: int) -> bool:
        """Add numbers; False where one of them is there already."""
        place = bisect_right(self._starts, start)
        if place and self._stops[place - 1] > start:
            return False
        if place < len(self._starts) and self._starts[place] < stop:
            return False
        if place and self._stops[place - 1] == start:
            self._stops[place - 1] = stop
        else:
            self._starts.insert(place, start)
            self._stops.insert(place, stop)
        return True


class _Checker:
    """Says why a line is not to be used, or nothing. Contexts must be defined before their use."""

    def __init__(self) -> None:
        self._known = _Spans()

    def __call__(self, line: Any) -> str | None:
        if not isinstance(line, dict):
            return "not a JSON object"
        kind = line.get("k")
        if kind == "log":
            if not isinstance(line.get("n"), str):
                return "a log line without a name"
            return self._contexts([line.get("c", 0)]) or _check_value(line)
        if kind == "logs":
            return self._logs(line)
        if kind == "ctx":
            return self._context(line, 1, [line.get("i")])
        if kind == "ctxs":
            return self._several(line)
        if not isinstance(kind, str):
            return "no kind"
        return None

    def _logs(self, line: dict[str, Any]) -> str | None:
        values, types = line.get("v"), line.get("y", {})
        if not isinstance(line.get("n"), str):
            return "a log line without a name"
        if not isinstance(values, list) or not isinstance(types, dict):
            return "a log line without its values"
        first = line.get("c", 0)
        if isinstance(first, list) and len(first) != len(values):
            return f"{len(values)} values in {len(first)} contexts"
        if not isinstance(first, list) and not _is_int(first):
            return f"a log line in context {first!r}"
        why = self._contexts(contexts(line))
        for place, type_ in types.items():
            if not place.isdecimal() or int(place) >= len(values):
                return f"a type for value {place} of {len(values)}"
            why = why or _check_value({"v": values[int(place)], "y": type_})
        return why

    def _contexts(self, numbers: Sequence[Any]) -> str | None:
        if isinstance(numbers, range):
            if self._known.has(numbers.start, max(numbers.stop, numbers.start + 1)):
                return None
            return f"a log line in contexts from {numbers.start}, which no line defines"
        for number in numbers:
            if not _is_int(number) or not self._known.has(number, number + 1):
                return f"a log line in context {number!r}, which no line defines"
        return None

    def _several(self, line: dict[str, Any]) -> str | None:
        first, values = line.get("i"), line.get("r", [0, 0])
        if isinstance(first, list):
            count: Any = len(first)
        else:
            first, count = [first], line.get("m")
        if not _is_int(count) or not 0 < count <= _MOST_CONTEXTS:
            return f"contexts for {count!r} iterations"
        if not isinstance(values, list) or len(values) != 2 or not all(map(_fits, values)):
            return "iterations whose values are no range"
        return self._context(line, count, first)

    def _context(self, line: dict[str, Any], count: int, iterations: Iterable[Any]) -> str | None:
        number, parent = line.get("c"), line.get("p", 0)
        if not _is_int(number) or number < 1:
            return f"a context numbered {number!r}"
        if not _is_int(parent) or not self._known.has(parent, parent + 1):
            return f"a context in context {parent!r}, which no line defines"
        if not isinstance(line.get("l"), str) or not all(map(_is_int, iterations)):
            return "a context without a loop or an index"
        if not _is_int(line.get("e", 0)):
            return "a context whose loop entry is no number"
        if not self._known.add(number, number + count):
            return f"a context numbered {number!r}, which another line defines"
        return None


_MOST_CONTEXTS = 1_000_000
"""On one line; the writer stays far below, and a foreign line must not fill the memory."""


def _is_int(value: Any) -> TypeGuard[int]:
    return type(value) is int


def _fits(value: Any) -> bool:
    return _is_int(value) and _SMALLEST <= value <= _LARGEST


def _check_value(line: dict[str, Any]) -> str | None:
    try:
        value_columns(line)
        decode_value(line)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return f"a value that is no {line.get('y')}"
    return None


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dump_line(line: dict[str, Any]) -> str:
    """A line of a run file, with its newline."""
    return _encode(line) + "\n"
