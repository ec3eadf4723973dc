"""How a connection to a project is made: its options, and DuckDB opened."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from flordb import settings as _settings
from flordb.errors import ProjectError
from flordb.query.options import ACQUIRE
from flordb.settings import seconds_of
from flordb.store.project import Project, find_project
from flordb.uncollected import uncollected

if TYPE_CHECKING:
    from flordb.query.connection import Connection
    from flordb.replay.execute import Progress


def connect(
    project: str | Path | Project | None = None,
    *,
    acquire: str | None = None,
    budget: str | float | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Connection:
    """Connect to a project's history.

    Parameters: ``project``, its folder (default: the one around the working folder); ``acquire``,
    ``'auto'`` (replay what a query lacks, within the budget), ``'always'`` (at any price) or
    ``'never'``; ``budget``, in seconds or as a text such as ``'5 min'``; ``workers``, replays at
    the same time (default: one a core); ``progress``, called during acquisitions (default: a bar
    on a terminal's stderr or in the notebook). ``SET flor_acquire = …`` and
    ``SET flor_budget = …`` change the first two later. Raises ProjectError where there is no
    project, or for an option that is none.
    """
    if acquire not in (None, *ACQUIRE):
        raise ProjectError(f"acquire={acquire!r}: expected 'auto', 'always' or 'never'")
    try:
        seconds = None if budget is None else seconds_of(budget)
    except ValueError as error:
        raise ProjectError(f"budget: {error}") from None
    found = project if isinstance(project, Project) else find_project(_path(project))
    chosen = _settings.load(found.root, acquire=acquire, budget_seconds=seconds, workers=workers)
    with ThreadPoolExecutor(1) as pool, uncollected():
        opening = pool.submit(duckdb.connect, ":memory:")
        # DuckDB opens without holding the GIL, in which time Python can import the planner.
        from flordb.query.connection import Connection

        return Connection(found, chosen, progress, opening.result())


def _path(project: str | Path | None) -> Path | None:
    return Path(project) if project is not None else None
