"""What a query lacks. Planning a query must not cost the import of all that a replay needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Want:
    """Values that a query lacks, of one run.

    ``file``: the run file's name; ``iterations``: the indexes of the top-level loop that are
    wanted, None for all.
    """

    run_id: int
    projid: str
    tstamp: datetime
    filename: str
    file: str
    version: str | None
    names: tuple[str, ...]
    iterations: tuple[int, ...] | None = None
