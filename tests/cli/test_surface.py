"""What every command has in common: help, streams, exit codes, terminals."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from flordb.cli import COMMANDS
from tests.conftest import Sandbox
from tests.support import copied, trained

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Two runs (lr 0.5 and 1), whose script now logs half, third, square and double as well."""
    return trained(tmp_path_factory.mktemp("recorded"), (0.5, 1.0))


def flor(
    place: Sandbox, *arguments: str, stdin: str | None = None, module: str = "flordb"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=place.root,
        env=place.environment,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=120,
    )


def on_a_terminal(place: Sandbox, *arguments: str, typed: str = "") -> tuple[int, str]:
    """Run a command whose stdin and stderr are a terminal; its exit code and what that shows."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "flordb", *arguments],
        cwd=place.root,
        env={**place.environment, "TERM": "xterm", "COLUMNS": "120"},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    while True:
        ready, _, _ = select.select([ours], [], [], 60)
        try:
            part = os.read(ours, 4096) if ready else b""
        except OSError:
            part = b""  # the other end is closed
        if not part:
            break
        shown += part
    process.communicate()
    os.close(ours)
    return process.returncode, shown.decode(errors="replace")


def test_the_module_flor_is_the_same_command(recorded: Sandbox) -> None:
    for module in ("flor", "flordb"):
        done = flor(recorded, "sql", "SELECT count(*) AS n FROM flor", module=module)
        assert (done.returncode, done.stdout, done.stderr) == (0, "n\n2\n", "")


def test_help_lists_every_command_and_imports_neither_duckdb_nor_pandas(recorded: Sandbox) -> None:
    code = "import sys; sys.argv = ['flordb', '--help']\nfrom flordb.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
    code += "print({'duckdb', 'pandas', 'torch', 'pyarrow', 'git'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=recorded.root, check=True
    )
    assert done.stdout.endswith("set()\n")
    for name in COMMANDS:
        (line,) = [row for row in done.stdout.splitlines() if row.startswith(f"  {name} ")]
        assert line.split(maxsplit=1)[1].strip()


def test_every_file_of_the_room_is_a_command_or_shared_by_them() -> None:
    files = {path.stem for path in (ROOT / "flordb" / "cli").glob("*.py")}
    assert files - {"__init__", "options", "output", "patches", "stopping"} == set(COMMANDS)


def test_what_is_acquired_is_said_on_stderr_alone_and_plainly(
    recorded: Sandbox, tmp_path: Path
) -> None:
    place = copied(recorded, tmp_path)
    done = flor(place, "sql", "-", "--json", stdin="SELECT double FROM flor WHERE lr = 1")
    assert done.stdout == '{"double": 18.0}\n'
    assert done.stderr == ""  # no bar where nobody looks


def test_a_bar_is_drawn_on_a_terminal_only(recorded: Sandbox, tmp_path: Path) -> None:
    place = copied(recorded, tmp_path)
    code, shown = on_a_terminal(place, "sql", "SELECT double FROM flor WHERE lr = 1")
    assert code == 0
    assert "replaying" in shown


def test_replay_asks_on_a_terminal(recorded: Sandbox, tmp_path: Path) -> None:
    place = copied(recorded, tmp_path)
    code, shown = on_a_terminal(place, "replay", "double", "lr = 1", typed="n\n")
    assert code == 3
    assert "To acquire: 1 replay of 1 run" in shown
    assert "Traceback" not in shown
    assert not list(place.project.runs.glob("*.replay-*"))
    code, shown = on_a_terminal(place, "replay", "double", "lr = 1", typed="y\n")
    assert code == 0
    assert "1 values acquired" in shown or "1 value acquired" in shown
    assert len(list(place.project.runs.glob("*.replay-*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["sql", "SELECT dubble FROM flor"], 1, "double"),
        (["sql", "SELECT 'x'::INTEGER"], 1, "Could not convert"),
        (["sql", "FROM 'no/such.parquet'"], 1, "no/such.parquet"),
        (["sql", "SELECT half FROM flor", "--budget", "0.0001"], 3, "Three ways on"),
        (["sql", "SELECT half FROM flor", "--budget", "much"], 2, "much"),
        (["sql", "--acquire", "perhaps", "SELECT 1"], 2, "perhaps"),
        (["sql"], 2, "QUERY"),
        (["plan", "SELECT nothing FROM flor"], 1, "nothing"),
        (["plan", "SELECT FROM WHERE"], 1, "syntax"),
        (["replay", "half", "--budget", "0.0001"], 3, "--yes"),
        (["replay", "nothing"], 1, "nothing"),
        (["replay", "half", "lr >"], 1, "syntax"),
        (["dataframe", "nothing"], 1, "nothing"),
        (["dataframe"], 2, "NAMES"),
        (["status", "--project", "/no/such/folder"], 2, "/no/such/folder"),
        (["stats"], 2, "stats"),
    ],
)
def test_what_goes_wrong_is_an_exit_code_and_a_message(
    recorded: Sandbox, arguments: list[str], code: int, said: str
) -> None:
    done = flor(recorded, *arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_project_every_command_says_so(tmp_path: Path, name: str) -> None:
    arguments = {"sql": ["SELECT 1"], "plan": ["SELECT 1"], "replay": ["x"], "dataframe": ["x"]}
    arguments["spool"] = ["file:///nowhere"]
    outside = Sandbox(tmp_path, dict(os.environ))
    done = flor(outside, name, *arguments.get(name, []))
    assert done.returncode == 1
    assert done.stderr.startswith("flordb: No flordb project at or above ")
    assert done.stdout == ""


def test_patches_are_shown(recorded: Sandbox) -> None:
    done = flor(recorded, "plan", "--show-patches", "SELECT double FROM flor WHERE lr = 1")
    assert done.returncode == 0
    assert '+flor.log("double", weight * 2)' in done.stdout
    assert "\x1b" not in done.stdout


def test_sync_says_what_it_took_in(recorded: Sandbox, tmp_path: Path) -> None:
    place = copied(recorded, tmp_path)
    place.project.database.unlink(missing_ok=True)
    done = flor(place, "sync")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("2 files, ")
    assert flor(place, "sync").stderr.startswith("0 files, ")
