"""Functions of ``udfs/`` in SQL: what git knows of the versions of the runs."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import duckdb
import pytest

import flordb
from flordb import udfs
from flordb.query.connection import Connection
from tests.conftest import Sandbox

SCRIPT = 'import flordb as flor\nflor.log("x", {})\n'
NAME = "sub dir/tr'ain é.py"


@pytest.fixture
def db(sandbox: Sandbox) -> Iterator[Connection]:
    """A project with two runs of two versions."""
    for number in (1, 2):
        sandbox.write(NAME, SCRIPT.format(number))
        sandbox.run(NAME)
    with flordb.connect(sandbox.root) as connection:
        yield connection


def test_each_run_has_its_code_at_hand(db: Connection) -> None:
    rows = db.execute("SELECT git_source(version, filename) FROM runs ORDER BY tstamp")
    assert rows.fetchall() == [(SCRIPT.format(1),), (SCRIPT.format(2),)]


def test_commits_and_files_are_relations_that_join_with_runs(db: Connection) -> None:
    query = """
        SELECT filename, bytes, author, message, len(parents)
        FROM runs JOIN git_files USING (version, filename) JOIN git_commits USING (version)
    """
    size = len(SCRIPT.format(1))
    assert db.execute(query).fetchall() == [(NAME, size, "Ada", "flordb: the code of a run", 1)] * 2
    first = db.execute("SELECT message, tstamp < now() FROM git_commits WHERE len(parents) = 0")
    assert first.fetchall() == [("begin", True)]


def test_what_git_does_not_have_is_null_and_nothing_is_taken_for_an_option(db: Connection) -> None:
    for version, filename in [
        ("0" * 40, "README"),
        ("--help", "README"),
        ("HEAD", "nope"),
        ("HEAD", "../README"),
        ("HEAD", "/etc/passwd"),
        ("HEAD\nHEAD", "README"),
        (None, "README"),
    ]:
        rows = db.execute("SELECT git_source(?, ?)", [version, filename])
        assert rows.fetchall() == [(None,)], (version, filename)
    assert db.execute("SELECT git_source('HEAD', 'README')").fetchall() == [("a project\n",)]
    assert db.execute("FROM git_files WHERE version = '--all'").fetchall() == []


def test_outside_a_repository_there_are_no_commits(folder: Sandbox) -> None:
    folder.project.prepare()
    with flordb.connect(folder.root) as connection:
        assert connection.execute("FROM git_commits").fetchall() == []
        assert connection.execute("SELECT git_source('HEAD', 'x')").fetchall() == [(None,)]


def test_the_views_are_in_no_file_that_a_shell_opens(db: Connection, sandbox: Sandbox) -> None:
    db.execute("FROM git_commits")
    with duckdb.connect(str(sandbox.project.database), read_only=True) as shell:
        names = shell.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        assert ("flor",) in names
        assert not [name for (name,) in names if name.startswith("git_")]


@pytest.mark.parametrize("family", [module.name for module in pkgutil.iter_modules(udfs.__path__)])
def test_each_function_of_a_family_is_known_to_a_connection(family: str, db: Connection) -> None:
    functions = import_module(f"flordb.udfs.{family}").functions(db.project)
    known = db.execute("SELECT DISTINCT function_name FROM duckdb_functions()").fetchall()
    assert functions
    assert {function.name for function in functions} <= {name for (name,) in known}


def test_a_file_in_the_folder_is_a_family(
    folder: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "greeting.py").write_text(
        "from flordb.udfs import Function\n"
        "def functions(project):\n"
        "    hello = lambda name: f'hello {name} from {project.projid}'\n"
        "    return [Function('hello', hello, ('VARCHAR',), 'VARCHAR')]\n"
    )
    monkeypatch.setattr(udfs, "__path__", [*udfs.__path__, str(tmp_path)])
    folder.project.prepare()
    with flordb.connect(folder.root) as connection:
        rows = connection.execute("SELECT hello('Ada'), hello(NULL)").fetchall()
    assert rows == [("hello Ada from proj", None)]
