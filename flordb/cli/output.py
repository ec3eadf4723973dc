"""Rows on stdout: a table that fits the terminal, plain text in a pipe, JSON or CSV on request."""

from __future__ import annotations

import csv
import datetime
import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

_MOST_ROWS_SHOWN = 60


def show_rows(
    names: Sequence[str], rows: Sequence[Sequence[Any]], *, as_json: bool, as_csv: bool = False
) -> None:
    """Print rows. On a terminal long results are cut in the middle, nowhere else."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(dict(zip(names, map(plain, row), strict=True))))
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows(rows)
    elif sys.stdout.isatty():
        _table(names, rows)
    else:
        click.echo("\t".join(names))
        for row in rows:
            click.echo("\t".join(_in_line(text(value)) for value in row))


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*names, caption=f"{len(rows)} rows" if len(rows) != 1 else "1 row")
    half = _MOST_ROWS_SHOWN // 2
    shown: Iterable[Sequence[Any] | None] = rows
    if len(rows) > _MOST_ROWS_SHOWN:
        shown = [*rows[:half], None, *rows[-half:]]
    for row in shown:
        table.add_row(*("·" for _ in names) if row is None else (text(value) for value in row))
    Console().print(table)


def text(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    return str(value)


_ESCAPES = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r"})


def _in_line(shown: str) -> str:
    """A text as one field of one line, for ``cut`` and ``wc``; JSON and CSV keep it as it is."""
    return shown.translate(_ESCAPES)


def plain(value: Any) -> Any:
    """A value as JSON has it: dates in ISO 8601, NaN and infinities as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    return str(value)
