"""Each form of statement that mentions ``flor`` gives DuckDB's answer; all else is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest

import flordb
from flordb.query.connection import Connection
from flordb.query.errors import ProgrammingError, UnknownName
from flordb.query.statement import parse
from tests.store.runfiles import Node, ended, header, lines_of, project, write

FOLDER = Path(__file__).parent / "fixtures"
SCRIPT = """\
import flordb as flor
for epoch in flor.loop("epoch", range(2)):
    flor.log("later", 1)
"""


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """Two runs with lr 1 and 2, epochs 0 and 1 and acc = lr + epoch / 2; `later` has no values."""
    place = project(tmp_path_factory.mktemp("statements") / "p")
    (place.root / "train.py").write_text(SCRIPT)
    for lr in (1, 2):
        epochs = [Node([("acc", lr + epoch / 2), ("train/loss", lr)]) for epoch in range(2)]
        write(
            place,
            f"r{lr}",
            [*lines_of(Node([("lr", lr)], [("epoch", epochs)])), ended()],
            header(lr),
        )
    with flordb.connect(place, acquire="never") as connection:
        connection.execute("CREATE TABLE notes AS SELECT 2 AS lr, 'two' AS note")
        yield connection


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT max(acc) FROM flor", [(2.5,)]),
        ("select MAX(ACC) from FLOR", [(2.5,)]),
        ('SELECT max("train/loss") FROM "flor"', [(2,)]),
        ('SELECT f."train/loss" FROM flor f WHERE f.acc = 2.5', [(2,)]),
        ("SELECT max(flor.acc) FROM main.flor", [(2.5,)]),
        ("SELECT max(main.flor.acc) FROM main.flor", [(2.5,)]),
        ('SELECT max("main"."flor"."acc") FROM "main"."flor" WHERE main.flor.lr < 2', [(1.5,)]),
        ("SELECT max(flordb.main.flor.acc) FROM flordb.main.flor", [(2.5,)]),
        ("FROM flor SELECT sum(acc)", [(7.0,)]),
        ("FROM flor SELECT lr WHERE acc > 2", [(2,)]),
        ("SELECT lr, max(acc) FROM flor GROUP BY ALL ORDER BY ALL", [(1, 1.5), (2, 2.5)]),
        ("SELECT lr AS x, x * 2 AS y FROM flor ORDER BY y DESC LIMIT 1", [(2, 4)]),
        ("SELECT lr AS acc FROM flor ORDER BY acc", [(1,), (2,)]),
        (
            "SELECT epoch FROM flor QUALIFY row_number() OVER (ORDER BY acc DESC) = 1",
            [(1,)],
        ),
        (
            "SELECT sum(acc) OVER w FROM flor WINDOW w AS (ORDER BY acc) ORDER BY 1 LIMIT 1",
            [(1.0,)],
        ),
        ("WITH a AS (SELECT acc FROM flor) SELECT min(acc) FROM a", [(1.0,)]),
        ("WITH flor AS (SELECT 7 AS acc) SELECT acc FROM flor", [(7,)]),
        ("WITH flor AS (SELECT acc FROM flor) SELECT max(acc) FROM flor", [(2.5,)]),
        (
            "WITH RECURSIVE flor AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM flor WHERE n < 3) "
            "SELECT max(n) FROM flor",
            [(3,)],
        ),
        ("SELECT acc FROM (SELECT acc, lr FROM flor) t WHERE lr = 2 ORDER BY 1", [(2.0,), (2.5,)]),
        ("SELECT lr FROM flor WHERE lr = (SELECT max(lr) FROM flor)", [(2,)]),
        ("SELECT exists(FROM flor WHERE acc > 9)", [(False,)]),
        (
            "SELECT (SELECT max(acc) FROM flor g WHERE g.lr = f.lr) FROM flor f ORDER BY 1",
            [(1.5,), (2.5,)],
        ),
        ("SELECT note FROM flor JOIN notes USING (lr)", [("two",)]),
        ("SELECT note FROM flor NATURAL JOIN notes WHERE lr > 0", [("two",)]),
        ("SELECT lr FROM flor ANTI JOIN notes USING (lr)", [(1,)]),
        (
            "SELECT a.lr, b.lr FROM flor a JOIN flor b ON a.lr < b.lr",
            [(1, 2)],
        ),
        ("SELECT k FROM flor, LATERAL (SELECT lr + 1 AS k) ORDER BY k", [(2,), (3,)]),
        ("SELECT lr FROM flor UNION ALL SELECT 3 ORDER BY lr", [(1,), (2,), (3,)]),
        ("SELECT lr FROM flor EXCEPT SELECT lr FROM notes", [(1,)]),
        ("SELECT list_transform(list(lr ORDER BY lr), lambda acc: acc + 1) FROM flor", [([2, 3],)]),
        ("SELECT [lr * 2 FOR lr IN list(lr ORDER BY lr)] FROM flor", [([2, 4],)]),
        ("SELECT {'acc': lr}.acc FROM flor ORDER BY 1", [(1,), (2,)]),
        ("SELECT max(acc) FILTER (WHERE epoch = 0) FROM flor", [(2.0,)]),
        ("SELECT max(COLUMNS('^acc$')) FROM flor", [(2.5,)]),
        ("SELECT count(*) FROM flor -- flor\n", [(2,)]),
        ("SELECT /* flor.x */ 'flor', lr FROM flor WHERE lr = 1", [("flor", 1)]),
        ("SELECT count(epoch) FROM flor", [(4,)]),
        ("VALUES ((SELECT max(lr) FROM flor))", [(2,)]),
        ("SELECT count(later) FROM flor", [(0,)]),
        ("CREATE OR REPLACE TABLE copy AS SELECT lr FROM flor; SELECT max(lr) FROM copy", [(2,)]),
        ("CREATE OR REPLACE VIEW best AS SELECT max(lr) AS lr FROM flor; FROM best", [(2,)]),
        (
            "CREATE OR REPLACE MACRO above(x) AS TABLE SELECT lr FROM flor WHERE lr > x; "
            "FROM above(1)",
            [(2,)],
        ),
        (
            "CREATE OR REPLACE TABLE put (a INT); INSERT INTO put BY POSITION SELECT lr FROM flor; "
            "SELECT max(a) FROM put",
            [(2,)],
        ),
        ("SELECT lr AS position FROM flor GROUP BY position ORDER BY position", [(1,), (2,)]),
        ("SELECT 1; -- flor", [(1,)]),
        ("SELECT 'it''s; flor' AS x; SELECT ';' || lr FROM flor WHERE lr = 1;", [(";1",)]),
    ],
)
def test_answers(db: Connection, sql: str, rows: list[Any]) -> None:
    assert db.execute(sql).fetchall() == rows


def test_numbered_parameters_are_given_by_their_numbers(db: Connection) -> None:
    sql = "SELECT lr, ?2, ?1 FROM flor WHERE lr = ?1"
    assert db.execute(sql, [1, "x"]).fetchall() == [(1, "x", 1)]


def test_long_statements_are_planned_and_deep_ones_refused(db: Connection) -> None:
    conditions = " AND ".join(f"lr <> {number}" for number in range(3, 1_500))
    assert db.execute(f"SELECT max(lr) FROM flor WHERE {conditions}").fetchall() == [(2,)]
    with pytest.raises(ProgrammingError, match="nested too deeply"):
        db.execute(f"SELECT {'(' * 300}lr{')' * 300} FROM flor")


def test_a_byte_order_mark_is_no_name(db: Connection) -> None:
    assert db.execute("\ufeffSELECT lr FROM flor WHERE lr = 1").fetchall() == [(1,)]


def test_parameters_may_be_cast(db: Connection) -> None:
    sql = "SELECT lr, ?::VARCHAR || ? FROM flor WHERE lr = ?::INTEGER"
    assert db.execute(sql, ["a", "b", "2"]).fetchall() == [(2, "ab")]


def test_explain_analyze_does_once_what_it_explains(db: Connection) -> None:
    db.execute("CREATE OR REPLACE TABLE counted AS SELECT 0 AS n, 1 AS rate")
    sql = "UPDATE counted SET n = n + 1 FROM (SELECT DISTINCT lr FROM flor) f WHERE f.lr = rate"
    db.execute(f"EXPLAIN {sql}")
    assert db.execute("FROM counted").fetchall() == [(0, 1)]
    db.execute("EXPLAIN ANALYZE UPDATE counted SET n = n + 1 FROM flor WHERE lr = rate")
    assert db.execute("FROM counted").fetchall() == [(1, 1)]


ALL = ["projid", "tstamp", "filename", "epoch", "epoch_value", "lr", "acc", "train/loss", "later"]


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("SELECT * FROM flor", ALL),
        ("FROM flor", ALL),
        ("SELECT f.* FROM flor f", ALL),
        ("SELECT * EXCLUDE (lr, acc) FROM flor", [c for c in ALL if c not in ("lr", "acc")]),
        ("SELECT * RENAME (lr AS rate) FROM flor", [c.replace("lr", "rate") for c in ALL]),
        ("SELECT * REPLACE (acc * 2 AS acc) FROM flor", ALL),
        ("SELECT COLUMNS('l') FROM flor", [c for c in ALL if "l" in c]),
        ("SELECT lr, flor.lr, lr AS lr FROM flor", ["lr", "lr", "lr"]),
        ("SELECT Lr FROM flor", ["lr"]),
        ("PIVOT (SELECT lr, epoch, acc FROM flor) ON epoch USING max(acc)", ["lr", "0", "1"]),
        (
            "PIVOT flor ON epoch USING max(acc) GROUP BY lr",
            ["lr", "0", "1"],
        ),
        ("UNPIVOT (SELECT lr, acc FROM flor) ON lr, acc", ["name", "value"]),
    ],
)
def test_columns(db: Connection, sql: str, columns: list[str]) -> None:
    assert [column[0] for column in db.execute(sql).description or ()] == columns


@pytest.mark.parametrize(
    "sql", ["DESCRIBE flor", "DESCRIBE FROM flor", "SHOW flor", "SUMMARIZE flor"]
)
def test_descriptions_list_all_columns(db: Connection, sql: str) -> None:
    assert [row[0] for row in db.execute(sql).fetchall()] == ALL


@pytest.mark.parametrize("source", ["flor", "(SELECT lr, later FROM flor)"])
def test_copy_writes_what_select_shows(db: Connection, tmp_path: Path, source: str) -> None:
    db.execute(f"COPY {source} TO '{tmp_path / 'out.parquet'}'")
    found = db.execute(f"SELECT count(lr), count(later) FROM '{tmp_path / 'out.parquet'}'")
    assert found.fetchone() == (2 if "lr" in source else 4, 0)


@pytest.mark.parametrize(
    ("sql", "near"),
    [
        ("SELECT ac FROM flor", "acc"),
        ("SELECT lr FROM flor WHERE epch = 1", "epoch"),
        ("SELECT f.train_loss FROM flor f", "train/loss"),
        ("SELECT max(x) FROM (SELECT latr AS x FROM flor)", "later"),
        ("SELECT lr FROM flor ORDER BY tstmp", "tstamp"),
        ("SELECT flor.ac FROM flor JOIN notes USING (lr)", "acc"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(db: Connection, sql: str, near: str) -> None:
    with pytest.raises(UnknownName) as caught:
        db.execute(sql)
    assert str(caught.value).startswith('Binder Error: Referenced column "')
    assert "Candidate bindings: " in str(caught.value)
    assert near in caught.value.candidates


def test_natural_join_with_columns_that_cannot_be_told_is_refused(db: Connection) -> None:
    frame = pandas.DataFrame({"lr": [1], "epoch": [0]})
    assert len(frame)
    with pytest.raises(ProgrammingError, match=r"in common cannot be told .*USING"):
        db.execute("SELECT acc FROM flor NATURAL JOIN frame")
    assert db.execute("SELECT acc FROM flor JOIN frame USING (lr, epoch)").fetchall() == [(1.0,)]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE flor AS SELECT 1 AS lr",
        "CREATE TABLE IF NOT EXISTS main.Flor (lr INTEGER)",
        "CREATE TEMP VIEW flor AS SELECT 1 AS lr",
        "CREATE OR REPLACE VIEW flor AS SELECT lr FROM runs",
    ],
)
def test_nothing_takes_the_name_of_the_history(db: Connection, sql: str) -> None:
    with pytest.raises(ProgrammingError, match="another name, or another schema"):
        db.execute(sql)
    db.execute("CREATE SCHEMA IF NOT EXISTS mine")
    db.execute("CREATE OR REPLACE TABLE mine.flor AS SELECT 7 AS lr")
    assert db.execute("SELECT lr FROM mine.flor").fetchall() == [(7,)]
    assert db.execute("SELECT max(lr) FROM flor").fetchall() == [(2,)]


def untouched() -> list[str]:
    blocks = (FOLDER / "untouched.sql").read_text().split("\n\n")[1:]
    return [block.strip("\n") for block in blocks]


@pytest.mark.parametrize("sql", untouched())
def test_statements_without_flor_have_no_references(sql: str) -> None:
    assert parse(sql).references == ()
