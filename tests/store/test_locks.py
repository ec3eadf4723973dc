"""Several at once: threads, processes, other programs, and both DuckDB versions on one file."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import duckdb
import pytest
from runfiles import header, log, project, write

from flordb.settings import Settings
from flordb.store import catalog
from flordb.store.project import Project

ROOT = Path(__file__).parents[2]
QUICK = Settings(lock_wait_seconds=0.2)

SYNC = """
    import duckdb
    from pathlib import Path
    from flordb.settings import Settings
    from flordb.store import catalog
    from flordb.store.project import Project
    place = Project(Path({root!r}), has_git=False)
    report = catalog.sync(place, Settings(lock_wait_seconds=20))
    assert report.locked is None, report
    print(report.files)
"""
HOLD = """
    import duckdb, sys
    db = duckdb.connect({database!r})
    print("held", flush=True)
    sys.stdin.read()
"""


def other_duckdb() -> Path | None:
    """Where the DuckDB version that these tests do not run with is installed, if anywhere."""
    place = Path(os.environ.get("FLORDB_TEST_OTHER_DUCKDB", ROOT / "build" / "duckdb-1.5.5"))
    return place if place.is_dir() else None


def start(code: str, path: Path | None = None, **values: str) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code).format(**values)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def runs(folder: Path, count: int = 3) -> Project:
    place = project(folder / "p")
    for number in range(count):
        write(place, f"r{number}", [log("a", number)], header(number))
    return place


def read(db: duckdb.DuckDBPyConnection) -> list[Any]:
    return db.execute("SELECT a FROM flor_pivot(['a']) ORDER BY a").fetchall()


def test_reading_works_while_another_program_holds_the_database(tmp_path: Path) -> None:
    place = runs(tmp_path)
    catalog.sync(place, QUICK)
    other = start(HOLD, database=str(place.database))
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        write(place, "new", [log("a", 3)], header(3))
        report = catalog.sync(place, QUICK)
        assert str(other.pid) in (report.locked or "")
        db = duckdb.connect()
        report = catalog.attach(db, place, QUICK)
        assert str(other.pid) in (report.locked or "")
        assert read(db) == [(0,), (1,), (2,), (3,)]
        catalog.detach(db)
    finally:
        other.communicate("")
    assert catalog.sync(place, QUICK).files == 1


def test_the_database_is_free_after_detach(tmp_path: Path) -> None:
    place = runs(tmp_path)
    db = duckdb.connect()
    catalog.attach(db, place, QUICK)
    read(db)
    catalog.detach(db)
    catalog.detach(db)
    other = start(HOLD, database=str(place.database))
    assert other.communicate("")[0] == "held\n"
    assert other.returncode == 0


def test_a_reader_sees_new_runs_while_another_reader_keeps_the_database(tmp_path: Path) -> None:
    place = runs(tmp_path)
    first, second = duckdb.connect(), duckdb.connect()
    catalog.attach(first, place, QUICK)
    write(place, "new", [log("a", 3)], header(3))
    report = catalog.attach(second, place, QUICK)
    assert "this process" in (report.locked or "")
    assert len(read(first)) == 3
    assert len(read(second)) == 4


def test_processes_that_sync_at_once_take_each_file_in_once(tmp_path: Path) -> None:
    place = runs(tmp_path, 20)
    others = [start(SYNC, root=str(place.root)) for _ in range(3)]
    taken = [int(other.communicate()[0]) for other in others]
    assert all(other.returncode == 0 for other in others)
    assert sum(taken) == 20
    db = duckdb.connect()
    catalog.attach(db, place, QUICK)
    assert read(db) == [(n,) for n in range(20)]


def test_threads_attach_at_once(tmp_path: Path) -> None:
    place = runs(tmp_path)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(3):
                name = f"t{number}-{step}"
                write(place, name, [log("b", 1)], header(5 + number, filename=name))
                db = duckdb.connect()
                catalog.attach(db, place, Settings(lock_wait_seconds=20))
                assert read(db) == [(0,), (1,), (2,)]
                (count,) = db.execute("SELECT count(*) FROM logs").fetchall()[0]
                assert count >= 3 + step + 1
                catalog.detach(db)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_own_tables_of_the_connection_are_not_in_the_way(tmp_path: Path) -> None:
    place = runs(tmp_path)
    db = duckdb.connect()
    db.execute("CREATE TABLE logs AS SELECT 7 AS x")
    catalog.attach(db, place, QUICK)
    assert read(db) == [(0,), (1,), (2,)]
    assert db.execute("FROM logs").fetchall() == [(7,)]
    db.execute("CREATE TABLE mine AS FROM flor")
    catalog.detach(db)
    assert len(db.execute("FROM mine").fetchall()) == 3


def test_the_plain_shell_reads_the_bare_file(tmp_path: Path) -> None:
    shell = Path(sys.executable).with_name("duckdb")
    if not shell.exists():
        pytest.skip("the DuckDB shell is not installed (pip install duckdb-cli)")
    place = runs(tmp_path)
    catalog.sync(place, QUICK)
    query = "SELECT sum(a) AS s FROM flor_pivot(['a']); SELECT count(*) FROM flor"
    command = [str(shell), "-csv", "-noheader", str(place.database), query]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "3"]


def test_both_duckdb_versions_write_and_read_one_file(tmp_path: Path) -> None:
    other = other_duckdb()
    if other is None:
        pytest.skip("no second DuckDB (FLORDB_TEST_OTHER_DUCKDB names its folder)")
    place = runs(tmp_path)
    catalog.sync(place, QUICK)
    write(place, "new", [log("a", 3)], header(3))
    done = start(SYNC, other, root=str(place.root))
    assert done.communicate()[0] == "1\n"
    write(place, "newer", [log("a", 4)], header(4))
    db = duckdb.connect()
    assert catalog.attach(db, place, QUICK).files == 1
    assert read(db) == [(n,) for n in range(5)]
