"""How replays share the machine: how many at a time, and in which parts.

Tasks that are much longer than the others are split into ranges of iterations, at the snapshots
that make the parts even, where that makes the whole plan end earlier.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from flordb.errors import SnapshotError
from flordb.replay.cost import makespan
from flordb.settings import Settings
from flordb.store.snapshots import SnapshotStore

T = TypeVar("T")
Part = tuple[int, ...]

# What a split has to gain for its additional set-ups to be worth their heat.
_GAIN = 0.8
_LEAST_GAIN_SECONDS = 0.1
_MOST_WEIGHED = 256


def cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its control group."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return count


def devices() -> int:
    """NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    try:
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return 0


def available_memory() -> float:
    """Bytes that new processes can have; infinity where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024.0
    except OSError:
        pass
    return float("inf")


def uses_device(snapshots: SnapshotStore) -> bool:
    """Whether a run kept tensors of a device, by one of its snapshots."""
    for boundary in sorted(snapshots.boundaries(), reverse=True)[:1]:
        with suppress(SnapshotError):
            return any(tensor.device != "cpu" for tensor in snapshots.load(boundary).tensors)
    return False


def worker_count(settings: Settings, on_device: bool, cores_each: float) -> int:
    """Workers at a time: as many as asked for, or as the cores suffice for, or one a device where
    runs used one.

    Parameters: ``cores_each``, how many cores one keeps busy. More threads than cores wait for one
    another: a training of two threads, replayed in two parts at once on two cores, took 35 s where
    the whole run had taken 19. Memory is looked at when each worker is about to start
    (`replay.local`).
    """
    if settings.workers > 0:
        return settings.workers
    if settings.on == "ray":
        from flordb.replay.cluster import cpus

        return cpus()
    together = max(1, round(cores() / max(1.0, cores_each)))
    return min(together, max(1, devices())) if on_device else together


def balance(
    tasks: Sequence[T],
    workers: int,
    seconds: Callable[[T], float],
    split: Callable[[T, int], Sequence[T]],
) -> list[T]:
    """The tasks, longest first, the longest of them split where the plan then ends earlier.

    Parameters: ``split``, gives a task in about so many parts, or as it is.
    """
    found = sorted(tasks, key=seconds, reverse=True)
    for task in tuple(found):
        time = makespan(map(seconds, found), workers)
        if time * _GAIN <= sum(map(seconds, found)) / max(1, workers):
            break
        others = [other for other in found if other is not task]
        choices = ([*others, *split(task, parts)] for parts in range(2, workers + 1))
        best = min(choices, key=lambda c: makespan(map(seconds, c), workers), default=found)
        then = makespan(map(seconds, best), workers)
        if then < time * _GAIN and then < time - _LEAST_GAIN_SECONDS:
            found = best
    return sorted(found, key=seconds, reverse=True)


def parts(wanted: Sequence[int], count: int, cost: Callable[[Part], float]) -> list[Part]:
    """Contiguous parts of the wanted iterations, at most ``count``, the longest as short as can be.

    Parameters: ``cost``, the seconds of a replay of just these iterations, with its set-up and
    with what it has to run to get there from a snapshot.
    """
    size = -(-len(wanted) // _MOST_WEIGHED)
    blocks = [tuple(wanted[i : i + size]) for i in range(0, len(wanted), size)]
    if len(blocks) < 2:
        return blocks
    first = [cost(block) for block in blocks]
    more = [0.0] + [cost(a + b) - cost(a) for a, b in pairwise(blocks)]
    low, high = min(first), first[0] + sum(more)
    best = [(0, len(blocks))]
    for _ in range(40):
        limit = (low + high) / 2
        cuts = _cut(first, more, limit)
        if len(cuts) <= count:
            best, high = cuts, limit
        else:
            low = limit
    return [tuple(i for block in blocks[a:b] for i in block) for a, b in best]


def _cut(first: Sequence[float], more: Sequence[float], limit: float) -> list[tuple[int, int]]:
    """As few parts as can be that each take at most ``limit``, or are one block."""
    found, start, spent = [], 0, first[0]
    for position in range(1, len(first)):
        if spent + more[position] <= limit:
            spent += more[position]
        else:
            found.append((start, position))
            start, spent = position, first[position]
    return [*found, (start, len(first))]
