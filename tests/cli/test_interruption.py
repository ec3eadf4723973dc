"""Commands that are stopped, cut off, or given too little room."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from flordb.settings import Settings
from flordb.store import catalog
from tests.conftest import Sandbox
from tests.support import TRAIN, look_back, make_sandbox, mounted, trained


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_query_that_is_stopped_leaves_nothing_behind(
    tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    place = trained(tmp_path, (1.0,))
    reached = tmp_path / "reached"
    line = '    flor.log("acc", weight)\n'
    hanging = f"(open({str(reached)!r}, 'w'), __import__('time').sleep(60))"
    place.write("train.py", TRAIN.replace(line, f"{line}    flor.log('h', {hanging})\n"))
    before = place.everything_of_the_users()
    process = asking(place, "SELECT h FROM flor")
    deadline = time.monotonic() + 60
    while not reached.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(sent)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.strip()) == (code, "", "")
    assert place.everything_of_the_users() == before
    assert not list(place.project.runs.glob("*.replay-*"))
    assert list(place.project.temporary.iterdir()) == []
    workspaces = Path(place.environment["XDG_CACHE_HOME"]) / "flordb" / "workspaces"
    assert [path for path in workspaces.iterdir() if path.is_dir()] == []


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_query_is_stopped_while_duckdb_is_at_work(
    sandbox: Sandbox, sent: signal.Signals, code: int
) -> None:
    sandbox.project.prepare()
    stop_at_work(asking(sandbox, ENDLESS), sent, code)


@pytest.mark.slow
def test_a_dataframe_is_stopped_while_duckdb_is_at_work(sandbox: Sandbox) -> None:
    sandbox.write("train.py", "import flordb as flor\nflor.log('x', 1)\n")
    sandbox.run("train.py")
    assert catalog.sync(sandbox.project, Settings()).files == 1
    with duckdb.connect(str(sandbox.project.database)) as database:
        database.execute(f"CREATE OR REPLACE MACRO flor_pivot(names) AS TABLE {ENDLESS}")
    stop_at_work(begun(sandbox, "dataframe", "x"), signal.SIGTERM, 143)


ENDLESS = "SELECT sum(a.range * b.range) AS x FROM range(1000000) a, range(1000000) b"


def stop_at_work(process: subprocess.Popen[str], sent: signal.Signals, code: int) -> None:
    """Send a signal to a command that is at an endless query: it ends, and says nothing."""
    while cpu_seconds(process.pid) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(sent)
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, err.strip()) == (code, "", "")


def asking(place: Sandbox, query: str) -> subprocess.Popen[str]:
    """``flordb sql``, begun."""
    return begun(place, "sql", query)


def begun(place: Sandbox, *arguments: str) -> subprocess.Popen[str]:
    """A command, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "flordb", *arguments],
        cwd=place.root,
        env=place.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def place(sandbox: Sandbox) -> Sandbox:
    sandbox.project.prepare()
    return sandbox


def flor(place: Sandbox, *arguments: str, stdout: str) -> subprocess.CompletedProcess[str]:
    with open(stdout, "w") as file:
        return subprocess.run(
            [sys.executable, "-m", "flordb", *arguments],
            cwd=place.root,
            env=place.environment,
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_a_message(place: Sandbox) -> None:
    done = flor(place, "sql", "SELECT 1", stdout="/dev/full")
    assert done.returncode == 1
    assert done.stderr == "flordb: [Errno 28] No space left on device\n"


def test_what_finds_no_room_in_the_store_says_where_and_is_done_when_there_is_room(
    tmp_path: Path,
) -> None:
    place = make_sandbox(tmp_path)
    with mounted(place.root / ".flor", "size=20m"):
        place.run("train.py")
        place.write("train.py", look_back())
        filler = place.root / ".flor" / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        query, bucket = "SELECT half FROM flor", f"file://{tmp_path}/bucket"
        for command in (("sql", query), ("spool", bucket)):
            done = flor(place, *command, stdout=os.devnull)
            assert done.returncode == 1
            assert f"No space left on device: '{place.project.store}" in done.stderr
            assert "Make room" in done.stderr
        left = [path.suffix for path in place.project.store.rglob("*")]
        assert not {".tmp", ".part"} & set(left)
        filler.unlink()
        assert flor(place, "spool", bucket, stdout=os.devnull).returncode == 0
        flor(place, "sql", query, stdout=str(tmp_path / "out"))
        assert (tmp_path / "out").read_text().split() == ["half", "1.0", "1.5", "2.0", "2.5"]


def test_a_row_is_a_line_in_a_pipe(place: Sandbox, tmp_path: Path) -> None:
    query = "SELECT E'a\\tb\\nc' AS x, 'é \\ d' AS y"
    flor(place, "sql", query, stdout=str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "x\ty\na\\tb\\nc\té \\ d\n"


@pytest.mark.parametrize("option", [("--budget", "-1"), ("--workers", "-3")])
def test_negative_budgets_and_workers_are_wrong_usage(
    place: Sandbox, option: tuple[str, str]
) -> None:
    done = flor(place, "sql", "SELECT 1", *option, stdout=os.devnull)
    assert done.returncode == 2
    assert option[0] in done.stderr
