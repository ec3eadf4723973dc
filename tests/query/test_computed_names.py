"""``flor.log(f"acc_{c}", …)``: each name that the f-string may give is a column."""

from __future__ import annotations

import pytest

import flordb
from flordb.query.errors import UnknownName

SCRIPT = """
import random
import flordb as flor

random.seed(flor.arg("seed", 1))
weights = {"a": 0.0, "b": 0.0, "c": 0.0}
with flor.checkpointing(weights=weights):
    for epoch in flor.loop("epoch", range(3)):
        for name in weights:
            weights[name] += random.random()
        flor.log("total", sum(weights.values()))
"""
PER_NAME = """
        for name in weights:
            flor.log(f"weight/{name}", weights[name])
"""
TODAY = SCRIPT + PER_NAME.lstrip("\n")


@pytest.fixture
def project(sandbox):
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    for seed in (1, 2):
        sandbox.run("train.py", "--kwargs", f"seed={seed}")
    sandbox.write("train.py", TODAY)
    return sandbox


def test_a_name_that_the_f_string_may_give_is_acquired_like_any_other(project) -> None:
    sql = 'SELECT epoch, "weight/b", "weight/c" FROM flor WHERE seed = 2 ORDER BY epoch'
    with flordb.connect(project.root, progress=lambda _: None) as connection:
        rows = connection.execute(sql).fetchall()
        assert len(rows) == 3
        assert not connection.plan(sql).tasks
        project.run("train.py", "--kwargs", "seed=2")
        truth = sql.replace("WHERE", "WHERE tstamp = (SELECT max(tstamp) FROM flor) AND")
        assert connection.execute(truth).fetchall() == rows


def test_all_names_of_one_f_string_are_one_statement_of_one_replay(project) -> None:
    with flordb.connect(project.root) as connection:
        plan = connection.plan('SELECT "weight/a", "weight/b" FROM flor')
    assert [task.names for task in plan.tasks] == [("weight/a", "weight/b")] * 2
    for task in plan.tasks:
        assert task.patch.files["train.py"].count("flor.log(f") == 1


def test_loops_and_names_with_a_statement_of_their_own_are_no_computed_names(project) -> None:
    greedy = PER_NAME.replace("weight/{name}", "{name}o{name}").lstrip("\n")
    project.write("train.py", SCRIPT + greedy)
    with flordb.connect(project.root) as connection:
        assert not connection.plan("SELECT epoch, total, projid FROM flor").tasks
        assert connection.plan("SELECT aoa FROM flor").tasks


def test_what_fits_no_f_string_is_an_unknown_name(project) -> None:
    with flordb.connect(project.root) as connection, pytest.raises(UnknownName):
        connection.execute('SELECT "wait/a" FROM flor')


def test_a_name_that_is_computed_as_a_whole_gives_no_columns(project) -> None:
    project.write("train.py", TODAY.replace("weight/{name}", "{name}"))
    with flordb.connect(project.root) as connection, pytest.raises(UnknownName):
        connection.execute("SELECT a FROM flor")


def test_runs_whose_code_has_the_f_string_are_not_replayed_for_a_name_it_never_gave(
    project,
) -> None:
    project.run("train.py")
    with flordb.connect(project.root) as connection:
        plan = connection.plan('SELECT "weight/z" FROM flor')
    assert len(plan.tasks) == 2, "those of the older version, where it could have been"
    assert ["already logs" in refused.reason for refused in plan.refusals] == [True]
