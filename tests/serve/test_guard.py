"""Sessions from outside may read. Two lines of defence, each tested without the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flordb.query.errors import Error, ProgrammingError
from flordb.serve import guard
from flordb.serve.database import READ_ONLY, Database
from flordb.serve.errors import Refused
from flordb.settings import Settings
from tests.store.runfiles import ended, header, log, project, write

ALLOWED = [
    "SELECT 1",
    "FROM runs",
    "TABLE runs",
    "VALUES (1), (2)",
    "WITH a AS (SELECT 1 AS x) SELECT * FROM a WHERE x = (SELECT max(run_id) FROM runs)",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) FROM n",
    "SELECT * FROM a UNION ALL BY NAME (FROM b) ORDER BY ALL LIMIT 3",
    "PIVOT runs ON state IN ('finished') USING count(*)",
    "UNPIVOT runs ON run_id INTO NAME n VALUE v",
    "SELECT list_transform([1], lambda x: x + 1), row_number() OVER (), COLUMNS('r.*') FROM runs",
    "SELECT * FROM generate_series(3), unnest([1, 2]) u(i), json_each('{}')",
    "SELECT * FROM flor_pivot(['loss'])",
    "SELECT 'read_text(''/etc/passwd'')' AS harmless -- DROP TABLE runs",
    "DESCRIBE runs",
    "SHOW TABLES",
    "SUMMARIZE runs",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "SELECT table_name FROM information_schema.tables",
    "SELECT * FROM duckdb_columns()",
]
FILES = [
    "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM read_blob('/etc/hostname')",
    "SELECT * FROM read_csv('/etc/hostname')",
    "SELECT * FROM read_parquet('/etc/hostname')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/hostname')",
    "SELECT * FROM parquet_metadata('/etc/hostname')",
    "SELECT (SELECT content FROM read_text('/etc/hostname'))",
    "WITH a AS MATERIALIZED (FROM read_text('/etc/hostname')) FROM a",
    "COPY runs TO '/tmp/flor-attack.csv'",
    "COPY (SELECT 1) TO '/tmp/flor-attack.csv'",
    "COPY runs FROM '/etc/hostname'",
    "EXPORT DATABASE '/tmp/flor-attack'",
    "IMPORT DATABASE '/tmp'",
    "ATTACH '/tmp/flor-attack.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CREATE SECRET (TYPE s3)",
]
WRITES = [
    "INSERT INTO runs SELECT * FROM runs",
    "DELETE FROM runs",
    "UPDATE runs SET state = 'failed'",
    "TRUNCATE runs",
    "DROP TABLE runs",
    "CREATE TABLE t (i INTEGER)",
    "CREATE OR REPLACE VIEW flor AS SELECT 1",
    "CREATE MACRO m() AS 1",
    "CREATE TYPE t AS ENUM ('a')",
    "CREATE SCHEMA s",
    "CREATE SEQUENCE s",
    "ALTER TABLE runs ADD COLUMN c INTEGER",
    "MERGE INTO runs USING runs r ON false WHEN NOT MATCHED THEN INSERT BY NAME",
    "EXPLAIN ANALYZE DELETE FROM runs",
    "PREPARE p AS DELETE FROM runs",
]
MUTATING_CTE = "WITH gone AS (DELETE FROM runs RETURNING *) SELECT * FROM gone"
OTHERS = [
    "SELECT 1; SELECT 2",
    "",
    "-- nothing",
    "SET threads = 1",
    "RESET threads",
    "SET VARIABLE x = 1",
    "USE main",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CHECKPOINT",
    "VACUUM",
    "ATTACH ':memory:' AS other",
    "DETACH flordb",
    "CREATE TEMP TABLE t (i INTEGER)",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "EXECUTE p",
    "DEALLOCATE p",
    "PIVOT runs ON state USING count(*)",
    "SELECT getenv('HOME')",
    "SELECT current_setting('threads')",
    "SELECT nextval('s')",
    "SELECT write_log('x')",
    "SELECT system.main.getenv('HOME')",
    "SELECT [getenv(x) FOR x IN ['HOME']]",
    "SELECT __internal_decompress_string(1::UINTEGER)",
    "SELECT 'HOME'.getenv()",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/hostname'')')",
    "SELECT * FROM query_table('runs')",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_logs",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM duckdb_databases()",
    "SELECT * FROM force_checkpoint()",
    "SELECT * FROM enable_logging()",
    "DESCRIBE SELECT * FROM read_text('/etc/hostname')",
    "SUMMARIZE FROM read_text('/etc/hostname')",
    "EXPLAIN SELECT * FROM read_text('/etc/hostname')",
]


@pytest.mark.parametrize("sql", ALLOWED)
def test_reading_passes_the_check(sql: str) -> None:
    guard.check(sql)


@pytest.mark.parametrize("sql", [*FILES, *WRITES, *OTHERS, MUTATING_CTE])
def test_all_else_does_not(sql: str) -> None:
    with pytest.raises((Refused, ProgrammingError)):
        guard.check(sql)


def test_the_check_itself_opens_no_file(tmp_path: Path) -> None:
    (tmp_path / "schema.sql").write_text("SELECT 'read by the parser';\n")
    (tmp_path / "load.sql").write_text("")
    with pytest.raises(Refused) as caught:
        guard.check(f"IMPORT DATABASE '{tmp_path}'")
    assert "read by" not in str(caught.value)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    place = project(tmp_path_factory.mktemp("guard") / "p")
    for day in range(3):
        write(place, f"r{day}", [log("lr", day), ended()], header(day))
    made = Database(place, Settings())
    made.lock_down()
    yield made
    made.close()


def contents(database: Database) -> list[tuple[object, ...]]:
    with database.cursor() as cursor:
        tables = cursor.execute(
            "SELECT table_name, estimated_size FROM duckdb_tables() WHERE NOT internal ORDER BY ALL"
        ).fetchall()
        rows = cursor.execute("SELECT lr, state FROM flor JOIN runs USING (tstamp) ORDER BY lr")
        return [*tables, *rows.fetchall()]


@pytest.mark.parametrize("sql", [*FILES, *WRITES, MUTATING_CTE, "SET threads = 1", "FROM database"])
def test_what_slips_through_meets_duckdbs_own_locks(database: Database, sql: str) -> None:
    before = contents(database)
    with database.cursor() as cursor:
        cursor.execute(READ_ONLY)
        if sql.startswith("PREPARE"):
            cursor.execute(sql)
            sql = "EXECUTE p"
        with pytest.raises(duckdb.Error):
            cursor.execute(sql).fetchall()
    assert contents(database) == before
    assert not list(Path("/tmp").glob("flor-attack*"))


def test_the_locks_cannot_be_undone(database: Database) -> None:
    with database.cursor() as cursor:
        for setting in ("enable_external_access", "lock_configuration", "access_mode"):
            for value in ("true", "false", "'automatic'"):
                with pytest.raises(duckdb.Error):
                    cursor.execute(f"SET GLOBAL {setting} = {value}")


_PIECES = st.sampled_from(
    [
        *("SELECT", "FROM", "WITH", "AS", "DELETE", "INSERT INTO", "DROP TABLE", "runs", "flor"),
        *("(", ")", ",", ";", "'", '"', "$$", "--", "/*", "*/", "*", "1", "read_text", "getenv"),
        *("'/etc/hostname'", "COPY", "TO", "ATTACH", "RETURNING", "UNION", "EXPLAIN", "ANALYZE"),
        *("CREATE", "TEMP", "x", ".", "::", "BEGIN", "COMMIT", "\n", "\0", "é", "E'\\''", "SET"),
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_PIECES, max_size=14).map(" ".join))
def test_no_text_changes_anything(database: Database, sql: str) -> None:
    try:
        guard.check(sql)
    except Error:
        return
    before = contents(database)
    with database.cursor() as cursor:
        cursor.execute(READ_ONLY)
        try:
            cursor.execute(sql).fetchall()
        except duckdb.Error:
            pass
        else:
            assert "read_text" not in sql or "'" in sql
    assert contents(database) == before
