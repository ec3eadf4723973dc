"""The user's own choice of place for a statement, and what is shown of patches."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from flordb.cli.plan import command
from flordb.replay.choices import keep_choice
from tests.cli.test_surface import flor
from tests.conftest import Sandbox
from tests.support import TRAIN, copied, trained

REWRITTEN = """\
import flordb as flor


def fit(model, weight):
    model.prepare()
    flor.log("twice", weight * 2)
    model.finish()
"""


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Two runs of a script that was then written anew, with a statement that has no neighbours."""
    sandbox = trained(tmp_path_factory.mktemp("rewritten"), (0.5, 1.0))
    sandbox.write("train.py", REWRITTEN + "\n\nfit(build(), load())\n")
    return sandbox


def version(place: Sandbox) -> str:
    """The version in which both runs were recorded, as the refusal names it."""
    said = flor(place, "plan", "SELECT twice FROM flor").stdout
    return said.split("--at FILE:LINE@", 1)[1].split()[0]


def line_of(text: str) -> int:
    return 1 + TRAIN.splitlines().index(text)


def test_refusal_says_how_to_choose_and_the_choice_is_kept(
    rewritten: Sandbox, tmp_path: Path
) -> None:
    place = copied(rewritten, tmp_path)
    said = flor(place, "plan", "SELECT twice FROM flor").stdout
    assert said.count("cannot be had: ") == 1, "one line for both runs"
    assert "cannot be had: twice of train.py, 2 runs (" in said
    assert (
        "has only imports and definitions; to choose: flordb replay twice --at FILE:LINE@" in said
    )
    where = version(place)
    assert flor(place, "replay", "--yes", "twice").returncode == 1
    again = flor(place, "plan", "SELECT twice FROM flor").stdout
    assert again.startswith(
        "Nothing to acquire.\n"
        "  not tried again until its statement changes: twice of train.py, 2 runs ("
    )
    assert "; to choose: flordb replay twice --at FILE:LINE@" in again
    line = line_of('flor.log("end", weight)')
    done = flor(place, "replay", "--yes", "twice", "--at", f"train.py:{line}@{where}")
    assert done.returncode == 0, done.stderr
    assert "2 values acquired, 0 failures" in done.stderr
    done = flor(place, "sql", "SELECT twice FROM flor ORDER BY twice", "--json")
    assert done.stdout == '{"twice": 10.0}\n{"twice": 18.0}\n'


def test_choice_is_honoured_by_plans_and_checked_like_any_place(
    rewritten: Sandbox, tmp_path: Path
) -> None:
    place = copied(rewritten, tmp_path)
    line = line_of("weight = 1.0")
    done = flor(place, "replay", "--yes", "twice", "--at", f"train.py:{line}@{version(place)}")
    assert done.returncode == 1
    assert "`weight` is not defined" in done.stderr
    end = line_of('flor.log("end", weight)')
    keep_choice(place.project, ["twice"], f"train.py:{end}@HEAD")
    shown = flor(place, "plan", "--show-patches", "SELECT twice FROM flor").stdout
    assert '+flor.log("twice", weight * 2)\n flor.log("end", weight)' in shown
    assert "your choice" in shown


@pytest.mark.parametrize(
    ("at", "why"),
    [
        ("train.py", "not FILE:LINE@VERSION"),
        ("train.py:3@feedface", "feedface"),
        ("other.py:3@HEAD", "no Python file other.py"),
        ("train.py:99@HEAD", "no line 99"),
    ],
)
def test_place_that_does_not_exist_is_refused(
    rewritten: Sandbox, tmp_path: Path, at: str, why: str
) -> None:
    done = flor(copied(rewritten, tmp_path), "replay", "--yes", "twice", "--at", at)
    assert done.returncode == 1
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_patches_are_coloured_on_a_terminal(rewritten: Sandbox, tmp_path: Path) -> None:
    place = copied(rewritten, tmp_path)
    line = line_of('flor.log("end", weight)')
    keep_choice(place.project, ["twice"], f"train.py:{line}@HEAD")
    arguments = ["--project", str(place.root), "--show-patches", "SELECT twice FROM flor"]
    shown = CliRunner().invoke(command, arguments, color=True)
    assert shown.exit_code == 0
    assert '\x1b[32m+flor.log("twice", weight * 2)\x1b[0m' in shown.output
    assert "\x1b" not in CliRunner().invoke(command, arguments).output
