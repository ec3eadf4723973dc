"""The database is shared: held only while it must, readable while others hold it, and derived."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

import flordb
from flordb.errors import FlorWarning
from flordb.store.project import Project
from tests.store.runfiles import ended, header, log, project, text_of, write

LR = "SELECT lr FROM flor ORDER BY lr"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("FLORDB_LOCK_WAIT_SECONDS", "0.2")
    made = project(tmp_path / "p")
    for day in range(3):
        write(made, f"r{day}", [log("lr", day), ended()], header(day))
    return made


def other_process(code: str, place: Project) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(place.database)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def holding(place: Project) -> Iterator[int]:
    """Another process, with the database open for writing; its process id."""
    code = "import duckdb, sys; d = duckdb.connect(sys.argv[1]); print(1, flush=True); input()"
    other = other_process(code, place)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "1\n"
        yield other.pid
    finally:
        other.communicate("\n")


def answer(place: Project, sql: str = LR) -> list[object]:
    with flordb.connect(place) as connection:
        return connection.execute(sql).fetchall()


def test_another_process_writes_while_a_connection_with_a_half_read_result_lives(
    place: Project,
) -> None:
    write_to_it = (
        "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('CREATE TABLE other (x INT)')"
    )
    with flordb.connect(place) as connection:
        cursor = connection.execute(LR)
        assert cursor.fetchone() == (0,)
        other = other_process(write_to_it, place)
        _, said = other.communicate(timeout=60)
        assert (other.returncode, said) == (0, "")
        assert cursor.fetchall() == [(1,), (2,)]
        assert connection.execute(LR).fetchall() == [(0,), (1,), (2,)]
        with pytest.raises(duckdb.Error):
            connection.execute("SELECT nonsense FROM flor")
        with holding(place):
            pass


def test_a_locked_database_is_answered_from_run_files_with_one_warning(place: Project) -> None:
    answer(place)
    write(place, "r3", [log("lr", 3), ended()], header(3))
    with holding(place) as pid, flordb.connect(place) as connection:
        with pytest.warns(FlorWarning) as caught:
            assert connection.execute(LR).fetchall() == [(0,), (1,), (2,), (3,)]
        assert [str(pid) in str(warning.message) for warning in caught] == [True]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert connection.execute("SELECT max(lr) FROM flor").fetchall() == [(3,)]
    assert answer(place, "SELECT count(*) FROM flor") == [(4,)]


def test_a_deleted_database_is_built_anew(place: Project) -> None:
    assert answer(place) == [(0,), (1,), (2,)]
    place.database.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer(place) == [(0,), (1,), (2,)]
        with flordb.connect(place) as connection:
            connection.execute(LR)
            place.database.unlink()
            assert connection.execute(LR).fetchall() == [(0,), (1,), (2,)]


def test_a_nonsense_database_is_put_aside_and_built_anew(place: Project) -> None:
    place.database.write_bytes(b"this is no database " * 1000)
    assert answer(place) == [(0,), (1,), (2,)]


def test_a_line_of_nonsense_is_one_warning_with_file_and_line(place: Project) -> None:
    path = place.runs / "r1.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "{this was edited\n", *lines[1:]]))
    with flordb.connect(place) as connection:
        with pytest.warns(FlorWarning) as caught:
            assert connection.execute(LR).fetchall() == [(0,), (1,), (2,)]
        (said,) = [str(warning.message) for warning in caught]
        assert "r1.jsonl" in said
        assert "line 2" in said
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            connection.execute(LR)
        (problem,) = connection.execute("SELECT file, line FROM problems").fetchall()
        assert problem == ("r1.jsonl", 2)


def test_a_file_of_nonsense_is_one_warning_and_no_run(place: Project) -> None:
    (place.runs / "r1.jsonl").write_text("nonsense\nand more\n")
    with pytest.warns(FlorWarning, match="r1.jsonl") as caught:
        assert answer(place) == [(0,), (2,)]
    assert len(caught) == 1


def test_a_run_file_edited_after_it_was_taken_in_gives_its_new_values(place: Project) -> None:
    assert answer(place) == [(0,), (1,), (2,)]
    path = place.runs / "r1.jsonl"
    path.write_text(text_of([header(1), log("lr", 11), ended()]))
    assert answer(place) == [(0,), (2,), (11,)]


def test_a_run_file_that_was_cut_off_says_nothing(place: Project) -> None:
    path = place.runs / "r2.jsonl"
    path.write_text(path.read_text() + '{"k": "log", "n": "lr", "v": 9')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer(place) == [(0,), (1,), (2,)]


def test_run_files_that_cannot_be_written_to_can_be_read(place: Project) -> None:
    for path in place.runs.iterdir():
        path.chmod(0o444)
    assert answer(place) == [(0,), (1,), (2,)]
