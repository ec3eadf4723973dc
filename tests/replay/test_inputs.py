"""Data that were written after a run: a replay reads them as they are now, and says so."""

from __future__ import annotations

import re
import warnings

import pytest

import flordb
from flordb.errors import FlorWarning

SCRIPT = """
import flordb as flor, json

rows = json.load(open("data.json"))
assert open("conf.txt").read() == "tracked"
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
    sandbox.write("conf.txt", "tracked")
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


RESUMES = """
import flordb as flor, glob, json, os, pathlib, time

path = pathlib.Path("out/state.json")
rate = flor.arg("rate", 1.0)
while (runs := glob.glob(".flor/runs/*.jsonl")) and '"version"' not in open(runs[0]).read():
    time.sleep(0.01)
{found}
for epoch in flor.loop("epoch", range(2)):
    total += rate
    {kept}
"""
IN_PLACE = "path.write_text(json.dumps(total))"
BY_RENAMING = 'open("out/new", "w").write(json.dumps(total)); os.replace("out/new", path)'
AS_ANOTHER = """path.unlink(missing_ok=True)
    pathlib.Path(f"out/{epoch}.log").write_text("x")"""
READS = "total = json.loads(path.read_text())"
ASKS = "total = json.loads(path.read_text()) if path.exists() else 0.0"
ADDS = """open(path, "a").close()
    open(path, "a").write("1")
    total = float(path.read_text())"""
MOVES = """old = pathlib.Path("out/state.json")
if old.exists():
    old.rename("out/old")
total = json.loads(pathlib.Path("out/old").read_text())"""
CATCHES = """try:
    total = json.loads(path.read_text())
except Exception:
    total = 0.0"""


@pytest.mark.parametrize(
    ("found", "kept", "workspaces"),
    [
        (READS, IN_PLACE, "overlay"),
        (CATCHES, BY_RENAMING, "links"),
        (ASKS, BY_RENAMING, "overlay"),
        (ASKS, AS_ANOTHER, "links"),
        (MOVES, BY_RENAMING, "overlay"),
        ("total = 0.0", ADDS, "overlay"),
    ],
)
def test_what_the_run_read_and_then_rewrote_is_not_read_as_it_is_now(
    sandbox, monkeypatch, found, kept, workspaces
) -> None:
    monkeypatch.setenv("FLORDB_WORKSPACES", workspaces)
    script = RESUMES.format(found=found, kept=kept)
    sandbox.write(".gitignore", "out/\n")
    sandbox.write("train.py", script)
    sandbox.commit()
    sandbox.write("out/state.json", "7.0")
    sandbox.run("train.py")
    left = {path.name: path.read_bytes() for path in (sandbox.root / "out").iterdir()}
    sandbox.write("train.py", script + 'flor.log("final", total)\n')
    with flordb.connect(sandbox.root) as connection:
        with pytest.warns(FlorWarning):
            assert connection.execute("SELECT final FROM flor").fetchall() in ([], [(None,)])
        status, reason = connection.execute("SELECT status, reason FROM acquisitions").fetchone()
    assert status == "failed"
    assert re.match("the script reads out/(state.json|old), which ", reason)
    assert {path.name: path.read_bytes() for path in (sandbox.root / "out").iterdir()} == left


def test_a_file_that_only_its_name_is_asked_of_is_there_as_it_was(sandbox) -> None:
    script = RESUMES.format(found="total = float(path.exists())", kept=BY_RENAMING)
    sandbox.write(".gitignore", "out/\n")
    sandbox.write("train.py", script)
    sandbox.commit()
    sandbox.write("out/state.json", "7.0")
    sandbox.run("train.py")
    (sandbox.root / "out/state.json").unlink()
    sandbox.write("train.py", script + 'flor.log("final", total)\n')
    with flordb.connect(sandbox.root) as connection:
        assert connection.execute("SELECT final FROM flor").fetchall() == [(3.0,)]


def test_what_the_set_up_makes_long_before_flors_first_call_is_not_found(sandbox) -> None:
    script = """
import flordb as flor, os, pathlib, time
made = not os.path.exists("cache.out")
pathlib.Path("cache.out").write_text("x")
time.sleep(1.2)
flor.arg("rate", 1.0)
"""
    sandbox.write(".gitignore", "*.out\n")
    sandbox.write("train.py", script)
    sandbox.commit()
    sandbox.run("train.py")
    sandbox.write("train.py", script + 'flor.log("made", made)\n')
    with flordb.connect(sandbox.root) as connection:
        assert connection.execute("SELECT made FROM flor").fetchall() == [(True,)]
