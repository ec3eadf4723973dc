"""The rows of flor_pivot against a slow and obvious reading of docs/architecture.md."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import duckdb
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from runfiles import Node, header, lines_of, project, write

from flordb.settings import Settings
from flordb.store import catalog

NAMES = ["a", "b", "c"]
LOOPS = ["x", "y"]
Nest = tuple[str, ...]
Row = dict[str, Any]


# --- the oracle -----------------------------------------------------------------------------------


def nests_of(node: Node, nest: Nest = ()) -> set[tuple[str, Nest]]:
    """(name, nest) for all that was logged; a loop's own name stands for its iterations."""
    found = {(name, nest) for name, _ in node.logs}
    for loop, iterations in node.loops:
        for iteration in iterations:
            found |= {(f"loop {loop}", (*nest, loop))} | nests_of(iteration, (*nest, loop))
    return found


def rows_of(node: Node, nest: Nest, asked: list[str], where: set[tuple[str, Nest]]) -> list[Row]:
    """The rows of one context and all below it."""
    below: list[Row] = []
    for loop, iterations in node.loops:
        nth = nest.count(loop) + 1
        column = loop if nth == 1 else f"{loop}_{nth}"
        for index, iteration in enumerate(iterations):
            for row in rows_of(iteration, (*nest, loop), asked, where):
                below.append({**row, column: index})
    occurrences: list[Row] = []
    counts: collections.Counter[str] = collections.Counter()
    for name, value in node.logs:
        if name not in asked:
            continue
        if counts[name] == len(occurrences):
            occurrences.append({})
        occurrences[counts[name]][name] = value
        counts[name] += 1
    if nest and nest[-1] in asked and nest.count(nest[-1]) == 1 and not occurrences:
        occurrences.append({})

    def is_below(name: str) -> bool:
        return any(n == name and len(at) > len(nest) and at[: len(nest)] == nest for n, at in where)

    lower = {name for name in asked if is_below(name)}
    if not below:
        return occurrences
    upper = [
        {name: value for name, value in row.items() if name not in lower}
        for row in occurrences
        if set(row) - lower
    ]
    rows = [{**row, **over} for over in upper for row in below] if upper else below
    return rows + [row for row in occurrences if set(row) & lower]


def oracle(runs: list[Node], asked: list[str]) -> collections.Counter[Any]:
    where = set().union(*(nests_of(run) for run in runs))
    rows: list[Row] = []
    for number, run in enumerate(runs):
        tstamp = datetime(2023, 6, number + 1, 10)
        found = rows_of(run, (), asked, where) if asked else [{}]
        rows += [{**row, "tstamp": tstamp} for row in found]
    return collections.Counter(map(_frozen, rows))


def _frozen(row: Row) -> Any:
    return frozenset((name, value) for name, value in row.items() if value is not None)


# --- random histories -----------------------------------------------------------------------------

_values = st.one_of(st.integers(-3, 3), st.none())


def nodes(depth: int) -> st.SearchStrategy[Node]:
    logs = st.lists(st.tuples(st.sampled_from(NAMES), _values), max_size=4)
    if depth == 0:
        return st.builds(Node, logs)
    loop = st.tuples(st.sampled_from(LOOPS), st.lists(nodes(depth - 1), max_size=3))
    return st.builds(Node, logs, st.lists(loop, max_size=2))


@settings(
    max_examples=9,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    runs=st.lists(nodes(3), min_size=1, max_size=3),
    questions=st.lists(
        st.lists(st.sampled_from([*NAMES, *LOOPS]), unique=True, max_size=4),
        min_size=2,
        max_size=5,
        unique_by=tuple,
    ),
)
def test_rows_are_those_of_the_oracle(
    tmp_path_factory: pytest.TempPathFactory, runs: list[Node], questions: list[list[str]]
) -> None:
    known = {name for run in runs for name, _ in nests_of(run)}
    answers = []
    with history(tmp_path_factory, runs) as db:
        for asked in questions:
            used = [name for name in asked if name in known or f"loop {name}" in known]
            expected = oracle(runs, used) if used or not asked else collections.Counter()
            assert _rows(db, asked) == expected
            answers.append((asked, expected))
        assert _rows(db, [*asked, "none"]) == (expected if used else collections.Counter())
        # The form that the pivot takes for many names.
        db.execute("CREATE OR REPLACE MACRO flordb.main.flor_many() AS 0")
        for asked, expected in answers[:2]:
            assert _rows(db, asked) == expected


def test_many_names_without_columns_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Texts: the pivot takes more than a dozen together, with an aggregate each."""
    names = [f"t{number}" for number in range(15)]

    def run(number: int) -> Node:
        xs = [
            Node([(name, f"{name} {x}") for name in names[x:9] + names[3:4]]) for x in range(number)
        ]
        return Node([(name, f"{name} outside") for name in names[number:]], [("x", xs)])

    runs = [run(number) for number in range(4)]
    with history(tmp_path_factory, runs) as db:
        (text,) = db.execute(f"SELECT flor_pivot_sql({names!r}::VARCHAR[])").fetchall()[0]
        assert "any_value(" in text
        for asked in (names, [*names, "x"], names[:14]):
            assert _rows(db, asked) == oracle(runs, asked)


def test_a_loop_is_not_taken_for_a_name_that_has_its_number(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The third name, `w`, is in each epoch, and the third loop, `train`, only in the first one."""
    first = [("test", [Node([("y", 1), ("w", 1)])]), ("train", [Node()])]
    epochs = [Node([("x", 0)], first), Node([("x", 1)], [("test", [Node([("w", 2)])])])]
    runs = [Node([], [("epoch", epochs)])]
    with history(tmp_path_factory, runs) as db:
        assert db.execute("SELECT name_id FROM names WHERE name = 'w'").fetchall() == [(3,)]
        assert _rows(db, ["train", "x", "y"]) == oracle(runs, ["train", "x", "y"])
        assert _rows(db, ["train", "x"]) == oracle(runs, ["train", "x"])


@contextmanager
def history(
    tmp_path_factory: pytest.TempPathFactory, runs: list[Node]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The runs, taken in. In memory: as the database file would be, and quicker than one."""
    place = project(tmp_path_factory.mktemp("oracle") / "p")
    for number, run in enumerate(runs):
        write(place, f"r{number}", lines_of(run), header(number))
    with duckdb.connect() as db:
        catalog.attach_in_memory(db, place, Settings())
        yield db


def _rows(db: duckdb.DuckDBPyConnection, asked: list[str]) -> collections.Counter[Any]:
    found = db.sql(f"FROM flor_pivot({asked!r}::VARCHAR[])")
    columns = found.columns
    left_out = {"projid", "filename", *(c for c in columns if c.endswith("_value"))}
    return collections.Counter(
        _frozen({c: v for c, v in zip(columns, row, strict=True) if c not in left_out})
        for row in found.fetchall()
    )
