"""A SELECT that makes a column appear: real scripts, real replays."""

from __future__ import annotations

import warnings

import pytest

import flordb
from flordb.errors import FlorWarning
from flordb.query.errors import BudgetExceeded
from flordb.replay.execute import Progress

SCRIPT = """\
import flordb as flor

lr = flor.arg("lr", 0.5)
state = [0.0]
with flor.checkpointing(state=state):
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(2)):
            state[0] += lr
        flor.log("acc", state[0])
"""
EPOCH = '        flor.log("twice", state[0] * 2)\n'
AFTER = 'flor.log("final", state[0])\n'
BROKEN = 'flor.log("broken", [].pop())\n'

pytestmark = pytest.mark.slow


@pytest.fixture
def history(sandbox):
    """Two runs; afterwards the script logs more."""
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    for lr in ("0.5", "0.25"):
        sandbox.run("train.py", "--kwargs", f"lr={lr}")
    sandbox.write("train.py", SCRIPT + EPOCH + AFTER + BROKEN)
    return sandbox


def test_a_column_appears_and_stays(history) -> None:
    seen: list[Progress] = []
    with flordb.connect(history.root, progress=seen.append) as connection:
        sql = "SELECT lr, final FROM flor WHERE lr > ? ORDER BY lr"
        assert connection.plan(sql, [0.4]).tasks[0].scan == "suffix"
        assert connection.execute(sql, [0.4]).fetchall() == [(0.5, 3.0)]
        assert seen
        assert seen[-1].total == 1
        ranged = "SELECT epoch, twice FROM flor WHERE epoch >= 1 AND lr = 0.25 ORDER BY epoch"
        assert connection.execute(ranged).fetchall() == [(1, 2.0), (2, 3.0)]
        sql = "SELECT lr, final FROM flor ORDER BY lr"
        assert connection.execute(sql).fetchall() == [(0.25, 1.5), (0.5, 3.0)]
        rows = connection.execute("SELECT epoch, twice FROM flor WHERE lr = 0.25").fetchall()
        assert sorted(rows) == [(0, 1.0), (1, 2.0), (2, 3.0)]
        seen.clear()
        connection.execute(sql)
        connection.execute(ranged)
        assert not seen
        tried = connection.execute("SELECT status, count(*) FROM acquisitions GROUP BY ALL")
        assert tried.fetchall() == [("acquired", 4)]


def test_a_budget_is_kept(history) -> None:
    with flordb.connect(history.root, budget=0.0001) as connection:
        with pytest.raises(BudgetExceeded, match="Three ways on") as caught:
            connection.execute("SELECT final FROM flor")
        assert len(caught.value.plan.tasks) == 2
        assert connection.execute("SELECT count(*) FROM acquisitions").fetchone() == (0,)
    with flordb.connect(history.root, acquire="never") as connection:
        assert connection.execute("SELECT lr, final FROM flor").df()["final"].isna().all()


def test_a_failure_is_a_warning_and_a_row(history) -> None:
    with flordb.connect(history.root, progress=lambda _: None) as connection:
        sql = "SELECT lr, broken FROM flor WHERE lr = 0.5"
        with pytest.warns(FlorWarning, match=r"(?s)broken of train.py, .*pop from empty list"):
            assert connection.execute(sql).fetchall() == [(0.5, None)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert connection.execute(sql).fetchall() == [(0.5, None)]
        assert connection.execute("SELECT status FROM acquisitions").fetchall() == [("failed",)]
    with flordb.connect(history.root) as connection:
        with pytest.warns(FlorWarning, match=r"not tried again .*: broken of train.py, .*pop from"):
            assert connection.execute(sql).fetchall() == [(0.5, None)]
        plan = connection.explain(sql)
        assert plan.startswith("Nothing to acquire.\n  not tried again until its statement changes")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            connection.execute(sql)
            connection.execute(sql, acquire="never")
