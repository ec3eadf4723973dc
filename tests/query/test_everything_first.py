"""Statements in all the forms that DuckDB knows: where a column is acquired on the way, the answer
is the one that a project gives where it was acquired before.
"""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flordb
from flordb.query import sharing
from flordb.query.connection import Connection
from flordb.store.project import Project
from tests.query.histories import Replays, complete, history
from tests.store.runfiles import Node


def _run(number: int) -> Node:
    """``a`` and ``lr`` outside loops, ``b`` twice in x = 1, ``d`` in the loop y below it."""
    xs = []
    for x in range(3):
        values = [number * 10 + x, number * 10 + x + 5][: 1 + (x == 1)]
        ys = [Node([("d", number + x + y)]) for y in range(2)]
        xs.append(Node([("b", value) for value in values], [("y", ys)]))
    zs = [Node([("e", number - z)]) for z in range(2)]
    return Node([("a", number % 2), ("lr", number)], [("x", xs), ("z", zs)])


RUNS = [_run(number) for number in range(4)]
TABLES = (
    "CREATE OR REPLACE TABLE notes AS SELECT * FROM "
    "(VALUES (0, 'zero'), (1, 'one'), (2, 'two'), (7, 'seven')) t(a, note)",
    "CREATE OR REPLACE TABLE ticks AS SELECT TIMESTAMP '2023-06-01' + to_hours(12 * i) AS at, i "
    "FROM range(10) t(i)",
)


def statements() -> list[str]:
    """Each is a block of the file; the last statement of a block gives the rows."""
    text = Path(__file__).with_name("fixtures").joinpath("odd.sql").read_text()
    blocks = (block.strip() for block in text.split("\n\n"))
    return [block for block in blocks if not block.startswith("--")]


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Four runs, of which only the third has ``late``, and none ``final``."""
    runs = [complete(run, n, {"late"} if n == 2 else set()) for n, run in enumerate(RUNS)]
    place = history(tmp_path_factory.mktemp("lacking"), runs)
    with flordb.connect(place, acquire="never") as connection:
        connection.execute("FROM runs")  # all is taken in
    return place


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A connection to the same runs with all values."""
    runs = [complete(run, n, {"late", "final"}) for n, run in enumerate(RUNS)]
    place = history(tmp_path_factory.mktemp("whole"), runs)
    with flordb.connect(place, acquire="never") as connection:
        yield connection


@pytest.mark.parametrize("sql", statements())
def test_answers(
    sql: str, lacking: Project, whole: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replays = Replays(RUNS)
    monkeypatch.setattr(sharing, "make_plan", replays.plan)
    monkeypatch.setattr(sharing, "execute", replays.execute)
    shutil.copytree(lacking.root, tmp_path / "p")
    with flordb.connect(tmp_path / "p") as connection:
        assert rows(connection, sql) == rows(whole, sql)


def rows(connection: Connection, sql: str) -> Counter[str]:
    for table in TABLES:
        connection.execute(table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found: list[Any] = connection.execute(sql).fetchall()
    return Counter(map(repr, found))
