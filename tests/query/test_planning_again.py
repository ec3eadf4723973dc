"""What planning remembers holds only as long as what it was worked out from."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

import flordb
from flordb.query.connection import Connection
from flordb.store.project import Project
from tests.conftest import Sandbox
from tests.query.test_candidates import project, wants, write_run, write_values
from tests.support import trained

__all__ = ["project"]

F1 = "SELECT f1 FROM flor WHERE lr > 0.15 AND epoch >= 1"


def days(connection: Connection, sql: str = F1) -> list[int]:
    """The days of the runs that a statement asks for, which is asked twice."""
    first, again = wants(connection, sql), wants(connection, sql)
    assert first == again
    return sorted({day for day, _ in again})


def test_a_new_run(project: Project) -> None:
    with flordb.connect(project) as connection:
        assert days(connection) == [2, 3, 4, 5]
        write_run(project, 6, 0.6)
        assert days(connection) == [2, 3, 4, 5, 6]


def test_an_acquired_value(project: Project) -> None:
    with flordb.connect(project) as connection:
        assert wants(connection, F1)[3, "f1"] == (1, 2, 3)
        write_values(project, 3, "f1", {1: 0.5}, "acquired")
        assert wants(connection, F1)[3, "f1"] == (2, 3)
        write_values(project, 3, "f1", {0: 1, 1: 1, 2: 1, 3: 1}, "acquired")
        assert days(connection) == [2, 4, 5]


def test_an_edited_script(project: Project) -> None:
    script = project.root / "train.py"
    with flordb.connect(project) as connection:
        write_values(project, 3, "f1", {}, "refused")
        assert days(connection) == [2, 4, 5]
        before = script.stat()
        script.write_text(script.read_text().replace('"f1", 0', '"f1", 1'))
        # The same size and, as some tools do, the time of before.
        os.utime(script, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert days(connection) == [2, 3, 4, 5]
        (project.root / "other.py").write_text('import flordb as flor\nflor.log("g1", 1)\n')
        write_run(project, 6, 0.6, filename="other.py")
        assert days(connection, "SELECT g1 FROM flor") == [6]
        (project.root / "other.py").unlink()
        with pytest.raises(flordb.UnknownName):
            connection.plan("SELECT g1 FROM flor")


def test_a_script_that_has_not_changed_for_long(project: Project) -> None:
    """Then it is not read again, until it changes."""
    deep = project.root / "models" / "deep"
    deep.mkdir(parents=True)
    (deep / "old.py").write_text("import flordb as flor\n")
    time.sleep(2.1)
    with flordb.connect(project) as connection:
        assert days(connection) == [2, 3, 4, 5]
        (deep / "old.py").write_text('import flordb as flor\nflor.log("g1", 1)\n')
        write_run(project, 6, 0.6, filename="models/deep/old.py")
        assert days(connection, "SELECT g1 FROM flor") == [6]
        (deep / "new.py").write_text('import flordb as flor\nflor.log("h1", 1)\n')
        write_run(project, 7, 0.6, filename="models/deep/new.py")
        assert days(connection, "SELECT h1 FROM flor") == [7]


def test_another_commit(sandbox: Sandbox) -> None:
    place = sandbox.project
    place.prepare()
    sandbox.write("train.py", 'import flordb as flor\nlr = flor.log("lr", 1)\n')
    sandbox.commit()
    write_run(place, 1, 0.1)
    with flordb.connect(place) as connection:
        with pytest.raises(flordb.UnknownName):
            connection.plan("SELECT late FROM flor")
        sandbox.git("switch", "--quiet", "--create", "more")
        sandbox.write("train.py", 'import flordb as flor\nflor.log("late", 1)\n')
        sandbox.commit()
        assert days(connection, "SELECT late FROM flor") == [1]
        sandbox.git("switch", "--quiet", "main")
        with pytest.raises(flordb.UnknownName):
            connection.plan("SELECT late FROM flor")


def test_a_setting_that_conditions_depend_on(project: Project) -> None:
    half = "SELECT f1 FROM flor WHERE lr > 9 / 20"
    with flordb.connect(project) as connection:
        assert days(connection, half) == [5]
        connection.execute("SET integer_division = true")
        assert days(connection, half) == [1, 2, 3, 4, 5]
        connection.execute("SELECT 1; RESET integer_division")
        assert days(connection, half) == [5]


def test_a_macro_that_conditions_depend_on(project: Project) -> None:
    sql = "SELECT f1 FROM flor WHERE lr > least_rate()"
    with flordb.connect(project) as connection:
        connection.execute("CREATE MACRO least_rate() AS 0.35")
        assert days(connection, sql) == [4, 5]
        connection.execute("CREATE OR REPLACE MACRO least_rate() AS 0.45")
        assert days(connection, sql) == [5]


def test_parameters_that_are_equal_in_python_and_not_in_sql(project: Project) -> None:
    sql = "SELECT f1 FROM flor WHERE lr * 10 / ? >= 1 AND lr < ?"
    with flordb.connect(project) as connection:
        connection.execute("SET integer_division = true")
        asked = {days_of(connection, sql, [given, 0.35]) for given in (2, 2.0)}
        assert asked == {(2, 3)}
        texts = "SELECT f1 FROM flor WHERE lr = ?"
        assert days_of(connection, texts, [True]) == days_of(connection, texts, [1]) == ()


def days_of(connection: Connection, sql: str, given: list[object]) -> tuple[int, ...]:
    return tuple(sorted({day for day, _ in wants(connection, sql, given)}))


def test_the_time(project: Project) -> None:
    soon = datetime.now(UTC).replace(tzinfo=None, microsecond=0).timestamp() + 2
    tstamp = f"{datetime.fromtimestamp(soon):%Y-%m-%dT%H:%M:%S}.000000Z"
    write_run(project, 6, 0.6, tstamp=tstamp)
    sql = "SELECT f1 FROM flor WHERE tstamp < current_timestamp::TIMESTAMP AND lr > 0.45"
    with flordb.connect(project) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        assert len(wants(connection, sql)) == 1
        time.sleep(2.1)
        assert len(wants(connection, sql)) == 2


@pytest.mark.slow
def test_a_replay_by_another_process_and_a_gc(sandbox: Sandbox) -> None:
    tried = trained(sandbox.root.parent / "trained", (0.5, 1.0))
    sql = "SELECT square FROM flor WHERE epoch = 3"
    with flordb.connect(tried.root) as connection:
        with_snapshots = connection.plan(sql)
        assert len(with_snapshots.tasks) == 2
        assert connection.plan(sql) == with_snapshots
        run_command(tried, "gc", "--keep", "2")
        without = connection.plan(sql)
        assert [task.notes for task in without.tasks] != [t.notes for t in with_snapshots.tasks]
        run_command(tried, "replay", "square", "lr = 1.0", "--yes")
        assert [task.want.run_id for task in connection.plan(sql).tasks] == [1]


def run_command(sandbox: Sandbox, *arguments: str) -> None:
    command = [sys.executable, "-m", "flordb", *arguments]
    subprocess.run(command, cwd=sandbox.root, env=sandbox.environment, check=True)
