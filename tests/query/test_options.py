"""``acquire`` and ``budget``: of a connection, of one statement, and by SET and RESET."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

import flordb
from flordb.errors import ProjectError
from flordb.query.connection import Connection
from flordb.query.errors import ProgrammingError
from flordb.store.project import Project
from tests.query.test_candidates import CODE, write_run


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Connection]:
    made = Project(tmp_path / "p", has_git=False)
    made.prepare()
    (made.root / "train.py").write_text(CODE)
    write_run(made, 1, 0.5)
    with flordb.connect(made, budget="2 min") as connection:
        yield connection


def test_a_budget_is_a_number_of_seconds_or_says_its_unit(db: Connection) -> None:
    assert db.settings.budget_seconds == 120
    for text, seconds in [("'5 min'", 300), ("90", 90), ("'1.5h'", 5400), ("'500 ms'", 0.5)]:
        assert db.execute(f"SET flor_budget = {text}").description is None
        assert db.settings.budget_seconds == seconds
    db.execute("RESET flor_budget")
    assert db.settings.budget_seconds == 120
    db.execute("SET flor_budget = '10 seconds'")
    assert db.execute("SHOW flor_budget").fetchall() == [("10 s",)]
    assert db.execute("show flor_acquire;").df().columns.tolist() == ["flor_acquire"]


def test_set_and_reset_are_statements_like_others(db: Connection) -> None:
    text = "-- quietly\nset SESSION flor_acquire TO 'Never'; SELECT lr FROM flor; -- done"
    assert db.execute(text).fetchall() == [(0.5,)]
    assert db.settings.acquire == "never"
    db.execute("RESET flor_acquire;")
    assert db.settings.acquire == "auto"
    db.execute("SET threads = 1; SET flor_acquire = DEFAULT")
    assert db.execute("SELECT current_setting('threads')").fetchall() == [(1,)]


@pytest.mark.parametrize(
    "sql", ["SET flor_acquire = 'perhaps'", "SET flor_budget = 'much'", "SET flor_budget = -1"]
)
def test_what_cannot_be_set_is_said(db: Connection, sql: str) -> None:
    with pytest.raises(ProgrammingError, match="expected"):
        db.execute(sql)
    assert (db.settings.acquire, db.settings.budget_seconds) == ("auto", 120)
    with pytest.raises(duckdb.CatalogException, match=r"flor_nothing(?s:.)*flor_budget"):
        db.execute("SET flor_nothing = 1")


def test_an_option_may_be_given_for_one_statement(db: Connection) -> None:
    sql = "SELECT f1 FROM flor"
    assert db.execute(sql, acquire="never").fetchall() == []
    with pytest.raises(ProgrammingError, match="'5 min'"):
        db.execute(sql, budget="nothing")
    assert (db.settings.acquire, db.settings.budget_seconds) == ("auto", 120)


def test_connect_refuses_what_is_no_option(db: Connection) -> None:
    with pytest.raises(ProjectError, match="no duration"):
        flordb.connect(db.project, budget="soon")
