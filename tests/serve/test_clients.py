"""Clients and their ways to find out what there is: psql, isql and pyodbc, SQLAlchemy."""

from __future__ import annotations

import subprocess

import pyodbc
import pytest
import sqlalchemy
from psycopg import errors

import flordb
from flordb.serve.pg.types import column_of
from tests.serve.support import (
    ISQL,
    ODBC_DRIVER,
    PSQL,
    Served,
    connected,
    needs_odbc,
    needs_psql,
)

pytestmark = pytest.mark.slow

COLUMNS = ["projid", "tstamp", "filename", "epoch", "epoch_value", "step", "step_value"]
LOGGED = {"lr", "loss", "acc", "end"}
VIRTUAL = {"half", "third", "square", "double"}


def psql(server: Served, *commands: str, token: str | None = None) -> tuple[str, str]:
    arguments = [word for command in commands for word in ("-c", command)]
    place = ["-h", server.host, "-p", str(server.port), "-U", "flor", "-d", "flordb"]
    done = subprocess.run(
        [str(PSQL), "-X", "-A", "-t", "-F", "|", *place, *arguments],
        env={**server.place.environment, "PGPASSWORD": token or server.token},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout, done.stderr


@needs_psql
def test_psql_lists_and_describes(server: Served) -> None:
    for command in ("\\d", "\\dt"):
        out, err = psql(server, command)
        assert err == ""
        assert "main|flor|table|flor" in out.splitlines()
        assert "main|runs|table|flor" in out.splitlines()
        assert "flor_logs" not in out
    out, err = psql(server, "\\d flor")
    assert err == ""
    shown = [line.split("|")[:2] for line in out.splitlines()]
    assert shown[:4] == [
        ["projid", "text"],
        ["tstamp", "timestamp without time zone"],
        ["filename", "text"],
        ["epoch", "bigint"],
    ]
    assert ["lr", "double precision"] in shown
    assert ["half", "double precision"] in shown  # it has no value yet
    for command in ("\\l", "\\dn", "\\du", "\\dv", "\\di", "\\dT", "\\d+ runs"):
        assert "ERROR" not in psql(server, command)[1]


@needs_psql
def test_psql_reads_and_is_told_what_it_may_not(server: Served) -> None:
    out, err = psql(server, "SELECT lr FROM flor ORDER BY lr", "DELETE FROM runs", "SELECT 1")
    assert out.split() == ["0.5", "1.0", "2.0", "1"]
    assert "DELETE is not served" in err
    out, err = psql(server, "SELECT 1", token="wrong")
    assert out == ""
    assert "authentication failed" in err


def test_the_catalogs_types_are_those_of_results(server: Served) -> None:
    with connected(server) as connection, flordb.connect(server.place.root) as plain:
        for table in ("flor", "runs", "logs", "acquisitions", "snapshots", "names"):
            listed = connection.execute(
                "SELECT attname, atttypid::int, atttypmod FROM pg_attribute "
                "WHERE attrelid = %s::regclass ORDER BY attnum",
                (table,),
            ).fetchall()
            probe = connection.execute(f"SELECT * FROM {table} LIMIT 0")
            assert probe.description is not None
            assert [row[:2] for row in listed] == [(c.name, c.type_code) for c in probe.description]
        kinds = [
            "DECIMAL(12, 3)",
            "HUGEINT",
            "INTEGER[]",
            "JSON",
            "BLOB[]",
            "TIMESTAMPTZ",
            "VARCHAR[][]",
        ]
        columns = ", ".join(f"NULL::{kind} AS c{n}" for n, kind in enumerate(kinds))
        relation = plain.sql(f"SELECT {columns}")
        assert relation.description is not None
        for column in relation.description:
            name = connection.execute("SELECT pg_type_name(%s)", (str(column[1]),)).fetchone()
            assert name == (column_of("c", column[1]).type.name,)


def odbc(server: Served, more: str) -> str:
    return (
        f"DRIVER={ODBC_DRIVER};SERVER={server.host};PORT={server.port};DATABASE=flordb;UID=flor;"
        f"PWD={server.token};{more}"
    )


@needs_odbc
@pytest.mark.parametrize(
    "options",
    ["", "UseDeclareFetch=1;Fetch=2", "UseServerSidePrepare=0", "UseDeclareFetch=1;Protocol=7.4-2"],
)
def test_pyodbc_over_psqlodbc(server: Served, options: str) -> None:
    with pyodbc.connect(odbc(server, options), autocommit=True) as connection:
        cursor = connection.cursor()
        rows = cursor.execute('SELECT lr, "end" FROM flor WHERE lr > ? ORDER BY lr', 0.7).fetchall()
        assert [tuple(row) for row in rows] == [(1.0, 9.0), (2.0, 17.0)]
        assert len(cursor.execute("SELECT * FROM range(1000)").fetchall()) == 1000
        tables = {row.table_name for row in cursor.tables()}
        assert {"flor", "runs", "acquisitions"} <= tables
        columns = [(row.column_name, row.type_name) for row in cursor.columns("flor")]
        assert [name for name, _ in columns][: len(COLUMNS)] == COLUMNS
        assert {name for name, _ in columns[len(COLUMNS) :]} == LOGGED | VIRTUAL
        assert dict(columns)["half"] == "float8"
        assert cursor.primaryKeys("flor").fetchall() == []
        assert cursor.getTypeInfo().fetchall()
        with pytest.raises(pyodbc.Error, match="is not served"):
            cursor.execute("DROP TABLE runs")
        assert cursor.execute("SELECT count(*) FROM runs").fetchone()[0] == 3
        assert connection.getinfo(pyodbc.SQL_DBMS_NAME) == "PostgreSQL"


@needs_odbc
def test_pyodbc_in_a_transaction_after_an_error(server: Served) -> None:
    with pyodbc.connect(odbc(server, "UseDeclareFetch=1;Fetch=1")) as connection:
        one, two = connection.cursor(), connection.cursor()
        one.execute("SELECT * FROM range(3)")
        two.execute("SELECT lr FROM flor ORDER BY lr")
        assert [one.fetchone()[0], two.fetchone()[0], one.fetchone()[0]] == [0, 0.5, 1]
        with pytest.raises(pyodbc.Error):
            connection.cursor().execute("SELECT nothing FROM flor")
        connection.rollback()
        assert two.execute("SELECT 1").fetchone()[0] == 1


@needs_odbc
def test_isql(server: Served) -> None:
    done = subprocess.run(
        [str(ISQL), "-k", odbc(server, ""), "-b", "-d|"],
        input="SELECT lr FROM flor ORDER BY lr\n",
        env=server.place.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["0.5", "1", "2"] or done.stdout.split() == ["0.5", "1.0", "2.0"]


def test_sqlalchemy_reflects_and_reads(server: Served) -> None:
    url = sqlalchemy.URL.create(
        "postgresql+psycopg", "flor", server.token, server.host, server.port, "flordb"
    )
    engine = sqlalchemy.create_engine(url)
    inspector = sqlalchemy.inspect(engine)
    assert inspector.default_schema_name == "main"
    assert {"flor", "runs"} <= set(inspector.get_table_names())
    assert inspector.get_schema_names() == ["information_schema", "main"]
    assert inspector.get_pk_constraint("flor")["constrained_columns"] == []
    assert inspector.get_foreign_keys("flor") == []
    assert inspector.get_indexes("flor") == []
    flor = sqlalchemy.Table("flor", sqlalchemy.MetaData(), autoload_with=engine)
    assert list(flor.columns.keys())[: len(COLUMNS)] == COLUMNS
    assert isinstance(flor.c.tstamp.type, sqlalchemy.TIMESTAMP)
    with engine.connect() as connection:
        query = sqlalchemy.select(flor.c.lr, flor.c.end).where(flor.c.lr > 0.7).order_by(flor.c.lr)
        assert connection.execute(query).fetchall() == [(1.0, 9.0), (2.0, 17.0)]
    engine.dispose()


LOOKED_UP = {
    "tables": (
        "SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, c.relname AS TABLE_NAME, "
        "CASE n.nspname ~ '^pg_' OR n.nspname = 'information_schema' WHEN true THEN 'SYSTEM' "
        "WHEN false THEN CASE c.relkind WHEN 'r' THEN 'TABLE' WHEN 'v' THEN 'VIEW' ELSE NULL END "
        "ELSE NULL END AS TABLE_TYPE, d.description AS REMARKS "
        "FROM pg_catalog.pg_namespace n, pg_catalog.pg_class c "
        "LEFT JOIN pg_catalog.pg_description d ON (c.oid = d.objoid AND d.objsubid = 0 "
        "and d.classoid = 'pg_class'::regclass) "
        "WHERE c.relnamespace = n.oid AND c.relname LIKE 'flor' ORDER BY TABLE_TYPE, TABLE_SCHEM"
    ),
    "columns": (
        "SELECT * FROM (SELECT current_database() AS current_database, n.nspname, c.relname, "
        "a.attname, a.atttypid, a.attnotnull OR (t.typtype = 'd' AND t.typnotnull) AS attnotnull, "
        "a.atttypmod, a.attlen, t.typtypmod, "
        "row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum) AS attnum, "
        "nullif(a.attidentity, '') as attidentity, "
        "pg_catalog.pg_get_expr(def.adbin, def.adrelid) AS adsrc, dsc.description, t.typbasetype "
        "FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON (c.relnamespace = n.oid) "
        "JOIN pg_catalog.pg_attribute a ON (a.attrelid=c.oid) "
        "JOIN pg_catalog.pg_type t ON (a.atttypid = t.oid) "
        "LEFT JOIN pg_catalog.pg_attrdef def ON (a.attrelid=def.adrelid AND a.attnum = def.adnum) "
        "LEFT JOIN pg_catalog.pg_description dsc ON (c.oid=dsc.objoid AND a.attnum = dsc.objsubid) "
        "LEFT JOIN pg_catalog.pg_class dc ON (dc.oid=dsc.classoid AND dc.relname='pg_class') "
        "WHERE c.relkind in ('r','p','v','f','m') and a.attnum > 0 AND NOT a.attisdropped "
        "AND c.relname LIKE 'flor') c WHERE true ORDER BY nspname, c.relname, attnum"
    ),
    "Grafana": (
        "SELECT CASE WHEN quote_ident(table_schema) IN (SELECT CASE WHEN trim(s[i]) = '\"$user\"' "
        "THEN user ELSE trim(s[i]) END FROM generate_series(array_lower(string_to_array("
        "current_setting('search_path'),','),1), array_upper(string_to_array("
        "current_setting('search_path'),','),1)) as i, string_to_array("
        "current_setting('search_path'),',') s) THEN quote_ident(table_name) ELSE "
        "quote_ident(table_schema) || '.' || quote_ident(table_name) END AS \"table\" "
        "FROM information_schema.tables WHERE quote_ident(table_schema) NOT IN "
        "('information_schema', 'pg_catalog') ORDER BY 1"
    ),
    "keys": "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'max_index_keys'",
    "Power BI": (
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE FROM INFORMATION_SCHEMA.TABLES "
        "WHERE TABLE_SCHEMA NOT IN ('information_schema', 'pg_catalog') "
        "ORDER BY TABLE_SCHEMA, TABLE_NAME"
    ),
}


@pytest.mark.parametrize("what", LOOKED_UP)
def test_what_other_drivers_and_tools_look_up(server: Served, what: str) -> None:
    with connected(server) as connection:
        found = connection.execute(LOOKED_UP[what]).fetchall()
    expected = "32" if what == "keys" else "flor"
    assert any(expected in row for row in found)
    if what == "columns":
        assert [row[3] for row in found][: len(COLUMNS)] == COLUMNS


def test_catalog_queries_that_nobody_answers_are_logged(server: Served) -> None:
    with connected(server) as connection, pytest.raises(errors.Error):
        connection.execute("SELECT pg_get_ruledef(oid) FROM pg_catalog.pg_class")
    log = max(server.place.root.parent.glob("serve-*.log"), key=lambda path: path.stat().st_mtime)
    assert "unknown catalog query: SELECT pg_get_ruledef(oid)" in log.read_text()
