"""Where a statement names no dimension but tstamp, the pivot is not joined with ``runs``; the rows
are the same, and whatever takes columns without naming them still finds all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

import flordb
from flordb.query.connection import Connection
from tests.store.runfiles import Node, ended, header, lines_of, project, write


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """Two scripts; ``acc`` in epoch, in the second script at its root, too, ``odd`` a text once."""
    place = project(tmp_path_factory.mktemp("brief") / "p")
    for number in range(4):
        epochs = [Node([("acc", epoch / 2), ("acc", 1.0)][: 1 + number % 2]) for epoch in range(3)]
        logs = [("lr", number), ("odd", "text" if number == 2 else number)]
        run = Node(logs + [("acc", 9.0)] * (number == 3), [("epoch", epochs)])
        script = {"filename": f"train{number % 2}.py"}
        write(place, f"r{number}", [*lines_of(run), ended()], header(number, **script))
    with flordb.connect(place, acquire="never") as connection:
        connection.execute("CREATE TABLE others AS SELECT 'p' AS projid, 'train1.py' AS filename")
        yield connection


NAMES = ["lr", "acc", "odd", "acc, lr", "odd, acc", "epoch", "epoch, lr"]


@pytest.mark.parametrize("names", NAMES)
def test_rows_are_those_of_the_join(db: Connection, names: str) -> None:
    short = db.execute(f"SELECT tstamp, {names} FROM flor").fetchall()
    long = db.execute(f"SELECT tstamp, {names}, filename FROM flor").fetchall()
    assert short
    assert Counter(map(repr, short)) == Counter(repr(row[:-1]) for row in long)


@pytest.mark.parametrize(("names", "joins"), [("tstamp, acc", 0), ("filename, acc", 1)])
def test_runs_are_read_where_they_are_needed(db: Connection, names: str, joins: int) -> None:
    plan = str(db.execute(f"EXPLAIN SELECT {names} FROM flor WHERE epoch >= 0").fetchall())
    assert ("filename" in plan) == bool(joins)


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT acc FROM flor NATURAL JOIN others WHERE acc > 8", [(9.0,)]),
        ("SELECT t, max(acc) FROM flor AS f(p, t) GROUP BY t ORDER BY t DESC LIMIT 1", 9.0),
        ("SELECT f.filename FROM flor f WHERE acc > 8", [("train1.py",)]),
        ('SELECT "FileName" FROM flor WHERE acc > 8', [("train1.py",)]),
        ("SELECT count(f.acc) FROM others o JOIN flor f USING (filename)", [(13,)]),
        ("SELECT (SELECT filename WHERE acc > 8) AS x FROM flor WHERE acc > 8", [("train1.py",)]),
        ("SELECT (f).filename FROM flor f WHERE acc > 8", [("train1.py",)]),
        ("SELECT struct_extract(f, 'filename') FROM flor f WHERE acc > 8", [("train1.py",)]),
        ("SELECT acc FROM flor WHERE acc > 8 ORDER BY filename", [(9.0,)]),
    ],
)
def test_other_dimensions_are_there_where_they_are_meant(
    db: Connection, sql: str, rows: object
) -> None:
    found = db.execute(sql).fetchall()
    assert (found[0][1] if isinstance(rows, float) else found) == rows
