"""What a run's file says about it, arranged for replay: values by context, loops, timings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flordb.record.context import entry_name
from flordb.store.runfile import RunFile, decode_value


@dataclass
class TopLoop:
    """A top-level loop of a run. ``iterations``: seconds by index, of those that were completed.

    ``nested``: seconds of the loops nested in each iteration, by index and name. ``ended``: it ran
    out of items, or was left by the code.
    """

    name: str
    iterations: dict[int, float] = field(default_factory=dict)
    nested: dict[int, dict[str, float]] = field(default_factory=dict)
    ended: bool = False


@dataclass
class Recorded:
    """A run as it was. ``values``: what was logged, by (context path, name), in order.

    ``start``: seconds from the process's start to flor's first call (imports); ``setup``: from
    there to the first top-level loop; ``rest``: after the last one.
    """

    header: Mapping[str, Any]
    values: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    args: dict[str, list[Any]] = field(default_factory=dict)
    loops: dict[str, TopLoop] = field(default_factory=dict)
    start: float = 0.0
    setup: float = 0.0
    rest: float = 0.0
    error: str | None = None
    ended: bool = False
    version: str | None = None
    version_why: str | None = None


def recorded(run: RunFile) -> Recorded:
    """Arrange a run file's lines."""
    found = Recorded(run.header)
    paths = {0: ""}
    tops: dict[int, tuple[str, int]] = {}
    for line in run.lines:
        match line["k"]:
            case "ctx":
                _context(found, line, paths, tops)
            case "log":
                path = paths[line.get("c", 0)]
                value = decode_value(line)
                if "a" in line:
                    found.args.setdefault(line["n"], []).append(value)
                found.values.setdefault((path, line["n"]), []).append(value)
            case "loop":
                _loop(found, line, tops)
            case "time":
                _time(found, line, tops)
            case "version":
                found.version, found.version_why = line.get("commit"), line.get("why")
            case "exit":
                found.ended, found.error = True, line.get("error")
    return found


def _context(
    found: Recorded,
    line: Mapping[str, Any],
    paths: dict[int, str],
    tops: dict[int, tuple[str, int]],
) -> None:
    number, parent = line["c"], line.get("p", 0)
    own = f"{entry_name(line['l'], line.get('e', 0))}={line['i']}"
    paths[number] = f"{paths[parent]}/{own}" if paths[parent] else own
    if parent == 0:
        tops[number] = (line["l"], line["i"])
        found.loops.setdefault(line["l"], TopLoop(line["l"]))


def _loop(found: Recorded, line: Mapping[str, Any], tops: dict[int, tuple[str, int]]) -> None:
    number = line.get("c", 0)
    if number == 0:
        loop = found.loops.setdefault(line["l"], TopLoop(line["l"]))
        loop.ended = line.get("end") != "raised"
    elif number in tops:
        name, index = tops[number]
        nested = found.loops[name].nested.setdefault(index, {})
        nested[line["l"]] = nested.get(line["l"], 0.0) + float(line.get("s") or 0.0)


def _time(found: Recorded, line: Mapping[str, Any], tops: dict[int, tuple[str, int]]) -> None:
    seconds = float(line.get("s") or 0.0)
    match line.get("w"):
        case "start":
            found.start = seconds
        case "setup":
            found.setup = seconds
        case "rest":
            found.rest = seconds
        case "iteration" if line.get("c", 0) in tops:
            name, index = tops[line["c"]]
            found.loops[name].iterations[index] = seconds
