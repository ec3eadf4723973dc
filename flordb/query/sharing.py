"""Replays that several connections of this process wait for run once.

Each plan is carried out by a job in a thread of its own. Who asks for values that a job is already
bringing waits for that job; who gives up (Ctrl-C, `interrupt`) stops it only if nobody else waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb

from flordb.query.acquire import check_budget
from flordb.replay.execute import Progress, Report, execute
from flordb.replay.plan import Plan, make_plan
from flordb.replay.want import Want
from flordb.settings import Settings
from flordb.store.project import Project

_TICK_SECONDS = 0.05
_STOPPING_SECONDS = 10.0
_KEPT_SECONDS = 60.0

Key = tuple[str, str, int | None]
"""A run's file, a name, and an iteration of the main loop; None for all of the run."""


class _Stopped(BaseException):
    """Ends a job's replays, as Ctrl-C does."""


class _Job:
    """A plan being carried out. ``keys``: what it brings; ``waiting``: how many wait for it."""

    def __init__(self, project: Project, plan: Plan, settings: Settings, keys: set[Key]) -> None:
        self.keys = keys
        self.waiting = 0
        self.latest: Progress | None = None
        self.report: Report | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()
        self.ended = 0.0
        self.stopped = False
        arguments = (project, plan, settings)
        threading.Thread(target=self._run, args=arguments, name="flordb-acquire").start()

    def _run(self, project: Project, plan: Plan, settings: Settings) -> None:
        try:
            self.report = execute(project, plan, settings, self._note)
        except BaseException as error:
            self.error = error
        finally:
            self.ended = time.monotonic()
            self.done.set()

    def _note(self, progress: Progress) -> None:
        self.latest = progress
        if self.stopped:
            raise _Stopped

    def brought(self, since: float) -> bool:
        """Whether it has brought its values, and after that time."""
        return self.done.is_set() and self.report is not None and self.ended >= since

    def wait(self, progress: Callable[[Progress], None] | None, stop: threading.Event) -> Report:
        """The job's report, once it is done. Raises what the job raised."""
        shown = None
        while True:
            ended = self.done.wait(_TICK_SECONDS)
            if progress is not None and self.latest is not shown and self.latest is not None:
                shown = self.latest
                progress(shown)
            if ended:
                break
            if stop.is_set():
                raise duckdb.InterruptException("INTERRUPT Error: Interrupted!")
        if self.error is not None:
            raise self.error
        assert self.report is not None
        return self.report


class _Desk:
    """The jobs of one project."""

    def __init__(self) -> None:
        self._planning = threading.Lock()
        self._lock = threading.Lock()
        self._jobs: list[_Job] = []

    def ask(
        self,
        project: Project,
        wants: Sequence[Want],
        settings: Settings,
        stop: threading.Event,
        since: float,
    ) -> list[_Job]:
        """The jobs that bring what is wanted, where need be a new one. Raises BudgetExceeded."""
        with self._one_plans(stop):
            jobs, rest = self._under_way(wants, since)
            try:
                if rest:
                    plan = make_plan(project, rest, settings)
                    check_budget(plan, settings)
                    jobs.append(self._begin(project, plan, settings, rest))
            except BaseException:
                self.leave(jobs)
                raise
            return jobs

    @contextmanager
    def _one_plans(self, stop: threading.Event) -> Iterator[None]:
        while not self._planning.acquire(timeout=_TICK_SECONDS):
            if stop.is_set():
                raise duckdb.InterruptException("INTERRUPT Error: Interrupted!")
        try:
            yield
        finally:
            self._planning.release()

    def _under_way(self, wants: Sequence[Want], since: float) -> tuple[list[_Job], list[Want]]:
        """The jobs that bring some of it, or since brought it, and what none of them brings."""
        joined: list[_Job] = []
        rest: list[Want] = []
        with self._lock:
            kept = min(since, time.monotonic() - _KEPT_SECONDS)
            self._jobs = [
                job
                for job in self._jobs
                if job.brought(kept) or not (job.stopped or job.done.is_set())
            ]
            serving = [job for job in self._jobs if job.brought(since) or not job.done.is_set()]
            for want in wants:
                left: dict[tuple[int | None, ...], list[str]] = {}
                for name in want.names:
                    bringing = {
                        key: job
                        for key in _keys(want, name)
                        for job in serving
                        if key in job.keys or (key[0], name, None) in job.keys
                    }
                    joined += [job for job in bringing.values() if job not in joined]
                    lacking = tuple(k[2] for k in _keys(want, name) if k not in bringing)
                    left.setdefault(lacking, []).append(name)
                rest += [_part(want, names, lacking) for lacking, names in left.items() if lacking]
            for job in joined:
                job.waiting += 1
        return joined, rest

    def _begin(
        self, project: Project, plan: Plan, settings: Settings, wants: Sequence[Want]
    ) -> _Job:
        keys = {key for want in wants for name in want.names for key in _keys(want, name)}
        job = _Job(project, plan, settings, keys)
        with self._lock:
            job.waiting = 1
            self._jobs.append(job)
        return job

    def leave(self, jobs: Sequence[_Job]) -> None:
        """No longer wait for these; those that nobody waits for are stopped."""
        with self._lock:
            for job in jobs:
                job.waiting -= 1
                job.stopped = job.stopped or (job.waiting == 0 and not job.done.is_set())
        for job in jobs:
            if job.stopped:
                job.done.wait(_STOPPING_SECONDS)


def _keys(want: Want, name: str) -> list[Key]:
    if want.iterations is None:
        return [(want.file, name, None)]
    return [(want.file, name, index) for index in want.iterations]


def _part(want: Want, names: Sequence[str], indexes: tuple[int | None, ...]) -> Want:
    whole = want.iterations is None
    chosen = None if whole else tuple(index for index in indexes if index is not None)
    return replace(want, names=tuple(names), iterations=chosen)


_desks: dict[Path, _Desk] = {}
_desks_lock = threading.Lock()


def acquire(
    project: Project,
    wants: Sequence[Want],
    settings: Settings,
    progress: Callable[[Progress], None] | None,
    stop: threading.Event,
    since: float | None = None,
) -> list[Report]:
    """Have wants replayed, by jobs that are under way or by a new one; returns when all are done.

    Parameters: ``progress``, called in this thread; ``stop``, ends the waiting when it is set;
    ``since``, when (`time.monotonic`) it was looked up what is lacking (None: just now).
    Raises BudgetExceeded where the new job would cost more than the settings allow,
    duckdb.InterruptException when stopped.
    """
    with _desks_lock:
        desk = _desks.setdefault(project.root.resolve(), _Desk())
    moment = time.monotonic() if since is None else since
    jobs = desk.ask(project, wants, settings, stop, moment)
    try:
        return [job.wait(progress, stop) for job in jobs]
    finally:
        desk.leave(jobs)
