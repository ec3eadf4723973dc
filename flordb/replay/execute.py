"""Carries out a plan. What has been acquired is kept, whatever happens to the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from flordb.replay import learnt, pool
from flordb.replay.afterwards import afterwards
from flordb.replay.fetching import fetch_spooled
from flordb.replay.local import Local
from flordb.replay.outcomes import Failure, Outcomes, Report, Result
from flordb.replay.plan import Plan, Task
from flordb.settings import Settings
from flordb.store.project import Project

__all__ = ["Failure", "Progress", "Report", "execute"]


@dataclass(frozen=True)
class Progress:
    """How far a plan has come, in tasks and in estimated seconds.

    ``seconds_left``: until all tasks are done, as they share the workers.
    """

    done: int
    total: int
    seconds_done: float
    seconds_total: float
    label: str
    seconds_left: float = 0.0


class Runner(Protocol):
    """Where the tasks run: on this machine (`replay.local`) or on a cluster (`replay.cluster`)."""

    def __enter__(self) -> Runner: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    @property
    def busy(self) -> bool: ...

    def elapsed(self) -> dict[int, float]: ...

    def wait(self) -> list[Result]: ...

    def stop(self) -> list[Result]: ...


def execute(
    project: Project,
    plan: Plan,
    settings: Settings,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Run a plan's tasks, and write their values and outcomes as replay files.

    Parameters: ``progress``, called some times a second. What it raises, as Ctrl-C, stops all
    workers at once; what they have completed is kept. The next sync takes the files in. Raises
    ReplayError where no worker can be had at all.
    """
    project.prepare()
    outcomes = Outcomes(project)
    for refused in plan.refusals:
        outcomes.refuse(refused)
    try:
        if plan.tasks:
            fetch_spooled(project, plan.tasks)
            with (
                _lessons(project, plan, settings) as lessons,
                _runner(project, plan, settings) as runner,
            ):
                _run(runner, plan, outcomes, lessons, progress or _silent)
    finally:
        afterwards(outcomes.commit)
    return outcomes.report()


@dataclass
class _Lessons:
    """What the tasks of a plan took, to learn from."""

    ended: list[tuple[Task, dict[str, Any]]] = field(default_factory=list)

    def add(self, task: Task, result: Result) -> None:
        end = next((line for line in result.lines if line["k"] == "done"), None)
        if end is not None and not end["error"]:
            self.ended.append((task, end))


@contextmanager
def _lessons(project: Project, plan: Plan, settings: Settings) -> Iterator[_Lessons]:
    """Gathers what a plan's tasks take; it is learnt where all of them have ended well."""
    lessons = _Lessons()
    pool.imports_took()
    cold, began = not pool.is_warm(), time.monotonic()
    yield lessons
    imports = pool.imports_took()
    if settings.on != "local" or settings.worker_start != "fork" or not lessons.ended:
        return
    known = learnt.load(project.store)
    known.imports |= imports
    longest = 0.0
    for task, end in lessons.ended:
        took = end["took"]
        known.worked(task.want.filename, task.scan, task.together, task.parts, took)
        longest = max(longest, took["setup"] + took["restored"] + took["computed"])
    beyond = time.monotonic() - began - longest
    script, scan, parts = task.want.filename, task.scan, task.parts
    if cold and len(plan.tasks) <= plan.workers:
        usual = known.rates(script, scan, False).handing.of(parts.handing)
        known.started(beyond - usual)
    elif len(lessons.ended) == len(plan.tasks) == 1 and not imports:
        known.handed(script, scan, parts, beyond)
    learnt.save(project.store, known)


def _runner(project: Project, plan: Plan, settings: Settings) -> Runner:
    if settings.on == "ray":
        from flordb.replay.cluster import OnRay

        return OnRay(project, plan, settings)
    return Local(project, plan, settings)


def _run(
    runner: Runner,
    plan: Plan,
    outcomes: Outcomes,
    lessons: _Lessons,
    progress: Callable[[Progress], None],
) -> None:
    done: set[int] = set()
    try:
        while runner.busy:
            for result in runner.wait():
                outcomes.take(plan.tasks[result.number], result)
                lessons.add(plan.tasks[result.number], result)
                done.add(result.number)
            progress(_progress(plan, done, runner.elapsed()))
    except BaseException:
        for result in runner.stop():
            outcomes.take_stopped(plan.tasks[result.number], result)
        raise


def _silent(progress: Progress) -> None:
    """Show nothing."""


def _progress(plan: Plan, done: set[int], elapsed: dict[int, float]) -> Progress:
    spent = {
        number: task.seconds if number in done else min(elapsed.get(number, 0.0), task.seconds)
        for number, task in enumerate(plan.tasks)
    }
    left = [task.seconds - spent[number] for number, task in enumerate(plan.tasks)]
    names = sorted({name for task in plan.tasks for name in task.names})
    total = sum(task.seconds for task in plan.tasks)
    return Progress(
        *(len(done), len(plan.tasks), sum(spent.values()), total, ", ".join(names)),
        seconds_left=max(sum(left) / max(1, plan.workers), max(left)),
    )
