"""Brings spooled snapshots back before replays begin.

A worker's view of the store is its own: what it fetches there is gone when it ends, and each worker
would fetch it again. So what replays are going to load is fetched into the store first, several
objects at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from flordb.errors import SnapshotError
from flordb.record.context import START
from flordb.replay.plan import Task, snapshots_of
from flordb.replay.recorded import recorded
from flordb.replay.route import Route
from flordb.store import spool
from flordb.store.objects import ObjectStore
from flordb.store.project import Project
from flordb.store.runfile import read_run

_AT_ONCE = 8


def fetch_spooled(project: Project, tasks: Iterable[Task]) -> None:
    """Fetch the spooled objects that these tasks are likely to load. What cannot be had is left to
    the worker that needs it, and says so; where that is so of many, all others are, too, because
    each is asked for many times before it is given up."""
    if not spool.has_spooled(project.store):
        return
    objects = ObjectStore(project.objects)
    needed = {name for task in tasks for name in _loaded(project, task)}
    away = [name for name in sorted(needed) if objects.is_away(name)]
    failed: list[str] = []

    def fetch(name: str) -> None:
        if len(failed) < _AT_ONCE:
            try:
                objects.get(name)
            except SnapshotError:
                failed.append(name)

    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="flordb-fetch")
    try:
        for _ in pool.map(fetch, away):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for those under way only


def _loaded(project: Project, task: Task) -> Iterator[str]:
    """The objects of the snapshots that a task is likely to load."""
    snapshots = snapshots_of(project, task.want.file)
    boundaries = snapshots.boundaries()
    record = recorded(read_run(project.runs / task.want.file))
    for boundary in {START, *Route(task.steps, record, boundaries).loads()} & boundaries:
        with suppress(SnapshotError):
            yield from snapshots.load(boundary).objects
