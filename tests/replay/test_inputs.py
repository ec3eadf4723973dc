"""Data that were written after a run: a replay reads them as they are now, and says so."""

from __future__ import annotations

import warnings

import pytest

import flordb
from flordb.errors import FlorWarning

SCRIPT = """
import flordb as flor, json

rows = json.load(open("data.json"))
total = [0.0]
with flor.checkpointing(total=total):
    for epoch in flor.loop("epoch", range(3)):
        total[0] += sum(rows)
json.dump(total, open("out.json", "w"))
"""
LOG = 'flor.log("final", total[0] + len(json.load(open("out.json"))))\n'


@pytest.fixture(params=["overlay", "links"])
def project(request, sandbox, monkeypatch):
    monkeypatch.setenv("FLORDB_WORKSPACES", request.param)
    sandbox.write(".gitignore", "*.json\n")
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    sandbox.write("data.json", "[1, 2]")
    sandbox.run("train.py")
    sandbox.write("train.py", SCRIPT + LOG)
    return sandbox


def test_a_file_that_was_written_after_the_run_is_told_and_kept(project) -> None:
    project.write("data.json", "[10, 20]")
    with flordb.connect(project.root) as connection:
        with pytest.warns(FlorWarning, match=r"^data\.json was written after 1 of the replayed"):
            connection.execute("SELECT final FROM flor")
        reason = connection.execute("SELECT status, reason FROM acquisitions").fetchall()
    assert reason == [("acquired", "read as it is now: data.json")]


def test_files_that_the_run_read_or_a_replay_wrote_itself_are_no_news(project) -> None:
    with flordb.connect(project.root) as connection, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert connection.execute("SELECT final FROM flor").fetchall() == [(10.0,)]
        assert connection.execute("SELECT reason FROM acquisitions").fetchall() == [(None,)]
        # The snapshot that the first replay read counts as used since then.
        project.write("train.py", SCRIPT + LOG + 'flor.log("half", total[0] / 2)\n')
        assert connection.execute("SELECT half FROM flor").fetchall() == [(4.5,)]
