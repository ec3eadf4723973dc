"""What a run's file says about it, arranged for replay: values by context, loops, timings.

Timings are without what the training spent on finding memory (`record.paging`): a replay keeps what
it frees (`replay.memory`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flordb.record.context import entry_name
from flordb.replay.logged import Paths, Spans, Values
from flordb.store.encoding import decode_value
from flordb.store.lines import contexts, indexes, take_apart
from flordb.store.runfile import RunFile

_Nested = tuple[str, int]
"""A nested loop's name, and which entry."""


@dataclass(frozen=True)
class NestedLoop:
    """A loop nested in an iteration of a top-level loop, once it ended.

    ``entry``: which entry of that loop in the iteration; ``end``: "exhausted", "left", "raised";
    ``count``: its iterations; ``logged``: how many values were logged in them.
    """

    name: str
    entry: int
    seconds: float
    end: str
    count: int = 0
    logged: int = 0


@dataclass
class TopLoop:
    """One entry of a top-level loop of a run.

    ``name``: the loop's; ``entry``: from 0, how often the loop had been entered before. ``begun``:
    the indexes that were reached; ``iterations``: seconds by index, of those that were completed.
    ``nested``: the loops nested in each, by index; ``logged``: how many values, loops in it
    included, and ``logged_in`` each of these. ``end``: how it ended, None where the run ended
    first.
    """

    name: str
    entry: int
    begun: set[int] = field(default_factory=set)
    iterations: dict[int, float] = field(default_factory=dict)
    nested: dict[int, list[NestedLoop]] = field(default_factory=dict)
    logged: Counter[int] = field(default_factory=Counter)
    logged_in: Counter[tuple[int, _Nested | None]] = field(default_factory=Counter)
    end: str | None = None
    seconds: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether it ran out of items, or was left by the code."""
        return self.end in ("exhausted", "left")

    @property
    def reached(self) -> list[int]:
        """The iterations whose values the run can give: completed, or ended by a ``break``."""
        if self.end == "left" and self.begun:
            return sorted({*self.iterations, max(self.begun)})
        return sorted(self.iterations)

    def path(self, index: int) -> str:
        """The path of an iteration's context."""
        return f"{entry_name(self.name, self.entry)}={index}"

    def seconds_of(self, index: int) -> float:
        """Seconds of an iteration; what is left of the whole for one that a ``break`` ended."""
        if index in self.iterations:
            return self.iterations[index]
        return max(0.0, self.seconds - sum(self.iterations.values()))

    def computed(self, index: int, holds: Mapping[str, float]) -> float:
        """Seconds of an iteration without those that its snapshots held up the training."""
        place = self.path(index)
        at = (place + "@", place + "/")
        held = sum(s for boundary, s in holds.items() if boundary.startswith(at))
        return max(0.0, self.seconds_of(index) - held)


@dataclass
class Recorded:
    """A run as it was. ``values``: what was logged, by (context path, name), in order.

    ``start``: seconds until flor's first call that went into imports; ``setup``: of the script's
    own work up to the first top-level loop; ``before``: all from the process's start to flor's
    first call; ``seconds``: from there to its end; ``imports``: of those after flor's first call;
    ``rest``: after the last loop; ``between``: from the end of each to the beginning of the next.
    ``holds``: seconds that each snapshot held up the training. ``cores``: how many the run kept
    busy in its loops, on average; 1.0 where it does not say. ``rewritten``: ignored files that were
    there when it began, and were other ones or gone when it ended; their times and sizes then.
    """

    header: Mapping[str, Any]
    values: Mapping[tuple[str, str], list[Any]] = field(default_factory=dict)
    args: dict[str, list[Any]] = field(default_factory=dict)
    loops: dict[tuple[str, int], TopLoop] = field(default_factory=dict)
    start: float = 0.0
    setup: float = 0.0
    before: float = 0.0
    seconds: float = 0.0
    imports: float = 0.0
    rest: float = 0.0
    cores: float = 1.0
    between: list[float] = field(default_factory=list)
    holds: dict[str, float] = field(default_factory=dict)
    rewritten: dict[str, tuple[int, ...]] = field(default_factory=dict)
    error: str | None = None
    ended: bool = False
    version: str | None = None
    version_why: str | None = None

    def entries(self, name: str) -> list[TopLoop]:
        """The entries of a top-level loop, in order."""
        return [self.loops[key] for key in sorted(self.loops) if key[0] == name]


_Below = tuple[TopLoop, int, _Nested | None]
"""In which iteration of which top-level loop a context is, and in which loop of that."""


def recorded(run: RunFile) -> Recorded:
    """Arrange a run file's lines."""
    paths = Paths()
    values = Values(paths)
    found = Recorded(run.header, values)
    tops: dict[int, tuple[TopLoop, int]] = {}
    below = Spans[_Below]()
    for line in run.lines:
        match line["k"]:
            case "ctx" | "ctxs":
                paths.add(line)
                _context(found, line, tops, below)
            case "log" | "logs":
                numbers = contexts(line) if line["k"] == "logs" else [line.get("c", 0)]
                for (loop, index, nested), count in below.counts(numbers):
                    loop.logged[index] += count
                    loop.logged_in[index, nested] += count
                if "a" in line:
                    found.args.setdefault(line["n"], []).append(decode_value(line))
                values.add(line)
            case "loop":
                _loop(found, line, tops)
            case "time":
                _time(found, line, tops)
            case "snap":
                found.holds[line["at"]] = float(line.get("s") or 0.0)
            case "version":
                found.version, found.version_why = line.get("commit"), line.get("why")
            case "files":
                found.rewritten = {name: tuple(mark) for name, mark in line["rewritten"].items()}
            case "exit":
                found.ended, found.error = True, line.get("error")
                found.seconds = float(line.get("t") or 0.0)
    return found


def _context(
    found: Recorded,
    line: dict[str, Any],
    tops: dict[int, tuple[TopLoop, int]],
    below: Spans[_Below],
) -> None:
    number, parent = line["c"], line.get("p", 0)
    if parent == 0:
        for one in take_apart(line):
            loop, index = _top(found, one), one["i"]
            loop.begun.add(index)
            tops[one["c"]] = (loop, index)
            below.add(one["c"], one["c"] + 1, (loop, index, None))
        return
    stop = number + (len(indexes(line)) if line["k"] == "ctxs" else 1)
    if parent in tops:
        below.add(number, stop, (*tops[parent], (line["l"], line.get("e", 0))))
    elif outer := below.get(parent):
        below.add(number, stop, outer[2])


def _top(found: Recorded, line: Mapping[str, Any]) -> TopLoop:
    key = (line["l"], line.get("e", 0))
    return found.loops.setdefault(key, TopLoop(*key))


def _loop(found: Recorded, line: Mapping[str, Any], tops: dict[int, tuple[TopLoop, int]]) -> None:
    number, end, seconds = line.get("c", 0), line.get("end", ""), _worked(line)
    if number == 0:
        loop = _top(found, line)
        loop.end, loop.seconds = end, seconds
    elif number in tops:
        outer, index = tops[number]
        nested = NestedLoop(line["l"], line.get("e", 0), seconds, end, line.get("n", 0))
        nested = replace(nested, logged=outer.logged_in[index, (nested.name, nested.entry)])
        outer.nested.setdefault(index, []).append(nested)


def _worked(line: Mapping[str, Any]) -> float:
    """Seconds of a part of a run, without those in which memory was found."""
    return max(0.0, float(line.get("s") or 0.0) - float(line.get("paging") or 0.0))


def _time(found: Recorded, line: Mapping[str, Any], tops: dict[int, tuple[TopLoop, int]]) -> None:
    seconds = _worked(line)
    match line.get("w"):
        case "start":
            found.setup = float(line.get("setup") or 0.0)
            found.before = seconds
            found.start = max(0.0, seconds - found.setup)
        case "setup":
            found.imports = float(line.get("imports") or 0.0)
            found.setup += max(0.0, seconds - found.imports)
        case "between":
            found.between.append(seconds)
        case "rest":
            found.rest = seconds
            found.cores = float(line.get("cores") or 1.0)
        case "iteration" if line.get("c", 0) in tops:
            loop, index = tops[line["c"]]
            loop.iterations[index] = seconds
