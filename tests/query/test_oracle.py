"""Random histories and random queries.

What comes through a connection is what plain DuckDB says of the pivot; and the planner asks for a
run wherever any value of the lacking column could put one of its rows into the answer.
"""

from __future__ import annotations

import itertools
from typing import Any

import duckdb
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import flordb
from flordb.settings import Settings
from flordb.store import catalog
from tests.query.histories import history, logged, words
from tests.store.runfiles import Node

NAMES = ("a", "b", "c")
QUIET = settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)

_values = st.one_of(st.integers(-2, 2), st.none())
_logs = st.lists(st.tuples(st.sampled_from(NAMES), _values), max_size=3)
_epochs = st.lists(st.builds(Node, _logs), max_size=3)
_runs = st.lists(
    st.builds(lambda logs, x: Node(logs, [("x", x)]), _logs, _epochs), min_size=1, max_size=4
)

_columns = st.sampled_from([*NAMES, "x", "x_value"])
_atoms = st.one_of(
    st.builds("{} {} {}".format, _columns, st.sampled_from(["<", ">=", "=", "<>"]), _values),
    st.builds("{} BETWEEN {} AND {}".format, _columns, st.integers(-2, 2), st.integers(-2, 2)),
    st.builds("{} IN ({}, {})".format, _columns, st.integers(-2, 2), st.integers(-2, 2)),
    st.builds("{} IS {}NULL".format, _columns, st.sampled_from(["", "NOT "])),
    st.builds("coalesce({}, 0) = {} + {}".format, _columns, _columns, st.integers(-1, 1)),
    st.builds("day(tstamp) {} {}".format, st.sampled_from(["<=", ">", "="]), st.integers(1, 4)),
).map(lambda text: text.replace("None", "NULL"))
_conditions = st.recursive(
    _atoms,
    lambda inner: st.one_of(
        st.builds("({} AND {})".format, inner, inner),
        st.builds("({} OR {})".format, inner, inner),
        st.builds("NOT ({})".format, inner),
    ),
    max_leaves=4,
)
_selected = st.lists(
    st.sampled_from(["tstamp", "filename", *NAMES, "x", "a + b AS d", "x_value * 2 AS b2"]),
    min_size=1,
    max_size=4,
    unique=True,
)


def readable(runs: list[Node], texts: list[str]) -> bool:
    """Whether the texts only name what some run has recorded."""
    unknown = {*NAMES, "x", "x_value"} - logged(runs)
    return not unknown & set(words(" ".join(texts)))


_queries = st.tuples(
    _selected, st.none() | _conditions, st.none() | st.integers(0, 4), st.booleans()
)


@QUIET
@given(runs=_runs, queries=st.lists(_queries, min_size=2, max_size=4))
def test_a_query_of_stored_names_is_answered_as_by_plain_duckdb(
    tmp_path_factory: pytest.TempPathFactory, runs: list[Node], queries: list[Any]
) -> None:
    place = history(tmp_path_factory.mktemp("rows"), runs)
    with duckdb.connect() as plain, flordb.connect(place) as connection:
        catalog.attach_in_memory(plain, place, Settings())
        for selected, where, limit, newest_first in queries:
            if not readable(runs, [*selected, where or ""]):
                continue
            used = _used([*selected, where or ""])
            condition = f" WHERE {where}" if where else ""
            query = f"SELECT {', '.join(selected)} FROM {{}}{condition} ORDER BY ALL"
            if newest_first:
                query = f"SELECT tstamp FROM {{}}{condition} ORDER BY tstamp DESC, filename"
                used = _used([where or ""])
            query += f" LIMIT {limit}" if limit is not None else ""
            covered = _covered(runs, used)
            asked = [name for name in used if name != "x" or not covered]
            pivot = f"flor_pivot({asked}::VARCHAR[]) AS flor"
            expected = plain.execute(query.format(pivot)).fetchall()
            assert connection.execute(query.format("flor")).fetchall() == expected


def _used(texts: list[str]) -> list[str]:
    found = words(" ".join(texts))
    return [name for name in (*NAMES, "x") if name in found or f"{name}_value" in found]


def _covered(runs: list[Node], used: list[str]) -> bool:
    """Whether a name that is used was logged inside the loop, which then gives its rows."""
    return any(
        name in used
        for run in runs
        for _, nodes in run.loops
        for node in nodes
        for name, _ in node.logs
    )


@QUIET
@given(
    runs=_runs,
    conditions=st.lists(_conditions, min_size=2, max_size=4),
    lacking=st.sampled_from(["late", "final"]),
)
def test_no_run_that_could_matter_is_left_out(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[Node],
    conditions: list[str],
    lacking: str,
) -> None:
    """The slow oracle: give every run each of some values, and see which come into the answer."""
    place = history(tmp_path_factory.mktemp("wants"), runs)
    whole = history(tmp_path_factory.mktemp("complete"), [_complete(r, lacking) for r in runs])
    index = "x" if lacking == "late" else "0"
    with flordb.connect(place) as connection, flordb.connect(whole, acquire="never") as complete:
        for where in conditions:
            if not readable(runs, [where]):
                continue
            plan = connection.plan(f"SELECT {lacking} FROM flor WHERE {where}")
            asked = {
                (refused.want.tstamp.day, number)
                for refused in plan.refusals
                for number in refused.want.iterations or range(3)
            }
            rows = complete.execute(
                f"SELECT DISTINCT day(tstamp), {index} FROM flor WHERE {where} AND {lacking} = 7"
            ).fetchall()
            assert set(rows) <= asked, where


def _complete(run: Node, lacking: str) -> Node:
    """The run as it would be had it logged the column."""
    if lacking == "final":
        return Node([*run.logs, ("final", 7)], run.loops)
    loops = [
        (name, [Node([*node.logs, ("late", 7)], node.loops, node.value) for node in nodes])
        for name, nodes in run.loops
    ]
    return Node(run.logs, loops)


def test_every_pair_of_conditions_is_decided_alike_in_both_orders(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    runs = [Node([("a", n)], [("x", [Node([("b", n + x)]) for x in range(3)])]) for n in range(3)]
    place = history(tmp_path_factory.mktemp("orders"), runs)
    atoms = ["a > 0", "b = 2", "x IN (0, 2)", "day(tstamp) < 3", "late > 0"]
    with flordb.connect(place) as connection:
        for one, two in itertools.combinations(atoms, 2):
            plans = [
                connection.plan(f"SELECT late FROM flor WHERE {first} AND {second}")
                for first, second in ((one, two), (two, one))
            ]
            found = [[(r.want.run_id, r.want.iterations) for r in p.refusals] for p in plans]
            assert sorted(found[0]) == sorted(found[1])
