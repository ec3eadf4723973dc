"""Runs as trees, written as run files: what the tests of this folder are made of."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flordb.store.encoding import dump_line, encode_value
from flordb.store.project import Project


@dataclass
class Node:
    """A context: what was logged in it, and the loops entered in it, in order.

    A loop is its name and its iterations; the value of an iteration is ``value``.
    """

    logs: list[tuple[str, Any]] = field(default_factory=list)
    loops: list[tuple[str, list[Node]]] = field(default_factory=list)
    value: Any = None


def project(folder: Path) -> Project:
    """A project outside git whose name is that of its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Project(folder, has_git=False)
    made.prepare()
    return made


def header(number: int = 0, **fields: Any) -> dict[str, Any]:
    """The first line of a run's file."""
    return {
        "k": "run",
        "flor": 1,
        "projid": "p",
        "tstamp": f"2023-06-{number + 1:02}T10:00:00.000000Z",
        "filename": "train.py",
        "host": "elsewhere",
        **fields,
    }


def this_host() -> str:
    return socket.gethostname()


def log(name: str, value: Any, context: int = 0) -> dict[str, Any]:
    return {"k": "log", "c": context, "n": name, **encode_value(value)}


def context(number: int, parent: int, loop: str, index: int, **fields: Any) -> dict[str, Any]:
    return {"k": "ctx", "c": number, "p": parent, "l": loop, "i": index, **fields}


def ended(status: int = 0, error: str | None = None) -> dict[str, Any]:
    return {"k": "exit", "t": 60.0, "status": status, "error": error}


def lines_of(node: Node, number: int = 0, counter: list[int] | None = None) -> list[dict[str, Any]]:
    """The lines of a context's contents; ``number`` is its own."""
    counter = counter if counter is not None else [0]
    lines = [log(name, value, number) for name, value in node.logs]
    entries: dict[str, int] = {}
    for loop, iterations in node.loops:
        entry = entries.get(loop, 0)
        entries[loop] = entry + 1
        for index, iteration in enumerate(iterations):
            counter[0] += 1
            fields = {"e": entry} if entry else {}
            if iteration.value is not None:
                fields |= encode_value(iteration.value)
            child = counter[0]
            lines.append(context(child, number, loop, index, **fields))
            lines += lines_of(iteration, child, counter)
        lines.append({"k": "loop", "p": number, "l": loop, "e": entry, "n": len(iterations)})
    return lines


def text_of(lines: Iterable[dict[str, Any]]) -> str:
    return "".join(map(dump_line, lines))


def write(
    project: Project, name: str, lines: Iterable[dict[str, Any]], run: dict[str, Any] | None = None
) -> Path:
    """Write a run file: a first line (of the first run unless given), then the lines."""
    path = project.runs / f"{name}.jsonl"
    path.write_text(text_of([run or header(), *lines]), encoding="utf-8")
    return path
