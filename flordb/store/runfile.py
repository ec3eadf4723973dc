"""Run files: what a run logged, as JSON lines, append-only. They are the truth; the database is
derived from them. The format is on one page in ``docs/run-file.md``.

The reader survives files that end anywhere (a killed run), lines that are no JSON, and lines that
are JSON but not ours: it keeps what it understands and says what it left out.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from flordb.errors import RunFileError
from flordb.store.lines import Checker, take_apart

FORMAT = 2

_LEFT_OUT = (
    "Nothing was taken from it. Remove it, and flordb reads the one that was committed to the "
    "flor/ branch, if there is one."
)


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


_DAMAGED = (
    b"the compressed file is damaged: what follows is lost, and values before this may be wrong. "
    b"Delete it, if git has it on a branch flor/...: `flordb sync` reads it from there"
)


def decompress(data: bytes) -> bytes:
    """The contents of a gzip file; where it is cut off or damaged, what stands before that.

    After damage comes a line that says so, of which `parse_run` makes a problem.
    """
    parts: list[bytes] = []
    while data:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            parts.append(member.decompress(data))
        except zlib.error:
            parts.append(_before_the_damage(data))
            parts.append(b"\n" + _DAMAGED + b"\n")
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
    check = Checker()
    for number, text in enumerate(raw[1:], start=2):
        if not text.strip():
            continue
        try:
            line = _loaded(text)
        except (ValueError, RecursionError):
            problems.append((number, "not JSON" if text != _DAMAGED else text.decode()))
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
