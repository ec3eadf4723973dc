"""The connection as PEP 249 and DuckDB's users expect it, on a project with one real run file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pandas as pd
import pytest

import flordb
from flordb import settings
from flordb.errors import FlorWarning, ProjectError
from flordb.query import dbapi as module
from flordb.query import errors
from flordb.query.connection import Connection
from flordb.store.project import Project

from .test_candidates import CODE, write_run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "p", has_git=False)
    made.prepare()
    (made.root / "train.py").write_text(CODE)
    write_run(made, 1, 0.5)
    write_run(made, 2, 0.25)
    return made


@pytest.fixture
def connection(project: Project) -> Iterator[Connection]:
    with flordb.connect(project, acquire="never") as made:
        yield made


LR = "SELECT lr FROM flor ORDER BY lr"


def test_module_says_what_pep_249_wants() -> None:
    assert (module.apilevel, module.threadsafety, module.paramstyle) == ("2.0", 1, "qmark")


def test_fetching(connection: Connection) -> None:
    cursor = connection.cursor()
    assert cursor.description is None
    assert cursor.execute(LR) is cursor
    assert cursor.description is not None
    assert cursor.description[0][0] == "lr"
    assert len(cursor.description[0]) == 7
    assert cursor.rowcount == 2
    assert cursor.fetchone() == (0.25,)
    assert cursor.fetchmany() == [(0.5,)]
    assert cursor.fetchmany(5) == []
    assert cursor.fetchone() is None
    assert list(cursor.execute(LR)) == [(0.25,), (0.5,)]
    cursor.executemany("SELECT ?", [[1], [2]])
    with pytest.raises(errors.InterfaceError):
        cursor.fetchall()


def test_a_connection_is_a_cursor_and_its_cursors_are_their_own(connection: Connection) -> None:
    other = connection.cursor()
    other.execute("SELECT 7")
    assert connection.execute(LR).fetchone() == (0.25,)
    assert other.fetchall() == [(7,)]
    assert connection.fetchall() == [(0.5,)]
    assert connection.sql("SELECT 1").fetchall() == [(1,)]


def test_all_shapes_of_a_result(connection: Connection) -> None:
    assert connection.execute(LR).df()["lr"].tolist() == [0.25, 0.5]
    assert connection.execute(LR).to_arrow_table().column_names == ["lr"]
    assert connection.execute(LR).arrow().read_all().num_rows == 2
    many = connection.execute("SELECT range AS n FROM range(5000)")
    assert many.fetchone() == (0,)
    chunks = [many.fetch_df_chunk(), many.fetch_df_chunk(2), many.fetch_df_chunk()]
    assert [len(chunk) for chunk in chunks] == [2048, 2951, 0]
    assert chunks[1]["n"].iloc[-1] == 4999
    double = connection.execute("SELECT 1 AS a, 2 AS a, NULL AS n")
    assert double.fetchall() == [(1, 2, None)]
    assert list(double.df().columns) == ["a", "a", "n"]
    assert double.to_arrow_table().column_names == ["a", "a", "n"]


def test_types_survive(connection: Connection) -> None:
    sql = (
        "SELECT 2::HUGEINT ** 100 AS h, uuid() IS NULL AS u, '101'::BIT AS b, INTERVAL 1 DAY AS i, "
        "{'a': [1, NULL]} AS s, MAP {'k': 1} AS m, 'a'::ENUM('a', 'b') AS e, 1.10::DECIMAL(5, 2) "
        "AS d, 'x'::BLOB AS x, 'infinity'::DOUBLE AS inf, TIME '12:00' AS t, DATE '2023-01-01' AS y"
    )
    plain = duckdb.connect()
    assert connection.execute(sql).fetchall() == plain.execute(sql).fetchall()
    description = connection.execute(sql).description
    assert description is not None
    assert [str(c[1]) for c in description] == [str(t) for t in plain.sql(sql).types]


def test_statements_without_rows_have_no_description(connection: Connection) -> None:
    assert connection.execute("CREATE TABLE t AS SELECT lr FROM flor").description is None
    assert connection.execute("INSERT INTO t VALUES (3)").description is None
    assert connection.execute("FROM t ORDER BY lr DESC LIMIT 1").fetchall() == [(3,)]


def test_transactions(connection: Connection) -> None:
    connection.execute("CREATE TABLE t (i INTEGER)")
    connection.begin()
    connection.execute("INSERT INTO t VALUES (1)")
    assert connection.execute("SELECT count(*) FROM flor").fetchone() == (2,)
    assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    connection.execute("BEGIN; INSERT INTO t VALUES (1)")
    connection.commit()
    connection.commit()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM flor").fetchone() == (2,)


def test_dataframes_of_the_caller(connection: Connection) -> None:
    rates = pd.DataFrame({"lr": [0.5], "tag": ["high"]})
    assert len(rates) == 1
    sql = "SELECT tag FROM flor JOIN rates USING (lr)"
    assert connection.execute(sql).fetchall() == [("high",)]
    assert connection.cursor().execute("SELECT tag FROM rates").fetchall() == [("high",)]
    connection.execute("CREATE TABLE rates AS SELECT 'table' AS tag")
    assert connection.execute("SELECT tag FROM rates").fetchall() == [("table",)]


def test_several_statements_in_one_text(connection: Connection) -> None:
    sql = "CREATE TABLE t AS SELECT lr FROM flor; -- ;\nSELECT count(*), ? FROM t;"
    assert connection.execute(sql, ["x"]).fetchall() == [(2, "x")]


def test_the_file_is_free_while_the_user_thinks(connection: Connection, project: Project) -> None:
    cursor = connection.execute(LR)
    duckdb.connect(str(project.database)).close()
    assert cursor.fetchall() == [(0.25,), (0.5,)]


def test_explain_shows_the_acquisition_above_duckdbs_plan(connection: Connection) -> None:
    rows = connection.execute("EXPLAIN SELECT f1 FROM flor WHERE lr > 0.3").fetchall()
    assert [row[0] for row in rows] == ["acquisition_plan", "physical_plan"]
    assert "cannot be had: f1 of train.py" in rows[0][1]
    assert rows[0][1].count("cannot be had: ") == 1


def test_errors_are_ours_and_duckdbs(connection: Connection) -> None:
    with pytest.raises(errors.ProgrammingError):
        connection.execute("SELECT lr FROM flor WHERE")
    with pytest.raises(duckdb.CatalogException):
        connection.execute("FROM nowhere")
    with pytest.raises(errors.DataError):
        connection.execute("SELECT 'x'::INTEGER")


def test_use_after_close(connection: Connection) -> None:
    cursor = connection.cursor()
    cursor.close()
    with pytest.raises(errors.InterfaceError):
        cursor.execute("SELECT 1")
    other = connection.cursor()
    connection.close()
    connection.close()
    with pytest.raises(errors.InterfaceError):
        other.execute("SELECT 1")
    with pytest.raises(errors.InterfaceError):
        connection.execute("SELECT 1")


def test_a_locked_database_is_said_once(project: Project) -> None:
    with flordb.connect(project, acquire="never") as first:
        first.execute(LR)
    write_run(project, 3, 0.75)
    holder = duckdb.connect(str(project.database))
    try:
        with flordb.connect(project, acquire="never") as second:
            second.settings = settings.load(project.root, lock_wait_seconds=0.05)
            with pytest.warns(FlorWarning, match="(?i)in use"):
                assert len(second.execute(LR).fetchall()) == 3
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert len(second.execute(LR).fetchall()) == 3
    finally:
        holder.close()


def test_dataframe_and_latest(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    frame = flordb.dataframe("acc", "lr")
    dimensions = ["epoch", "epoch_value", "projid", "tstamp", "filename"]
    assert list(frame.columns) == [*dimensions, "acc", "lr"]
    assert len(frame) == 8
    assert flordb.utils.latest(frame)["lr"].tolist() == [0.25] * 4
    assert len(flordb.dataframe("acc", where="epoch = 3")) == 2


def test_no_project_here(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="No flordb project"):
        flordb.connect(tmp_path)
