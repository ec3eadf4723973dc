"""Random histories, random queries, and what they lack acquired on the way: the rows are those of
the slow way, which acquires everything first and pivots with pandas.

The slow way is figure 5.7 of the dissertation: one table a name, joined by outer merges on the
dimension columns that they share, with the design's differences: occurrences of names in one
context pair up, and names of sibling loops stand under each other. Replays are simulated: what a
plan would replay is written as a replay file, so that only what was asked for is ever there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import flordb
from flordb.query import sharing
from tests.query.histories import Replays, complete, history, logged, words
from tests.store.runfiles import Node

NESTS = {"a": (), "final": (), "b": ("x",), "late": ("x",), "d": ("x", "y"), "e": ("z",)}
LOOPS = {"x": ("x",), "y": ("x", "y"), "z": ("z",)}
RUN = ["tstamp"]
QUIET = settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)

_values = st.integers(-2, 2)


def _several(name: str) -> Any:
    return st.lists(st.tuples(st.just(name), _values), max_size=2)


_deep = st.lists(st.builds(Node, _several("d")), max_size=2)
_x = st.lists(
    st.builds(lambda logs, deep: Node(logs, [("y", deep)]), _several("b"), _deep), max_size=3
)
_z = st.lists(st.builds(Node, _several("e")), max_size=2)
_runs = st.lists(
    st.tuples(
        st.builds(lambda logs, x, z: Node(logs, [("x", x), ("z", z)]), _several("a"), _x, _z),
        st.sets(st.sampled_from(["late", "final"])),
    ),
    min_size=1,
    max_size=4,
)
_columns = st.sampled_from(["a", "b", "d", "e", "x", "y", "z", "late", "final"])
_atoms = st.one_of(
    st.builds("{} {} {}".format, _columns, st.sampled_from(["<", ">=", "=", "<>"]), _values),
    st.builds("{} BETWEEN {} AND {}".format, _columns, _values, _values),
    st.builds("{} IS {}NULL".format, _columns, st.sampled_from(["", "NOT "])),
    st.builds("coalesce({}, 0) = {}".format, _columns, _columns),
    st.builds("day(tstamp) {} {}".format, st.sampled_from(["<=", ">", "="]), st.integers(1, 4)),
)
_conditions = st.recursive(
    _atoms,
    lambda inner: st.one_of(
        st.builds("({} AND {})".format, inner, inner),
        st.builds("({} OR {})".format, inner, inner),
        st.builds("NOT ({})".format, inner),
    ),
    max_leaves=4,
)
_forms = st.sampled_from(
    [
        "SELECT tstamp, {columns} FROM flor{where}",
        "FROM flor SELECT {columns}, day(tstamp){where}",
        "SELECT count(*), {sums} FROM flor{where}",
        "SELECT day(tstamp) AS day, {sums} FROM flor{where} GROUP BY day",
        "WITH t AS (SELECT tstamp, {columns} FROM flor{where}) SELECT count(*) FROM t",
        "SELECT f.tstamp, {columns} FROM flor f{where} QUALIFY "
        "dense_rank() OVER (ORDER BY f.tstamp) < 3",
        "SELECT {columns} FROM flor{where} UNION ALL SELECT {columns} FROM flor",
        "SELECT day(tstamp) AS day, {sums} FROM flor{where} GROUP BY ROLLUP (day)",
        "SELECT {columns} FROM flor SEMI JOIN (VALUES (TIMESTAMP '2023-06-02 10:00:00')) "
        "t(tstamp) USING (tstamp){where}",
        "SELECT {columns}, max(tstamp) OVER (), (SELECT max(i + day(tstamp)) FROM range(3) t(i)) "
        "FROM flor{where}",
        "WITH RECURSIVE r AS (SELECT 0 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 2) "
        "SELECT i, {sums} FROM flor f JOIN r ON day(f.tstamp) > i{where} GROUP BY i",
    ]
)


def nest_of(name: str) -> tuple[str, ...]:
    return NESTS[name] if name in NESTS else LOOPS[name]


# --- the slow way ---------------------------------------------------------------------------------


def frame_of(runs: Sequence[Node], asked: Sequence[str]) -> pd.DataFrame:
    """The relation ``flor`` for these columns, by pandas."""
    names = [name for name in asked if name in NESTS]
    covered = {loop for name in names for loop in NESTS[name]}
    loops = [name for name in asked if name in LOOPS and name not in covered]
    nests = {nest_of(name) for name in [*names, *loops]}
    rows = {name: _rows(runs, name) for name in [*names, *loops]}
    frame = _level((), nests, rows)
    for column in LOOPS:
        if column not in frame and any(column in nest for nest in nests):
            frame[column] = None
    return frame.astype({c: "Int64" for c in frame.columns if c != "tstamp"})


def _rows(runs: Sequence[Node], name: str) -> pd.DataFrame:
    """One table of a name: its dimension columns, its occurrence and its value."""
    found: list[dict[str, Any]] = []

    def walk(node: Node, place: dict[str, Any]) -> None:
        counts: Counter[str] = Counter()
        for label, value in node.logs:
            if label == name:
                found.append({**place, "o": counts[name], name: value})
                counts[name] += 1
        for loop, iterations in node.loops:
            for index, iteration in enumerate(iterations):
                if loop == name:
                    found.append({**place, loop: index, "o": 0})
                walk(iteration, {**place, loop: index})

    for number, run in enumerate(runs):
        walk(run, {"tstamp": datetime(2023, 6, number + 1, 10)})
    nest = nest_of(name)
    columns = list(dict.fromkeys([*RUN, *nest, "o", name]))
    frame = pd.DataFrame(found, columns=columns)
    # Without rows they would have no types to be merged by.
    return frame.astype(
        {column: "datetime64[us]" if column in RUN else "Int64" for column in columns}
    )


def _level(nest: tuple[str, ...], nests: set[tuple[str, ...]], rows: dict[str, Any]) -> Any:
    """The rows of a nest: its names side by side, merged with the rows of the nests below."""
    keys = [*RUN, *nest]
    own: Any = None
    for name, table in rows.items():
        if nest_of(name) == nest:
            own = table if own is None else own.merge(table, how="outer", on=[*keys, "o"])
    own = None if own is None else own.drop(columns="o")
    below = sorted(
        {n[: len(nest) + 1] for n in nests if len(n) > len(nest) and n[: len(nest)] == nest}
    )
    parts = [_level(n, nests, rows) for n in below]
    if not parts:
        return own
    lower = pd.concat(parts, ignore_index=True)
    return lower if own is None else own.merge(lower, how="outer", on=keys)


# --- the fast way ---------------------------------------------------------------------------------


def check(
    folder: Path, runs: Sequence[tuple[Node, set[str]]], queries: Iterable[tuple[str, list[str]]]
) -> None:
    """Compare the answers of a connection that acquires as it goes with those of the slow way.

    ``queries``: SQL and the columns that it names.
    """
    place = history(folder, [complete(run, n, names) for n, (run, names) in enumerate(runs)])
    replays = Replays([run for run, _ in runs])
    known = {"final", "late", *logged(run for run, _ in runs)}
    whole = [complete(run, n, {"late", "final"}) for n, (run, _) in enumerate(runs)]
    with (
        pytest.MonkeyPatch.context() as patch,
        flordb.connect(place) as connection,
        duckdb.connect() as plain,
    ):
        patch.setattr(sharing, "make_plan", replays.plan)
        patch.setattr(sharing, "execute", replays.execute)
        for sql, asked in queries:
            if set(asked) <= known:
                plain.register("flor", frame_of(whole, asked))
                expected = plain.execute(sql).fetchall()
                found = connection.execute(sql).fetchall()
                if "LIMIT" not in sql:
                    assert Counter(found) == Counter(expected), sql
                else:
                    assert found == expected, sql


def named(text: str) -> list[str]:
    return [word for word in words(text) if word in (*NESTS, *LOOPS)]


def _query(columns: list[str], where: str | None, form: str) -> tuple[str, list[str]]:
    if "UNION" in form and set(named(where or "")) - set(columns):
        where = None  # then both sides would have to name the same columns
    sql = form.format(
        columns=", ".join(columns),
        sums=", ".join(f"sum({column}) AS sum_{column}" for column in columns),
        where=f" WHERE {where}" if where else "",
    )
    return sql, named(f"{' '.join(columns)} {where or ''}")


_queries = st.builds(
    _query,
    st.lists(_columns, min_size=1, max_size=3, unique=True),
    st.none() | _conditions,
    _forms,
)


@QUIET
@given(runs=_runs, queries=st.lists(_queries, min_size=2, max_size=5))
def test_rows_are_those_of_the_slow_way(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[Node, set[str]]],
    queries: list[tuple[str, list[str]]],
) -> None:
    check(tmp_path_factory.mktemp("fast"), runs, queries)


_limits = st.builds(
    "SELECT tstamp, final FROM flor{} ORDER BY tstamp{} LIMIT {} OFFSET {}".format,
    st.sampled_from(["", " WHERE final >= 0", " WHERE a > -1 AND final < 1", " WHERE a = 1"]),
    st.sampled_from(["", " DESC"]),
    st.integers(1, 3),
    st.integers(0, 2),
)


@QUIET
@given(runs=_runs, queries=st.lists(_limits, min_size=2, max_size=5))
def test_a_limit_is_cut_where_that_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[Node, set[str]]],
    queries: list[str],
) -> None:
    runs = [(Node(run.logs[:1], run.loops), names) for run, names in runs]  # a row a run
    check(tmp_path_factory.mktemp("fast"), runs, [(sql, named(sql)) for sql in queries])
