"""A statement over ``flor`` answers as over a table that has the columns which it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import flordb
from flordb.errors import FlorWarning
from flordb.query.connection import Connection
from tests.store.runfiles import Node, ended, header, lines_of, project, write

FIXTURE = Path(__file__).with_name("fixtures") / "as_a_table.sql"
CASES = [block.split("\n") for block in FIXTURE.read_text().strip().split("\n\n")[1:]]


def _training(run: int) -> Node:
    """Names that SQL must quote, a metric that is a text once, loops side by side."""
    outside = [("lr", 0.1 * (run + 1)), ("opt", "sgd" if run == 2 else "adam"), ("UPPER", run)]
    outside += [("select", run), ('say "hi"', run * 2), ("it's", "x'y")]
    outside.append(("cfg", {"a": run, "b": {"c": [1, 2]}}))
    epochs = []
    for epoch in range(3):
        steps = [Node([("train/loss", 1 / (run + epoch + step + 1))]) for step in range(2)]
        evals = [Node([("val.loss", run + n)], [], which) for n, which in enumerate("xy")]
        acc = "n/a" if (run, epoch) == (1, 0) else run + epoch / 8
        epochs.append(Node([("acc", acc)], [("step", steps), ("eval", evals)]))
    return Node([*outside, *([("final", run)] if run else [])], [("epoch", epochs)])


def _other(run: int) -> Node:
    """A loop within one of its own name, a name at both depths, a loop beside them."""
    inner = [[Node([("x", e * 10 + f + run)]) for f in range(2)] for e in range(2)]
    epochs = [Node([("x", e)], [("epoch", inner[e])]) for e in range(2)]
    return Node([("lr", 7.0)], [("epoch", epochs), ("batch", [Node([("y", 0.5)], [], 1.5)])])


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    place = project(tmp_path_factory.mktemp("table") / "p")
    for number, run in enumerate([*map(_training, range(3)), *map(_other, range(2))]):
        script = "train.py" if number < 3 else "other.py"
        lines = [*lines_of(run), ended()]
        write(place, f"r{number}", lines, header(number, filename=script))
    with flordb.connect(place) as connection:
        yield connection


@pytest.mark.parametrize(("names", "sql"), CASES)
def test_answers_are_those_over_a_table(connection: Connection, names: str, sql: str) -> None:
    listed = [names] if names.startswith("say") else names.split(" ")
    rows = connection.execute(f"FROM flor_pivot({listed!r})").to_arrow_table()
    with duckdb.connect() as plain:
        plain.execute("SET arrow_lossless_conversion = true")
        plain.execute("CREATE TABLE flor AS FROM rows")
        expected = plain.execute(sql)
        columns = [column[0] for column in expected.description or ()]
        wanted = Counter(map(repr, expected.fetchall()))
    assert len(rows)
    found: Any = connection.execute(sql)
    assert [column[0] for column in found.description] == columns
    assert Counter(map(repr, found.fetchall())) == wanted


def test_a_statement_that_cannot_be_read_says_what_flor_is_in_it(connection: Connection) -> None:
    with pytest.warns(FlorWarning, match="cannot read this statement"):
        connection.execute("SELECT (3!) + lr FROM flor")
