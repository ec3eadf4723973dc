"""Histories for the tests that compare answers: runs written as files, and their replays."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flordb.replay.execute import Report
from flordb.replay.plan import Plan
from flordb.replay.want import Want
from flordb.store.project import Project
from tests.store.runfiles import Node, context, ended, header, lines_of, log, project, write

SCRIPT = """\
import flordb as flor
for x in flor.loop("x", range(3)):
    flor.log("late", 1)
flor.log("final", 1)
"""


def history(folder: Path, runs: Iterable[Node]) -> Project:
    """A project with these runs, of the first of June and so on, whose script logs more today."""
    place = project(folder / "p")
    (place.root / "train.py").write_text(SCRIPT)
    for number, run in enumerate(runs):
        write(place, f"r{number}", [*lines_of(run), ended()], header(number))
    return place


def logged(runs: Iterable[Node]) -> set[str]:
    """The names that some run has recorded, those of columns of loops too."""
    found: set[str] = set()
    for run in runs:
        found |= {name for name, _ in run.logs}
        for loop, iterations in run.loops:
            found |= logged(iterations)
            found |= {loop, f"{loop}_value"} if iterations else set()
    return found


def words(text: str) -> list[str]:
    """The words of a text, each once."""
    found = "".join(c if c.isalnum() or c == "_" else " " for c in text).split()
    return list(dict.fromkeys(found))


def late(run: int, x: int) -> int:
    return (run * 3 + x) % 4 - 1


def final(run: int) -> int:
    return run % 3 - 1


def complete(run: Node, number: int, names: set[str]) -> Node:
    """The run as it would be had it logged these names, too."""
    logs = [*run.logs, *([("final", final(number))] if "final" in names else [])]
    loops = dict(run.loops)
    if "late" in names:
        loops["x"] = [
            Node([*node.logs, ("late", late(number, x))], node.loops, node.value)
            for x, node in enumerate(loops["x"])
        ]
    return Node(logs, list(loops.items()))


class Replays:
    """Instead of plan and execution: writes what the wanted runs would have logged."""

    def __init__(self, runs: Sequence[Node]) -> None:
        self.runs = runs
        self.numbers = itertools.count()

    def plan(self, place: Project, wants: Sequence[Want], chosen: Any) -> Plan:
        self.wants = list(wants)
        return Plan((), (), 0.0, 1)

    def execute(self, place: Project, plan: Plan, chosen: Any, progress: Any) -> Report:
        for want in self.wants:
            for name in want.names:
                lines = list(self.lines(want.tstamp.day - 1, name, want.iterations))
                fields = {"status": "acquired", "iterations": want.iterations}
                lines.append({"k": "outcome", "n": name, **fields})
                run = {**header(want.tstamp.day - 1), "k": "replay", "names": [name]}
                base = want.file.removesuffix(".jsonl")
                write(place, f"{base}.replay-{next(self.numbers):08}", lines, run)
        return Report(1, (), ())

    def lines(self, run: int, name: str, iterations: Any) -> Iterator[dict[str, Any]]:
        if name == "final":
            yield log("final", final(run))
            return
        for index in range(len(dict(self.runs[run].loops)["x"])):
            if iterations is None or index in iterations:
                yield context(index + 1, 0, "x", index)
                yield log("late", late(run, index), index + 1)
