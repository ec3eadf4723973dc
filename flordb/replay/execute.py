"""Carries out a plan. What has been acquired is kept, whatever happens to the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from flordb.replay.local import Local
from flordb.replay.outcomes import Failure, Outcomes, Report, Result
from flordb.replay.plan import Plan
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
            with _runner(project, plan, settings) as runner:
                _run(runner, plan, outcomes, progress or _silent)
    finally:
        outcomes.commit()
    return outcomes.report()


def _runner(project: Project, plan: Plan, settings: Settings) -> Runner:
    if settings.on == "ray":
        from flordb.replay.cluster import OnRay

        return OnRay(project, plan, settings)
    return Local(project, plan, settings)


def _run(
    runner: Runner,
    plan: Plan,
    outcomes: Outcomes,
    progress: Callable[[Progress], None],
) -> None:
    done: set[int] = set()
    try:
        while runner.busy:
            for result in runner.wait():
                outcomes.take(plan.tasks[result.number], result)
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
