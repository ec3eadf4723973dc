"""The command line: what goes to stdout, exit codes, and the examples of its help."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import flordb
from flordb.cli import COMMANDS, group
from flordb.store.project import Project
from tests.query.test_candidates import CODE, write_run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path / "p", has_git=False)
    made.prepare()
    (made.root / "train.py").write_text(CODE.replace('"f1"', '"loss"'))
    write_run(made, 1, 0.5)
    write_run(made, 2, float("nan"))
    monkeypatch.chdir(made.root)
    return made


def flor(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flordb", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **env},
    )


LR = "SELECT tstamp, lr FROM flor ORDER BY tstamp"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_each_commands_help_works(project: Project, name: str) -> None:
    shown = CliRunner().invoke(group, [name, "--help"])
    assert shown.exit_code == 0
    (example,) = re.findall(r"Example:\n\s+flordb (.+(?:\n    +\S.*)*?)\n\n", shown.output + "\n\n")
    arguments = shlex.split(example.replace("\n", " "))
    if name in ("serve", "shell"):  # these go on until they are stopped; tests/serve runs them
        importlib.import_module(f"flordb.cli.{name}").command.make_context(name, arguments[1:])
        return
    done = CliRunner().invoke(group, arguments)
    assert done.exit_code in (0, 1 if name == "replay" else 0), done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_a_thin_file_of_its_own(name: str) -> None:
    command = importlib.import_module(f"flordb.cli.{name}").command
    assert command.help
    assert "Example:" in command.help


def test_rows_on_stdout_in_each_form(project: Project) -> None:
    plain = flor("sql", LR)
    assert plain.returncode == 0
    assert plain.stdout.splitlines() == [
        "tstamp\tlr",
        "2023-06-01 10:00:00\t0.5",
        "2023-06-02 10:00:00\tnan",
    ]
    assert plain.stderr == ""
    rows = [json.loads(line) for line in flor("sql", "--json", "-", stdin=LR).stdout.splitlines()]
    assert rows[0] == {"tstamp": "2023-06-01T10:00:00", "lr": 0.5}
    assert rows[1]["lr"] == "nan"
    found = list(csv.reader(io.StringIO(flor("sql", "--csv", LR).stdout)))
    assert found[:2] == [["tstamp", "lr"], ["2023-06-01 10:00:00", "0.5"]]


def test_errors_are_messages_with_exit_code_1(project: Project) -> None:
    for query, said in [
        ("SELECT lrr FROM flor", 'Candidate bindings: "lr"'),
        ("SELECT lr FROM flor WHERE", "syntax error"),
        ("FROM nowhere", "nowhere"),
    ]:
        done = flor("sql", query)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_wrong_usage_is_exit_code_2(project: Project) -> None:
    assert flor("sql").returncode == 2
    assert flor("nonsense").returncode == 2
    done = flor("sql", "--acquire", "perhaps", LR)
    assert done.returncode == 2
    assert "--acquire" in done.stderr


def test_no_project_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = flor("status")
    assert done.returncode == 1
    assert "No flordb project" in done.stderr


def test_status(project: Project) -> None:
    found = json.loads(flor("status", "--json", "--verbose").stdout)
    assert found["states"] == {"finished": 2}
    assert found["settings"]["acquire"] == "auto"
    assert "2 finished" in flor("status").stderr


def test_dataframe(project: Project) -> None:
    lines = flor("dataframe", "lr", "acc", "--json").stdout.splitlines()
    assert len(lines) == 8
    assert json.loads(lines[0])["epoch"] == 0


def test_plan_and_replay_say_what_cannot_be_had(project: Project) -> None:
    plan = json.loads(flor("plan", "--json", "SELECT loss FROM flor WHERE lr = 0.5").stdout)
    assert len(plan["refusals"]) == 1
    done = flor("replay", "--yes", "loss", "tstamp < '2023-06-02'")
    assert done.returncode == 1
    assert "cannot be had: loss" in done.stderr
    assert flor("replay", "loss", "tstamp < '2023-06-02'").returncode == 0


def test_version_and_help() -> None:
    assert flordb.__version__ in flor("--version").stdout
    assert "replay" in flor("-h").stdout


def test_a_closed_pipe_is_quiet(project: Project) -> None:
    command = f"{sys.executable} -m flordb sql --csv 'SELECT * FROM range(200000)' | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "range"
    assert done.stderr == ""


def test_help_loads_no_database() -> None:
    code = "import sys, flordb.cli; print({'duckdb', 'pandas', 'sqlglot'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_replay_within_and_over_the_budget(sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'import flordb as flor\nx = flor.log("x", 2)\n'
    sandbox.write("train.py", script)
    sandbox.commit()
    sandbox.run("train.py")
    sandbox.write("train.py", script + 'flor.log("y", x * 2)\n')
    monkeypatch.chdir(sandbox.root)
    refused = flor("replay", "y", "--budget", "0.0001")
    assert refused.returncode == 3
    assert "--yes" in refused.stderr
    over = flor("sql", "SELECT y FROM flor", "--budget", "0.0001")
    assert over.returncode == 3
    assert "Three ways on" in over.stderr
    assert flor("replay", "y", "--yes").returncode == 0
    assert flor("sql", "SELECT x, y FROM flor").stdout.splitlines() == ["x\ty", "2\t4"]
