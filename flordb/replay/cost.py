"""What a replay will take, from the run's own timings and from what earlier replays took."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from flordb.record.context import end_of, exit_of
from flordb.replay.learnt import Rates
from flordb.replay.recorded import Recorded, TopLoop
from flordb.replay.task import Steps


@dataclass(frozen=True)
class Parts:
    """What a replay consists of, by the run's own clock, in seconds.

    ``setup``: the script up to its first loop; ``restores``: how many snapshots are loaded;
    ``compute``: what is run in loops, between and after them.
    """

    setup: float
    restores: int
    compute: float

    def seconds(self, rates: Rates) -> float:
        """The price: seconds of one worker that has the libraries imported."""
        return (
            rates.task
            + max(0.0, self.setup + rates.setup)
            + self.restores * rates.restore
            + self.compute * rates.speed
        )


def parts_of(steps: Steps, record: Recorded, boundaries: set[str]) -> Parts:
    """What the steps of a replay consist of.

    Parameters: ``boundaries``, where the run has snapshots.
    """
    if steps.scan == "prefix":
        return Parts(record.setup, 0, 0.0)
    restores, compute, passed = 0, 0.0, 0
    for name in (*steps.before, *steps.loops):
        for loop in record.entries(name):
            passed += 1
            restores += 1
            if name in steps.finish and loop.end != "exhausted" and loop.begun:
                compute += loop.computed(max(loop.begun), record.holds)
            if name in steps.loops:
                for index in executed(steps, loop, boundaries):
                    seconds, loaded = _iteration(steps, loop, index, record, boundaries)
                    compute += seconds
                    restores += loaded
    compute += sum(record.between[: max(0, passed - 1)])
    if steps.scan == "suffix" or steps.go_on:
        compute += record.rest
        restores += bool(steps.loops) and not steps.from_start
    return Parts(record.setup, restores, compute)


def default_restore(record: Recorded, ratio: float) -> float:
    """Seconds to load a snapshot, before any has been loaded: c times what taking one held up."""
    if not record.holds:
        return 0.0
    return ratio * sum(record.holds.values()) / len(record.holds)


def executed(steps: Steps, loop: TopLoop, boundaries: set[str]) -> list[int]:
    """The iterations that run, also only to get to wanted ones, in order."""
    known = loop.reached
    wanted = known if steps.iterations is None else [i for i in known if i in steps.iterations]
    if steps.from_start:
        return [index for index in known if wanted and index <= wanted[-1]]
    run: list[int] = []
    position = 0
    for index in wanted:
        start = next(
            (s for s in range(index, position, -1) if end_of(loop.path(s - 1)) in boundaries),
            position,
        )
        run.extend(range(start, index + 1))
        position = index + 1
    return run


def _iteration(
    steps: Steps, loop: TopLoop, index: int, record: Recorded, boundaries: set[str]
) -> tuple[float, int]:
    """(seconds computed, snapshots loaded) of an iteration that runs."""
    seconds = loop.computed(index, record.holds)
    if steps.from_start:
        return seconds, 0
    loaded = int(end_of(loop.path(index - 1)) in boundaries)
    for nested in loop.nested.get(index, ()):
        kept = exit_of(loop.path(index), nested.name, nested.entry) in boundaries
        if nested.name not in steps.run_nested and kept:
            seconds -= nested.seconds
            loaded += 1
    return max(seconds, 0.0), loaded


def makespan(seconds: Iterable[float], workers: int) -> float:
    """Time until all tasks are done, each given, longest first, to the worker that is free."""
    loads = [0.0] * max(1, workers)
    for task in sorted(seconds, reverse=True):
        heapq.heapreplace(loads, loads[0] + task)
    return max(loads)
