"""What a replay will take, from the run's own timings and from what earlier replays took."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from flordb.record.context import end_of, enter_of, exit_of
from flordb.replay.learnt import Rates
from flordb.replay.loading import Loading
from flordb.replay.recorded import NestedLoop, Recorded, TopLoop
from flordb.replay.task import Steps

# Measured on one machine, as a beginning; what replays took there then corrects them.
_HANDING_SECONDS = 0.026
"""To make a workspace, to hand a task to a worker, and to end both."""
_FIRST_SECONDS = 0.009
"""A script's first steps in a process that was just forked."""
_FIRST_LOAD_SECONDS = 0.003
"""The first snapshot, beyond what others take."""
_WARMING_ITERATIONS = 6
"""Of a run's first iterations, beside which the very first is looked at."""
_FIRST_USE_SECONDS = 0.012
"""What is first to compute in a process, beyond what it took in the run, where others were."""
_LOG_SECONDS = 13e-6
"""To log a value in a replay."""
_TAKE_SECONDS = 8e-6
"""To take it over from the worker."""


@dataclass(frozen=True)
class Parts:
    """What a replay consists of, by the run's own clock, in seconds.

    ``setup``: the script up to its first loop; ``restores``: how many snapshots are loaded;
    ``restoring``: seconds expected of that (`replay.loading`); ``compute``: what is run in loops,
    between and after them; ``values``: how many are logged, new ones and those of the run.
    """

    setup: float
    restores: int = 0
    restoring: float = 0.0
    compute: float = 0.0
    values: int = 0

    def seconds(self, rates: Rates) -> float:
        """The price: seconds of one worker that has the libraries imported."""
        return (
            rates.handing.of(self.handing)
            + rates.setup.of(self.setting_up)
            + (rates.loading.of(self.loading) if self.restores else 0.0)
            + rates.computing.of(self.computing)
        )

    @property
    def handing(self) -> float:
        """Seconds expected before the script begins and after it has ended."""
        return _HANDING_SECONDS + self.values * _TAKE_SECONDS

    @property
    def setting_up(self) -> float:
        """Seconds expected of the set-up."""
        return _FIRST_SECONDS + self.setup

    @property
    def loading(self) -> float:
        """Seconds expected of loading snapshots."""
        first = _FIRST_LOAD_SECONDS if self.restores else 0.0
        return first + self.restoring

    @property
    def computing(self) -> float:
        """Seconds expected of the run's code, at the run's speed."""
        return self.compute + self.values * _LOG_SECONDS


class _Sum:
    """Adds up the parts of a replay."""

    def __init__(self, record: Recorded, loading: Loading) -> None:
        self.record = record
        self.loading = loading
        self.restores = 0
        self.restoring = 0.0
        self.compute = 0.0
        self.values = 0

    def loads(self, boundary: str) -> None:
        self.restores += 1
        self.restoring += self.loading.seconds(boundary)

    def parts(self) -> Parts:
        restored = self.restores, self.restoring
        return Parts(self.record.setup, *restored, self.compute, self.values)


def parts_of(
    steps: Steps, record: Recorded, boundaries: set[str], loading: Loading, statements: int = 1
) -> Parts:
    """What the steps of a replay consist of.

    Parameters: ``boundaries``, where the run has snapshots; ``loading``, what these take;
    ``statements``, how many are new.
    """
    found = _Sum(record, loading)
    if steps.scan == "prefix":
        return found.parts()
    passed, ran = 0, False
    for name in (*steps.before, *steps.loops):
        for loop in record.entries(name):
            passed += 1
            found.loads(enter_of("", name, loop.entry) if name in steps.loops else _exit(loop))
            if name in steps.finish and loop.end != "exhausted" and loop.begun:
                found.compute += loop.computed(max(loop.begun), record.holds)
            if name in steps.loops:
                indexes = executed(steps, loop, boundaries)
                if indexes and not ran:
                    ran = True
                    found.compute += _warming(record, steps, loop, indexes[0], boundaries)
                for index in indexes:
                    _iteration(found, steps, loop, index, boundaries, statements)
    found.compute += sum(record.between[: max(0, passed - 1)])
    if steps.scan == "suffix" or steps.go_on:
        found.compute += record.rest
        if not steps.loops:
            found.compute += min(_FIRST_USE_SECONDS, record.rest)
        if steps.loops and not steps.from_start:
            found.loads(_exit(record.entries(steps.loops[-1])[-1]))
    return found.parts()


def _exit(loop: TopLoop) -> str:
    return exit_of("", loop.name, loop.entry)


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
    found: _Sum,
    steps: Steps,
    loop: TopLoop,
    index: int,
    boundaries: set[str],
    statements: int,
) -> None:
    """Add an iteration that runs."""
    values = loop.logged[index]
    wanted = steps.iterations is None or index in steps.iterations
    if not steps.from_start and end_of(loop.path(index - 1)) in boundaries:
        found.loads(end_of(loop.path(index - 1)))
    for nested in loop.nested.get(index, ()):
        if nested.name in steps.run_nested:
            values += nested.count * statements * wanted
    for nested, boundary in _skipped(steps, loop, index, boundaries):
        values -= nested.logged
        found.loads(boundary)
    found.compute += _seconds(found.record, steps, loop, index, boundaries)
    found.values += max(values, 0)


def _seconds(
    record: Recorded, steps: Steps, loop: TopLoop, index: int, boundaries: set[str]
) -> float:
    """Seconds of an iteration without the nested loops whose effects are loaded."""
    seconds = loop.computed(index, record.holds)
    skipped = _skipped(steps, loop, index, boundaries)
    return max(seconds - sum(nested.seconds for nested, _ in skipped), 0.0)


def _skipped(
    steps: Steps, loop: TopLoop, index: int, boundaries: set[str]
) -> Iterator[tuple[NestedLoop, str]]:
    """The nested loops of an iteration whose effects are loaded, and the boundaries of that."""
    for nested in loop.nested.get(index, ()):
        boundary = exit_of(loop.path(index), nested.name, nested.entry)
        if nested.name not in steps.run_nested and not steps.from_start and boundary in boundaries:
            yield nested, boundary


def _warming(
    record: Recorded, steps: Steps, loop: TopLoop, first: int, boundaries: set[str]
) -> float:
    """Seconds by which a process's first iteration takes longer than others (the first use of a
    library's functions), by the run's own; 0 where it is the run's first, or where the others
    differed by half as much."""
    begun = sorted(loop.iterations)[:_WARMING_ITERATIONS]
    if len(begun) < 3 or first == begun[0]:
        return 0.0
    cold, *warm = (_seconds(record, steps, loop, index, boundaries) for index in begun)
    usual = median(warm)
    return cold - usual if cold - usual > 2 * (max(warm) - usual) else 0.0


def makespan(seconds: Iterable[float], workers: int) -> float:
    """Time until all tasks are done, each given, longest first, to the worker that is free."""
    loads = [0.0] * max(1, workers)
    for task in sorted(seconds, reverse=True):
        heapq.heapreplace(loads, loads[0] + task)
    return max(loads)
