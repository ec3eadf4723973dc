"""Replays on behalf of clients. Two that want the same values share one replay, and it goes on for
as long as anybody waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from flordb.query.acquire import check_budget
from flordb.replay.execute import Progress, Report, execute
from flordb.replay.plan import Plan, Want, make_plan
from flordb.serve.errors import Cancelled
from flordb.settings import Settings
from flordb.store.project import Project

_MOST_AT_ONCE = 4
_TICK_SECONDS = 0.1

_log = logging.getLogger("flordb.serve")

Key = tuple[int, str, int | None]
"""Run, name and iteration (None: all of the run)."""
Patience = Callable[[Progress | None], None]
"""Called some times a second while its caller waits; it raises to wait no longer."""


class _Abandoned(Exception):
    """Nobody waits any more."""


class Acquisitions:
    """All replays of a server."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(_MOST_AT_ONCE)
        self._jobs: list[_Job] = []
        self.started = 0

    def acquire(
        self, wants: Sequence[Want], settings: Settings, patience: Patience
    ) -> list[Report]:
        """Get the wanted values, by replays of others that are under way and one of our own.

        Raises BudgetExceeded, and what ``patience`` raises.
        """
        with self._lock:
            jobs = [job for job in self._jobs if any(job.gives(want) for want in wants)]
            own = [part for want in wants if (part := _without(want, jobs)) is not None]
            if own:
                plan = make_plan(self._project, own, settings)
                check_budget(plan, settings)
                jobs.append(self._start(plan, own, settings))
            for job in jobs:
                job.waiting += 1
        try:
            for job in jobs:
                while not job.done.wait(_TICK_SECONDS):
                    patience(job.progress)
        finally:
            with self._lock:
                for job in jobs:
                    job.waiting -= 1
        return [job.outcome() for job in jobs]

    def _start(self, plan: Plan, wants: Sequence[Want], settings: Settings) -> _Job:
        job = _Job(frozenset(_keys(wants)))
        self._jobs.append(job)
        self.started += 1
        work = threading.Thread(
            target=self._run, args=(job, plan, settings), name="flordb-replay", daemon=True
        )
        work.start()
        return job

    def _run(self, job: _Job, plan: Plan, settings: Settings) -> None:
        try:
            with self._slots:
                job.report = execute(
                    self._project, plan, settings, lambda progress: self._note(job, progress)
                )
        except _Abandoned:
            _log.info("a replay was stopped: nobody waits for it any more")
            job.error = Cancelled("the server is stopping")
        except BaseException as error:  # it is raised where somebody waits
            job.error = error
        finally:
            with self._lock:
                if job in self._jobs:
                    self._jobs.remove(job)
            job.done.set()

    def _note(self, job: _Job, progress: Progress) -> None:
        """Take note of a replay's progress; raises where nobody waits for it any more."""
        job.progress = progress
        with self._lock:
            if job.waiting == 0 or job.stopped:
                self._jobs.remove(job)  # so that nobody joins it from now on
                raise _Abandoned

    def stop(self, seconds: float) -> None:
        """Stop all replays, and wait that long for their workers to end."""
        with self._lock:
            jobs = list(self._jobs)
            for job in jobs:
                job.stopped = True
        for job in jobs:
            job.done.wait(seconds)


class _Job:
    """One replay and those who wait for it."""

    def __init__(self, keys: frozenset[Key]) -> None:
        self.keys = keys
        self.waiting = 0
        self.stopped = False
        self.done = threading.Event()
        self.progress: Progress | None = None
        self.report: Report | None = None
        self.error: BaseException | None = None

    def gives(self, want: Want) -> bool:
        return any(self.covers(key) for key in _keys([want]))

    def covers(self, key: Key) -> bool:
        return key in self.keys or (key[0], key[1], None) in self.keys

    def outcome(self) -> Report:
        if self.error is not None:
            raise self.error
        return self.report or Report(0, (), ())


def _keys(wants: Iterable[Want]) -> Iterator[Key]:
    for want in wants:
        for name in want.names:
            for index in want.iterations if want.iterations is not None else (None,):
                yield want.run_id, name, index


def _without(want: Want, jobs: Sequence[_Job]) -> Want | None:
    """What of a want no replay under way gives: names of which something is lacking."""
    names = tuple(
        name
        for name in want.names
        if not all(
            any(job.covers(key) for job in jobs) for key in _keys([replace(want, names=(name,))])
        )
    )
    return replace(want, names=names) if names else None
