"""Text edits: lines put into a file so that all others stay as they are."""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass

from flordb.replay.propagate.units import Block, Unit


@dataclass(frozen=True)
class Edit:
    """Lines to be put into a file before its line ``before`` (from 1; one past the end allowed)."""

    file: str
    before: int
    text: str
    kind: str


def line_of_slot(block: Block, index: int) -> int:
    """The line before which new lines stand in the slot before statement ``index``."""
    if index > 0:
        return block.units[index - 1].last + 1
    return block.units[0].first


def statement_text(unit: Unit, indent: str) -> str:
    """The text of a statement, with the comments on its lines, at another indentation."""
    lines = unit.source.lines[unit.lineno - 1 : unit.last]
    base = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    if (
        stands_alone(unit)
        and not _has_long_string(unit)
        and all(line.startswith(base) or not line.strip() for line in lines)
    ):
        moved = [indent + line[len(base) :] if line.strip() else line for line in lines]
        return "".join(moved).rstrip("\r\n") + "\n"
    return indented(ast.unparse(unit.node), indent)


def indented(code: str, indent: str) -> str:
    """Code moved to an indentation, except for lines inside strings."""
    lines = code.splitlines(keepends=True)
    frozen = _inside_strings(code)
    moved = [
        line if number in frozen or not line.strip() else indent + line
        for number, line in enumerate(lines, 1)
    ]
    return "".join(moved).rstrip("\n") + "\n"


def _inside_strings(code: str) -> set[int]:
    found: set[int] = set()
    for node in ast.walk(ast.parse(textwrap.dedent(code))):
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and node.end_lineno is not None:
            found.update(range(node.lineno + 1, node.end_lineno + 1))
    return found


def stands_alone(unit: Unit) -> bool:
    """Whether a statement shares its lines with nothing but a comment."""
    node, lines = unit.node, unit.source.lines[unit.lineno - 1 : unit.last]
    before = lines[0].encode()[: getattr(node, "col_offset", 0)]
    after = lines[-1].encode()[getattr(node, "end_col_offset", 0) :].strip()
    return not before.strip() and (not after or after.startswith(b"#"))


def _has_long_string(unit: Unit) -> bool:
    return any(
        isinstance(n, (ast.Constant, ast.JoinedStr)) and n.end_lineno != n.lineno
        for n in ast.walk(unit.node)
        if isinstance(n, ast.expr)
    )


def apply(lines: list[str], edits: list[Edit]) -> tuple[str, list[tuple[int, int, str]]]:
    """The text with all edits in it, and the lines (first, last, kind) that each took."""
    newline = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    out: list[str] = []
    places: list[tuple[int, int, str]] = []
    waiting = sorted(edits, key=lambda e: e.before)
    for number in range(1, len(lines) + 2):
        while waiting and waiting[0].before == number:
            edit = waiting.pop(0)
            added = [line.rstrip("\r") + newline for line in edit.text.rstrip("\r\n").split("\n")]
            if out and not out[-1].endswith(("\n", "\r")):
                out[-1] += newline
                added[-1] = added[-1].removesuffix(newline)
            places.append((len(out) + 1, len(out) + len(added), edit.kind))
            out += added
        if number <= len(lines):
            out.append(lines[number - 1])
    return "".join(out), places
