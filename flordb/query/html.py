"""Results and plans as HTML tables, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from flordb.query.explain import HEADER, headline, rows
from flordb.query.result import Result
from flordb.replay import lacking

if TYPE_CHECKING:
    from flordb.replay.plan import Plan

_MOST_ROWS = 50
_MOST_COLUMNS = 200


def table_of(result: Result) -> str:
    """The first rows of a result, and how many there are."""
    shown = result.head(_MOST_ROWS)
    names = result.names
    if len(names) > _MOST_COLUMNS:
        names = [*names[:_MOST_COLUMNS], f"… and {len(names) - _MOST_COLUMNS} more columns"]
        shown = [(*row[:_MOST_COLUMNS], "…") for row in shown]
    count = result.rowcount
    caption = f"{count:,} row{'s' * (count != 1)}"
    if count > len(shown):
        caption += f", of which the first {len(shown)}"
    return _table(names, shown, caption)


def plan_of(plan: Plan) -> str:
    """What would be replayed, a row a replay, and what cannot be had."""
    table = _table(HEADER, rows(plan)[:_MOST_ROWS], headline(plan)) if plan.tasks else ""
    refused = "".join(
        f"<li>{escape(line)}</li>" for line in lacking.lines(plan.refusals)[:_MOST_ROWS]
    )
    if refused:
        return f"{table}<p>Cannot be had:</p><ul>{refused}</ul>"
    return table or "<p>Nothing to acquire.</p>"


def _table(names: Sequence[str], shown: Iterable[Sequence[Any]], caption: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in shown)
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        f"<caption>{escape(caption)}</caption></table>"
    )


def _cell(value: Any) -> str:
    if value is None:
        return '<td style="opacity: 0.5">NULL</td>'
    return f"<td>{escape(str(value))}</td>"
