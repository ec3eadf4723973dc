"""The unmodified DuckDB shell as a client, over DuckDB's own protocol."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from flordb.serve.errors import ServeError
from flordb.serve.quack import load_extension
from tests.conftest import Sandbox
from tests.serve.support import Served, in_shell, needs_quack, on_duckdb15
from tests.support import copied

pytestmark = [pytest.mark.slow, needs_quack]


def query(sql: str) -> str:
    return "FROM f.query('" + sql.replace("'", "''") + "');\n"


def test_the_shell_reads_and_acquires(quack_server: Served) -> None:
    rows, errors = in_shell(
        quack_server,
        query('SELECT lr, "end" FROM flor ORDER BY lr')
        + query("SELECT lr, double FROM flor WHERE lr >= 1 ORDER BY lr")
        + query("SELECT value_name, count(*) FROM acquisitions GROUP BY ALL"),
    )
    assert errors == ""
    assert rows == ["0.5,5.0", "1.0,9.0", "2.0,17.0", "1.0,18.0", "2.0,34.0", "double,2"]


def test_tables_of_the_server_are_tables_of_the_shell(quack_server: Served) -> None:
    rows, errors = in_shell(
        quack_server,
        "SELECT state, count(*) FROM f.runs GROUP BY ALL;\nSELECT max(lr) FROM f.flor;\n",
    )
    assert (rows, errors) == (["finished,3", "2.0"], "")


def test_versions_are_served_too(quack_server: Served) -> None:
    source = "git_source(version, filename) LIKE '%flor.loop%'"
    rows, errors = in_shell(quack_server, query(f"SELECT DISTINCT {source} FROM runs"))
    assert (rows, errors) == (["true"], "")


def test_errors_are_ours_word_for_word(quack_server: Served) -> None:
    rows, errors = in_shell(
        quack_server,
        query("SET flor_budget = 0")
        + query("SELECT third FROM flor")
        + query("SELECT thrid FROM flor")
        + query("SET flor_acquire = 'never'")
        + query("SELECT DISTINCT lr, third FROM flor WHERE lr = 1"),
    )
    assert rows == ["true", "true", "1.0,NULL"]
    assert "This query needs about" in errors
    assert "Three ways on" in errors
    assert 'Candidate bindings: "third"' in errors
    assert "SELECT name FROM names" in errors


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (i INTEGER)",
        "DELETE FROM runs",
        "SELECT * FROM read_text('/etc/hostname')",
        "FROM '/etc/hostname'",
        "COPY runs TO '/tmp/flor-test.csv'",
        "ATTACH ':memory:' AS other",
        "SET threads = 1",
        "PRAGMA database_list",
        "CALL quack_stop('quack:localhost')",
        "SELECT flor_authorize('', 'SELECT 1')",
        "LOAD httpfs",
        "SELECT 1; DELETE FROM runs",
        "BEGIN",
    ],
)
def test_nothing_but_reading_is_served(quack_server: Served, sql: str) -> None:
    rows, errors = in_shell(quack_server, query(sql) + query("SELECT count(*) FROM runs"))
    assert errors != ""
    assert rows == ["3"]


def test_the_catalog_of_the_shell_cannot_write_either(quack_server: Served) -> None:
    for sql in ("CREATE TABLE f.t (i INTEGER);", "DROP TABLE f.runs;", "DELETE FROM f.runs;"):
        _, errors = in_shell(quack_server, sql)
        assert errors != ""
    assert in_shell(quack_server, query("SELECT count(*) FROM runs"))[0] == ["3"]


def test_a_wrong_token_is_refused(quack_server: Served) -> None:
    rows, errors = in_shell(quack_server, query("SELECT 1"), token="not-the-token-at-all")
    assert rows == []
    assert "Authentication failed" in errors


def test_flordb_shell_is_a_server_and_a_shell_in_one_command(
    recorded: Sandbox, tmp_path: Path
) -> None:
    place = copied(recorded, tmp_path)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "flordb",
            "shell",
            "-csv",
            "-c",
            query("SELECT max(lr) m FROM flor"),
        ],
        cwd=place.root,
        env=on_duckdb15(place.environment),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "m\n2.0\n")
    assert "Error" not in done.stderr
    assert not list(place.project.temporary.glob("serve-*"))


def test_an_extension_that_cannot_be_had_is_said_with_the_way_to_it(tmp_path: Path) -> None:
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"SET custom_extension_repository = '{tmp_path}'")
        with pytest.raises(ServeError, match=r"cannot load .*'quark'") as caught:
            load_extension(connection, "quark")
    assert duckdb.__version__ in str(caught.value)
    assert "pip install 'flordb[quack]'" in str(caught.value)
