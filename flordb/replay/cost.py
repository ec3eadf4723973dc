"""What a replay will take, from the run's own timings."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from flordb.record.context import end_of, exit_of
from flordb.replay.recorded import Recorded, TopLoop
from flordb.replay.task import Steps

# Checkout, links, fork, exit.
TASK_SECONDS = 0.15
# Reading a snapshot back costs at least this.
RESTORE_SECONDS = 0.003


def seconds_of(
    steps: Steps, record: Recorded, boundaries: set[str], restore_seconds: float
) -> float:
    """Seconds that a worker needs for a replay, once it has imported the libraries.

    Parameters: ``boundaries``, where the run has snapshots; ``restore_seconds``, for one of them.
    """
    total = TASK_SECONDS + record.setup
    if steps.scan == "suffix":
        return total + restore_seconds * len(steps.before) + record.rest
    for loop in (loop for name in steps.loops for loop in record.entries(name)):
        total += restore_seconds
        for index in executed(steps, loop, boundaries):
            total += _iteration(steps, loop, index, boundaries, restore_seconds)
    return total + (record.rest if steps.go_on else 0.0)


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
    steps: Steps, loop: TopLoop, index: int, boundaries: set[str], restore_seconds: float
) -> float:
    seconds = loop.seconds_of(index)
    if steps.from_start:
        return seconds
    for nested in loop.nested.get(index, ()):
        kept = exit_of(loop.path(index), nested.name, nested.entry) in boundaries
        if nested.name not in steps.run_nested and kept:
            seconds += restore_seconds - nested.seconds
    return max(seconds, 0.0) + restore_seconds


def makespan(seconds: Iterable[float], workers: int) -> float:
    """Time until all tasks are done, each given, longest first, to the worker that is free."""
    loads = [0.0] * max(1, workers)
    for task in sorted(seconds, reverse=True):
        heapq.heapreplace(loads, loads[0] + task)
    return max(loads)


def chunks(items: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Contiguous parts of nearly equal length, at most ``count``."""
    count = max(1, min(count, len(items)))
    size, extra = divmod(len(items), count)
    parts, start = [], 0
    for number in range(count):
        end = start + size + (number < extra)
        parts.append(tuple(items[start:end]))
        start = end
    return parts
