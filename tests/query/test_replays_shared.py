"""One replay serves all that wait for it; who gives up stops only what nobody else waits for."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

import flordb
from flordb.query.errors import BudgetExceeded, OperationalError
from tests.conftest import Sandbox

SCRIPT = """\
import time
import flordb as flor

lr = flor.arg("lr", 0.5)
for epoch in flor.loop("epoch", range(2)):
    flor.log("acc", lr * epoch)
"""
LATER = """\
def slowly(value):
    time.sleep({seconds})
    return value * 2
flor.log("late", slowly(lr))
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def history(sandbox: Sandbox) -> Sandbox:
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    sandbox.run("train.py")
    return sandbox


def look_back(history: Sandbox, seconds: float) -> None:
    history.write("train.py", SCRIPT + LATER.format(seconds=seconds))


def replays(history: Sandbox) -> list[Path]:
    return sorted(history.project.runs.glob("*.replay-*"))


class Asking(threading.Thread):
    """A client in a thread of its own."""

    def __init__(self, root: Path, sql: str = "SELECT late FROM flor") -> None:
        super().__init__()
        self.connection = flordb.connect(root, acquire="always")
        self.began = threading.Event()
        self.connection._progress = lambda _: self.began.set()
        self.sql = sql
        self.rows: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.rows = self.connection.execute(self.sql).fetchall()
        except BaseException as error:
            self.error = error


def test_two_clients_share_a_replay(history: Sandbox) -> None:
    look_back(history, 0.5)
    clients = [Asking(history.root) for _ in range(3)]
    clients.append(Asking(history.root, "SELECT lr, late FROM flor WHERE lr > 0"))
    for client in clients:
        client.join(60)
        client.connection.close()
        assert client.error is None
    assert [client.rows for client in clients] == [[(1.0,)]] * 3 + [[(0.5, 1.0)]]
    assert len(replays(history)) == 1


def test_two_cursors_of_one_connection_share_a_replay(history: Sandbox) -> None:
    look_back(history, 0.3)
    with flordb.connect(history.root, acquire="always") as connection:
        rows: list[Any] = []

        def ask() -> None:
            rows.append(connection.cursor().execute("SELECT late FROM flor").fetchall())

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert rows == [[(1.0,)]] * 2
    assert len(replays(history)) == 1


def test_who_gives_up_stops_only_what_nobody_else_waits_for(history: Sandbox) -> None:
    look_back(history, 2)
    one, two = Asking(history.root), Asking(history.root)
    assert one.began.wait(30)
    assert two.began.wait(30)
    one.connection.interrupt()
    one.join(10)
    assert isinstance(one.error, duckdb.InterruptException)
    two.join(60)
    assert two.rows == [(1.0,)]
    assert one.connection.execute("SELECT late FROM flor").fetchall() == [(1.0,)]
    for client in (one, two):
        client.connection.close()


def test_a_replay_that_nobody_waits_for_is_stopped(history: Sandbox) -> None:
    look_back(history, 100)
    client = Asking(history.root)
    assert client.began.wait(30)
    started = time.monotonic()
    client.connection.interrupt()
    client.join(30)
    assert isinstance(client.error, duckdb.InterruptException)
    assert time.monotonic() - started < 20
    assert not [t for t in threading.enumerate() if t.name == "flordb-acquire"]
    assert not replays(history)
    assert client.connection.execute("SELECT lr FROM flor").fetchall() == [(0.5,)]
    client.connection.close()


def test_over_budget_is_an_operational_error_with_the_plan(history: Sandbox) -> None:
    look_back(history, 0)
    with flordb.connect(history.root, budget=0.0001) as connection:
        with pytest.raises(OperationalError) as caught:
            connection.execute("SELECT late FROM flor")
        assert isinstance(caught.value, BudgetExceeded)
        assert isinstance(caught.value, duckdb.OperationalError)
        assert len(caught.value.plan.tasks) == 1
        connection.execute("SET flor_acquire = 'never'")
        assert connection.execute("SELECT lr, late FROM flor").fetchall() == [(0.5, None)]
        rows = connection.execute("SELECT late FROM flor", acquire="auto", budget="5 min")
        assert rows.fetchall() == [(1.0,)]


def test_views_and_macros_acquire_when_they_are_used(history: Sandbox) -> None:
    look_back(history, 0)
    with flordb.connect(history.root) as connection:
        connection.execute("CREATE VIEW seen AS SELECT lr, late FROM flor")
        connection.execute("CREATE MACRO least(x) AS TABLE SELECT late FROM seen WHERE late > x")
        assert not replays(history)
        connection.execute("DESCRIBE seen")
        assert not replays(history)
        assert len(connection.plan("FROM least(0)").tasks) == 1
        assert connection.execute("FROM least(0)").fetchall() == [(1.0,)]
        assert connection.execute("SELECT late FROM seen").fetchall() == [(1.0,)]
    assert len(replays(history)) == 1
