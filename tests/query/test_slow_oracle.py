"""Random histories, random queries, and what they lack acquired on the way: the rows are those of
the slow way, which acquires everything first and pivots with pandas.

The slow way is figure 5.7 of the dissertation: one table a name, joined by outer merges on the
dimension columns that they share, with the design's differences: occurrences of names in one
context pair up, and names of sibling loops stand under each other. Replays are simulated: what a
plan would replay is written as a replay file, so that only what was asked for is ever there.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import duckdb
import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import flordb
from flordb.query import sharing
from flordb.replay.execute import Report
from flordb.replay.plan import Plan
from flordb.replay.want import Want
from flordb.store.project import Project
from tests.store.runfiles import Node, context, ended, header, lines_of, log, project, write

SCRIPT = """\
import flordb as flor
for x in flor.loop("x", range(3)):
    flor.log("late", 1)
flor.log("final", 1)
"""
NESTS = {"a": (), "final": (), "b": ("x",), "late": ("x",), "d": ("x", "y"), "e": ("z",)}
LOOPS = {"x": ("x",), "y": ("x", "y"), "z": ("z",)}
RUN = ["tstamp"]
QUIET = settings(
    max_examples=25,
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
    ]
)


def nest_of(name: str) -> tuple[str, ...]:
    return NESTS[name] if name in NESTS else LOOPS[name]


def late(run: int, x: int) -> int:
    return (run * 3 + x) % 4 - 1


def final(run: int) -> int:
    return run % 3 - 1


def complete(run: Node, number: int, names: set[str]) -> Node:
    """The run as it would be had it logged these names, too."""
    logs = [*run.logs, *([("final", final(number))] if "final" in names else [])]
    loops = dict(run.loops)
    if "late" in names:
        loops["x"] = [
            Node([*node.logs, ("late", late(number, x))], node.loops)
            for x, node in enumerate(loops["x"])
        ]
    return Node(logs, list(loops.items()))


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
        for logged, value in node.logs:
            if logged == name:
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


# --- simulated replays ----------------------------------------------------------------------------


class Replays:
    """Instead of plan and execution: writes what the wanted runs would have logged."""

    def __init__(self, runs: Sequence[Node]) -> None:
        self.runs = runs
        self.numbers = itertools.count()

    def plan(self, place: Project, wants: Sequence[Want], chosen: Any) -> Plan:
        self.wants = list(wants)
        return Plan((), (), 0.0, 1)

    def execute(self, place: Project, plan: Plan, chosen: Any, progress: Any) -> Report:
        for want in self.wants:
            for name in want.names:
                lines = list(self.lines(want.tstamp.day - 1, name, want.iterations))
                fields = {"status": "acquired", "iterations": want.iterations}
                lines.append({"k": "outcome", "n": name, **fields})
                run = {**header(want.tstamp.day - 1), "k": "replay", "names": [name]}
                base = want.file.removesuffix(".jsonl")
                write(place, f"{base}.replay-{next(self.numbers):08}", lines, run)
        return Report(1, (), ())

    def lines(self, run: int, name: str, iterations: Any) -> Any:
        if name == "final":
            yield log("final", final(run))
            return
        for index in range(len(dict(self.runs[run].loops)["x"])):
            if iterations is None or index in iterations:
                yield context(index + 1, 0, "x", index)
                yield log("late", late(run, index), index + 1)


def answer(folder: Any, runs: Sequence[tuple[Node, set[str]]], sql: str) -> list[Any]:
    """The rows by way of a connection that acquires as it goes."""
    place = project(folder / "p")
    (place.root / "train.py").write_text(SCRIPT)
    for number, (run, names) in enumerate(runs):
        lines = [*lines_of(complete(run, number, names)), ended()]
        write(place, f"r{number}", lines, header(number))
    replays = Replays([run for run, _ in runs])
    with pytest.MonkeyPatch.context() as patch, flordb.connect(place) as connection:
        patch.setattr(sharing, "make_plan", replays.plan)
        patch.setattr(sharing, "execute", replays.execute)
        return connection.execute(sql).fetchall()


def expected(runs: Sequence[tuple[Node, set[str]]], asked: list[str], sql: str) -> list[Any]:
    whole = [complete(run, n, {"late", "final"}) for n, (run, _) in enumerate(runs)]
    flor = frame_of(whole, asked)
    with duckdb.connect() as plain:
        plain.register("flor", flor)
        return plain.execute(sql).fetchall()


def words(text: str) -> list[str]:
    found = "".join(c if c.isalnum() or c == "_" else " " for c in text).split()
    return [w for w in dict.fromkeys(found) if w in (*NESTS, *LOOPS)]


def readable(runs: Sequence[tuple[Node, set[str]]], asked: Sequence[str]) -> bool:
    """Whether each name is one that a run or a statement logs, or a loop that was entered."""
    xs = [node for run, _ in runs for node in dict(run.loops)["x"]]
    zs = [node for run, _ in runs for node in dict(run.loops)["z"]]
    ys = [node for x in xs for node in dict(x.loops)["y"]]
    logged = {name for node in (*xs, *ys, *zs, *(run for run, _ in runs)) for name, _ in node.logs}
    known = {"final", "late", *logged}
    known |= {loop for loop, nodes in (("x", xs), ("y", ys), ("z", zs)) if nodes}
    return set(asked) <= known


@QUIET
@given(
    runs=_runs,
    columns=st.lists(_columns, min_size=1, max_size=3, unique=True),
    where=st.none() | _conditions,
    form=_forms,
)
def test_rows_are_those_of_the_slow_way(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[Node, set[str]]],
    columns: list[str],
    where: str | None,
    form: str,
) -> None:
    sql = form.format(
        columns=", ".join(columns),
        sums=", ".join(f"sum({column}) AS sum_{column}" for column in columns),
        where=f" WHERE {where}" if where else "",
    )
    asked = words(f"{' '.join(columns)} {where or ''}")
    if not readable(runs, asked) or ("UNION" in sql and set(words(where or "")) - set(columns)):
        return
    found = answer(tmp_path_factory.mktemp("fast"), runs, sql)
    assert Counter(found) == Counter(expected(runs, asked, sql)), sql


@QUIET
@given(
    runs=_runs,
    where=st.sampled_from(["", " WHERE final >= 0", " WHERE a > -1 AND final < 1", " WHERE a = 1"]),
    limit=st.integers(1, 3),
    offset=st.integers(0, 2),
    direction=st.sampled_from(["", " DESC"]),
)
def test_a_limit_is_cut_where_that_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[Node, set[str]]],
    where: str,
    limit: int,
    offset: int,
    direction: str,
) -> None:
    runs = [(Node(run.logs[:1], run.loops), names) for run, names in runs]  # a row a run
    sql = (
        f"SELECT tstamp, final FROM flor{where} ORDER BY tstamp{direction} "
        f"LIMIT {limit} OFFSET {offset}"
    )
    if not readable(runs, words(f"final {where}")):
        return
    found = answer(tmp_path_factory.mktemp("fast"), runs, sql)
    assert found == expected(runs, words(f"final {where}"), sql), sql
