"""Acquisition: replays what a statement lacks, within the budget, until nothing more is lacking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from flordb.errors import warn
from flordb.query.errors import BudgetExceeded
from flordb.query.explain import NOT_AGAIN
from flordb.replay import lacking
from flordb.replay.lacking import Key, Tried, keys
from flordb.replay.want import Want
from flordb.settings import Settings
from flordb.store.project import Project

if TYPE_CHECKING:
    from flordb.replay.execute import Progress, Report
    from flordb.replay.plan import Plan

_MOST_SAID = 5


def check_budget(plan: Plan, settings: Settings) -> None:
    """Raise BudgetExceeded where a plan costs more than the settings allow."""
    if settings.acquire == "always" or plan.seconds <= settings.budget_seconds:
        return
    raise BudgetExceeded(plan, settings.budget_seconds)


def without(wants: Iterable[Want], asked: set[tuple[int, str, int | None]]) -> tuple[Want, ...]:
    """The wants that were not asked for before, which they now are.

    What a statement's first attempt did not give, its second would not give either.
    """
    found = []
    for want in wants:
        indexes: Sequence[int | None] = want.iterations if want.iterations is not None else (None,)
        keys = {name: {(want.run_id, name, index) for index in indexes} for name in want.names}
        names = tuple(name for name in want.names if not keys[name] <= asked)
        asked.update(*keys.values())
        if names:
            found.append(replace(want, names=names))
    return tuple(found)


def acquire(
    project: Project,
    plan: Plan,
    settings: Settings,
    progress: Callable[[Progress], None] | None,
) -> Report:
    """Carry out a plan, and warn of what could not be had and of what came out differently."""
    from flordb.replay.execute import execute

    report = execute(project, plan, settings, progress)
    tell(report)
    return report


def tell(report: Report) -> None:
    """Warn the user, once a query, of what `sentences` says."""
    for sentence in sentences([report]):
        warn(sentence)


def in_vain(tried: Iterable[Tried]) -> list[str]:
    """What users should know of values that earlier replays did not give: why, and what to do."""
    lines = lacking.lines(tried)
    return [f"{NOT_AGAIN}: {line}" for line in lines[:_MOST_SAID]] + _more(len(lines))


def untold(tried: Iterable[Tried], told: set[Key]) -> list[Tried]:
    """Those of them of which the user was not told before, which he now is."""
    found = [each for each in tried if not keys(each) <= told]
    told.update(*map(keys, found))
    return found


def sentences(reports: Iterable[Report]) -> list[str]:
    """What users should know of replays: what could not be had, what came out differently."""
    reports = list(reports)
    lines = lacking.lines(failure for report in reports for failure in report.failures)
    found = lines[:_MOST_SAID] + _more(len(lines))
    anomalies = [text for report in reports for text in report.anomalies]
    found += [
        f"a replay came out differently: {text}; see SELECT * FROM replay_anomalies"
        for text in anomalies[:_MOST_SAID]
    ]
    return found + _changed_inputs(dict.fromkeys(i for report in reports for i in report.inputs))


def _more(count: int) -> list[str]:
    if count <= _MOST_SAID:
        return []
    more = count - _MOST_SAID
    return [f"{more} more reasons why values are lacking: SELECT * FROM acquisitions"]


def _changed_inputs(inputs: Iterable[tuple[str, datetime]]) -> list[str]:
    """A sentence a file that was written after the runs that read it."""
    runs: dict[str, int] = Counter(path for path, _ in inputs)
    said = [
        f"{path} was written after {count} of the replayed runs had ended: what they compute from "
        "it is computed from the file as it is now"
        for path, count in list(runs.items())[:_MOST_SAID]
    ]
    if len(runs) > _MOST_SAID:
        said.append(f"so were {len(runs) - _MOST_SAID} more files: SELECT * FROM acquisitions")
    return said
