"""Who asks for a value that an earlier replay did not give is told why, once, and only then."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import flordb
from flordb.query import sharing
from flordb.query.connection import Connection
from flordb.store.project import Project
from tests.query.histories import Replays, history
from tests.store.runfiles import Node, header, write

RUNS = [Node([("a", run)], [("x", [Node([("b", x)]) for x in range(3)])]) for run in range(4)]
REASONS = {0: "the moon was full", 1: "the moon was full", 2: "a name is not defined"}


@pytest.fixture
def place(tmp_path: Path) -> Project:
    """Four runs; of the first three ``final`` was tried in vain, of the last ``late`` for x = 1."""
    found = history(tmp_path, RUNS)
    for run, reason in REASONS.items():
        refuse(found, run, "final", status="refused", reason=reason, iterations=None)
    refuse(found, 3, "late", status="failed", reason="no disk", iterations=[1])
    return found


def refuse(place: Project, run: int, name: str, **fields: object) -> None:
    first = {**header(run), "k": "replay", "names": [name]}
    write(place, f"r{run}.replay-{name}", [{"k": "outcome", "n": name, **fields}], first)


@pytest.fixture
def connection(place: Project, monkeypatch: pytest.MonkeyPatch) -> Connection:
    replays = Replays(RUNS)
    monkeypatch.setattr(sharing, "make_plan", replays.plan)
    monkeypatch.setattr(sharing, "execute", replays.execute)
    return flordb.connect(place)


def said(connection: Connection, sql: str, **options: str) -> list[str]:
    """What a statement warns of, without what all such warnings begin with."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        connection.execute(sql, **options)
    found = [str(warning.message) for warning in caught]
    begin = "not tried again until its statement changes: "
    assert all(text.startswith(begin) for text in found)
    return [text.removeprefix(begin) for text in found]


def test_a_line_a_reason_once_a_connection(connection: Connection, place: Project) -> None:
    with connection:
        assert said(connection, "SELECT final FROM flor WHERE a < 9") == [
            "final of train.py, 2 runs (2023-06-01 10:00:00 to 2023-06-02 10:00:00): "
            "the moon was full",
            "final of train.py, 2023-06-03 10:00:00: a name is not defined",
        ]
        assert connection.execute("SELECT a, final FROM flor ORDER BY a").fetchall() == [
            (0, None),
            (1, None),
            (2, None),
            (3, -1),
        ]
        assert said(connection, "SELECT final FROM flor") == []
        assert said(connection, "CREATE VIEW v AS SELECT final FROM flor; FROM v") == []
    with flordb.connect(place) as another:
        assert len(said(another, "CREATE VIEW v AS SELECT final FROM flor; FROM v")) == 2


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM flor",
        "SELECT * FROM flor",
        "SELECT final FROM flor LIMIT 0",
        "SELECT final FROM flor WHERE a = 3",
        "SELECT final FROM flor WHERE tstamp >= '2023-06-04'",
        "SELECT final FROM flor ORDER BY tstamp DESC LIMIT 1",
        "EXPLAIN SELECT final FROM flor",
    ],
)
def test_nothing_is_said_of_runs_that_are_not_asked_for(connection: Connection, sql: str) -> None:
    with connection:
        assert said(connection, sql) == []


def test_nothing_is_said_to_who_wants_no_replays(connection: Connection) -> None:
    with connection:
        assert said(connection, "SELECT final FROM flor", acquire="never") == []
        assert len(said(connection, "SELECT final FROM flor")) == 2


def test_of_a_run_that_has_some_iterations_the_others_are_told(connection: Connection) -> None:
    with connection:
        assert said(connection, "SELECT x, late FROM flor WHERE a = 3") == [
            "late of train.py, 2023-06-04 10:00:00: no disk"
        ]
        rows = connection.execute("SELECT x, late FROM flor WHERE a = 3 ORDER BY x").fetchall()
        assert rows == [(0, 0), (2, 2)]


def test_explain_and_plan_say_it_each_time(connection: Connection) -> None:
    with connection:
        for _ in range(2):
            plan = connection.plan("SELECT final FROM flor WHERE a = 2")
            assert [(each.names, each.reason) for each in plan.tried] == [
                (("final",), "a name is not defined")
            ]
            rows = connection.execute("EXPLAIN SELECT final FROM flor WHERE a = 2").fetchall()
            assert rows[0] == (
                "acquisition_plan",
                "Nothing to acquire.\n  not tried again until its statement changes: "
                "final of train.py, 2023-06-03 10:00:00: a name is not defined",
            )
