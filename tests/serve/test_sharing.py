"""Many clients at once: replays that they share, runs that go on, other processes."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from psycopg import errors

from tests.conftest import Sandbox
from tests.serve.support import Served, connected, in_shell, in_shell_behind, needs_quack, served
from tests.support import copied, make_sandbox

pytestmark = pytest.mark.slow

SLOW = """\
import time

import flordb as flor

weight = 1.0
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(4)):
        time.sleep(0.15)
        weight += 1
    flor.log("acc", weight)
"""
LINE = "        weight += 1\n"
LACKING = ("anywhere", "given_up", "alone", "dashboards")
"""A column for each test that has values acquired."""


@pytest.fixture(scope="module")
def trained_slowly(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    place = make_sandbox(tmp_path_factory.mktemp("slow"))
    place.write("train.py", SLOW)
    place.run("train.py")
    more = "".join(f'        flor.log("{name}", weight * 2)\n' for name in LACKING)
    place.write("train.py", SLOW.replace(LINE, LINE + more))
    return place


@pytest.fixture
def slow(trained_slowly: Sandbox, tmp_path: Path) -> Sandbox:
    """A run of two seconds, of which each step must be run again for what it lacks."""
    return copied(trained_slowly, tmp_path)


@pytest.fixture(scope="module")
def server(trained_slowly: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that several tests share, with one worker."""
    place = copied(trained_slowly, tmp_path_factory.mktemp("shared"))
    with served(place, "--workers", "1") as running:
        yield running


def replays(place: Sandbox, name: str) -> list[Path]:
    """The replays that brought a column."""
    files = place.project.runs.glob("*.replay-*.jsonl")
    return [path for path in files if f'"{name}"' in path.read_text().partition("\n")[0]]


def children(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a process has started and that live."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def eventually(holds: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.05)


def ask(server: Served, sql: str) -> list[tuple[Any, ...]]:
    with connected(server) as connection:
        return connection.execute(sql).fetchall()


# The first two wait for the first process that the server starts: they come first.


def test_a_replay_that_nobody_waits_for_is_stopped(server: Served) -> None:
    with ThreadPoolExecutor(1) as pool:
        with connected(server) as connection:
            asked = pool.submit(connection.execute, "SELECT sum(alone) FROM flor")
            eventually(lambda: children(server.process))
            hang_up(connection)
            with pytest.raises(errors.OperationalError):
                asked.result()
            eventually(lambda: not children(server.process), 10)
        assert replays(server.place, "alone") == []
        assert ask(server, "SELECT count(*) FROM runs") == [(1,)]


def test_who_gives_up_stops_only_what_nobody_else_waits_for(server: Served) -> None:
    sql = "SELECT sum(given_up) FROM flor"
    with (
        ThreadPoolExecutor(2) as pool,
        connected(server) as gone,
        connected(server) as cancelled,
        connected(server) as stays,
    ):
        first = pool.submit(gone.execute, sql)
        second = pool.submit(cancelled.execute, sql)
        eventually(lambda: children(server.process))
        stays.pgconn.send_query(sql.encode())
        time.sleep(0.3)
        cancelled.cancel()
        with pytest.raises(errors.QueryCanceled):
            second.result()
        hang_up(gone)
        with pytest.raises(errors.OperationalError):
            first.result()
        result = stays.pgconn.get_result()
        assert result is not None
        assert result.get_value(0, 0) == b"180.0"
        assert stays.pgconn.get_result() is None
    assert len(replays(server.place, "given_up")) == 1


def test_two_dashboards_share_one_replay(server: Served) -> None:
    with ThreadPoolExecutor(3) as pool:
        sql = "SELECT sum(dashboards) FROM flor"
        asked: list[Future[Any]] = [pool.submit(ask, server, sql) for _ in range(3)]
        assert [future.result() for future in asked] == [[(180.0,)]] * 3
    assert len(replays(server.place, "dashboards")) == 1


def hang_up(connection: Any) -> None:
    """End a connection as a program that dies does."""
    with socket.socket(fileno=socket.dup(connection.pgconn.socket)) as raw:
        raw.shutdown(socket.SHUT_RDWR)


@needs_quack
def test_a_duckdb_shell_that_is_killed_stops_its_replay_alone(slow: Sandbox) -> None:
    with (
        served(slow, "--workers", "1", quack=True) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        stays = pool.submit(ask, server, "SELECT sum(anywhere) FROM flor")
        killed = in_shell_behind(server, "FROM f.query('SELECT sum(alone) FROM flor');")
        eventually(lambda: len(children(server.process)) > 0)
        time.sleep(0.5)
        killed.kill()
        killed.communicate()
        assert stays.result() == [(180.0,)]
        time.sleep(3)  # longer than the other takes
        assert ask(server, "SELECT count(*) FROM runs") == [(1,)]
    assert replays(slow, "alone") == []
    assert len(replays(slow, "anywhere")) == 1


@needs_quack
def test_both_protocols_share_one_replay(slow: Sandbox) -> None:
    sql = "SELECT sum(anywhere) FROM flor"
    with served(slow, "--workers", "1", quack=True) as server, ThreadPoolExecutor(2) as pool:
        shell = pool.submit(in_shell, server, f"FROM f.query('{sql}');")
        dashboard = pool.submit(ask, server, sql)
        assert shell.result() == (["180.0"], "")
        assert dashboard.result() == [(180.0,)]
    assert len(replays(slow, "anywhere")) == 1


def test_a_training_is_seen_while_it_runs_and_while_others_look(slow: Sandbox) -> None:
    endless = SLOW.replace("range(3)", "range(10_000)").replace("0.15", "0.01")
    slow.write("endless.py", endless)
    with served(slow, FLORDB_SERVE_REFRESH_SECONDS="0") as server:
        assert ask(server, "SELECT count(*) FROM runs") == [(1,)]
        training = slow.start("endless.py")
        try:
            sql = "SELECT max(epoch) FROM flor WHERE filename = 'endless.py' AND acc > 0"
            eventually(lambda: (ask(server, sql)[0][0] or 0) >= 3)
            seen = ask(server, sql)[0][0]
            eventually(lambda: ask(server, sql)[0][0] > seen)
            state = "SELECT state FROM runs WHERE filename = 'endless.py'"
            assert ask(server, state) == [("running",)]
            other = [sys.executable, "-m", "flordb", "sql", "--csv", "SELECT count(*) FROM runs"]
            done = subprocess.run(
                other, cwd=slow.root, env=slow.environment, capture_output=True, text=True
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.split() == ["count_star()", "2"]
        finally:
            training.terminate()
            training.communicate()
        eventually(lambda: ask(server, state) != [("running",)])
        slow.run("train.py")
        assert ask(server, "SELECT count(*) FROM runs") == [(3,)]


def test_a_run_file_that_was_edited_is_taken_in_anew(slow: Sandbox) -> None:
    with served(slow, FLORDB_SERVE_REFRESH_SECONDS="0") as server:
        sql = "SELECT max(acc) FROM flor"
        assert ask(server, sql) == [(13.0,)]
        (path,) = slow.run_files()
        text, count = re.subn(r"(?<=[\[,:])13\.0(?=[\],}])", "14.0", path.read_text())
        assert count == 1
        path.write_text(text)
        assert ask(server, sql) == [(14.0,)]


def test_the_server_leaves_nothing_behind(slow: Sandbox) -> None:
    with served(slow) as server:
        assert len(list(slow.project.temporary.glob("serve-*"))) == 1
        server.process.kill()
        server.process.wait()
    with served(slow) as server:
        (folder,) = slow.project.temporary.glob("serve-*")
        assert str(server.process.pid) in folder.name
    assert server.process.returncode == 0
    assert list(slow.project.temporary.glob("serve-*")) == []
