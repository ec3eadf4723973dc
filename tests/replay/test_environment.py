"""Packages that are not what they were: the plan says so, and `isolated` has them back."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from flordb.replay.workspace import cache_folder
from tests.replay.support import acquire, plan

THEN = "1.16.0"
SCRIPT = "import six\nimport flordb as flor\nflor.log('version', six.__version__)\n"


@pytest.fixture(scope="module")
def old_six(tmp_path_factory) -> str:
    """A folder with an older version of a small package."""
    folder = tmp_path_factory.mktemp("old")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
    subprocess.run([*command, f"six=={THEN}"], check=True, capture_output=True)
    return str(folder)


def _record(sandbox, folder: str) -> None:
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    sandbox.run("train.py", PYTHONPATH=folder)
    assert sandbox.logged("version") == [THEN]
    sandbox.write("train.py", SCRIPT + "flor.log('h', six.__version__)\n")


def test_plan_names_the_packages_that_differ(sandbox, old_six) -> None:
    assert version("six") != THEN
    _record(sandbox, old_six)
    notes = " ".join(plan(sandbox, ["h"]).tasks[0].notes)
    assert f"packages differ from the run's: six {THEN}, now {version('six')}" in notes


def test_isolated_replay_has_the_packages_of_the_run(sandbox, old_six, monkeypatch) -> None:
    _record(sandbox, old_six)
    values, _, report = acquire(sandbox, ["h"])
    assert values == {("", "h"): [version("six")]}
    assert report.anomalies  # what the run logged itself comes out differently, too
    monkeypatch.setenv("FLORDB_ISOLATED", "true")
    for _ in range(2):
        values, _, report = acquire(sandbox, ["h"])
        assert (report.failures, report.anomalies) == ((), ())
        assert values == {("", "h"): [THEN]}
    built = [p for p in (cache_folder() / "environments").iterdir() if p.is_dir()]
    assert len(built) == 1


def test_packages_that_cannot_be_had_fail_the_replay_with_the_reason(
    sandbox, old_six, monkeypatch
) -> None:
    _record(sandbox, old_six)
    path = sandbox.run_files()[-1]
    path.write_text(path.read_text().replace(f'"six":"{THEN}"', '"six":"0.0.404"'))
    monkeypatch.setenv("FLORDB_ISOLATED", "true")
    values, _, report = acquire(sandbox, ["h"])
    assert values == {}
    assert "no environment with the run's packages" in report.failures[0].reason
    assert "six==0.0.404" in report.failures[0].reason


def test_script_that_was_started_as_a_module_is_replayed_as_one(sandbox) -> None:
    sandbox.write("pkg/__init__.py", "SCALE = 2\n")
    sandbox.write("pkg/lib/net.py", "def double(x):\n    return 2 * x\n")
    script = """
import flordb as flor
import pkg.lib.net
from . import SCALE
from .lib.net import double
for epoch in flor.loop("epoch", range(3)):
    flor.log("x", double(epoch) * SCALE)
"""
    sandbox.write("pkg/train.py", script)
    sandbox.commit()
    sandbox.run("-m", "pkg.train")
    sandbox.write("pkg/train.py", script + '    flor.log("y", pkg.lib.net.double(epoch) + SCALE)\n')
    values, _, report = acquire(sandbox, ["y"])
    assert report.failures == ()
    assert values == {(f"epoch={n}", "y"): [2 * n + 2] for n in range(3)}
