"""A plan in words: what ``EXPLAIN``, ``flordb plan`` and an exceeded budget show.

All read the plan that will be carried out, so that what is shown is what is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flordb.replay import lacking

if TYPE_CHECKING:
    from flordb.replay.plan import Plan


_MOST_ROWS = 20

NOT_AGAIN = "not tried again until its statement changes"
"""What is said of values that an earlier replay did not give."""

HEADER = ("tstamp", "filename", "columns", "scan", "iterations", "seconds", "notes")


def describe(plan: Plan) -> str:
    """Some lines of text: the price, then a line a replay, then what cannot be had and why."""
    lines = [headline(plan) if plan.tasks or plan.refusals else "Nothing to acquire."]
    if plan.tasks:
        lines += _aligned([HEADER, *rows(plan)[:_MOST_ROWS]])
        lines += _more(len(plan.tasks), "replays")
    refused = lacking.lines(plan.refusals)
    lines += [f"  cannot be had: {line}" for line in refused[:_MOST_ROWS]]
    lines += _more(len(refused), "reasons")
    tried = lacking.lines(plan.tried)
    lines += [f"  {NOT_AGAIN}: {line}" for line in tried[:_MOST_ROWS]]
    lines += _more(len(tried), "reasons")
    return "\n".join(lines)


def headline(plan: Plan) -> str:
    """The price in one line."""
    runs = len({task.want.run_id for task in plan.tasks})
    text = (
        f"To acquire: {len(plan.tasks)} replay{'s' * (len(plan.tasks) != 1)} of "
        f"{runs} run{'s' * (runs != 1)}, about {plan.seconds:.1f} s with "
        f"{plan.workers} worker{'s' * (plan.workers != 1)}"
    )
    if plan.money is not None:
        text += f", at a price of {plan.money:.2f}"
    if plan.refusals:
        text += f"; {len(plan.refusals)} that cannot be had"
    return text


def rows(plan: Plan) -> list[tuple[str, ...]]:
    """A row a replay, under `HEADER`."""
    return [
        (
            f"{task.want.tstamp:%Y-%m-%d %H:%M:%S}",
            task.want.filename,
            ", ".join(task.names),
            task.scan,
            ranges(task.iterations) if task.iterations is not None else "all",
            f"{task.seconds:.1f}",
            "; ".join(task.notes),
        )
        for task in plan.tasks
    ]


def ranges(numbers: Iterable[int]) -> str:
    """``2-4, 7`` for 2, 3, 4, 7."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1] = [found[-1][0], number]
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _more(count: int, what: str) -> list[str]:
    return [f"  … and {count - _MOST_ROWS} more {what}"] if count > _MOST_ROWS else []
