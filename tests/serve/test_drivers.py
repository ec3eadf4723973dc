"""Drivers of other kinds: asyncpg, JDBC, and scrolling cursors."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from psycopg import errors

from tests.serve.support import PSQL, Served, connected, needs_psql

pytestmark = pytest.mark.slow

CLIENT = Path(__file__).with_name("fixtures") / "Client.java"
JAR = Path("/usr/share/java/postgresql.jar")

needs_java = pytest.mark.skipif(
    shutil.which("javac") is None or not JAR.exists(),
    reason="no JDK or no JDBC driver: apt-get install default-jdk-headless libpostgresql-jdbc-java",
)


@needs_java
@pytest.mark.parametrize("options", [[], ["preferQueryMode=simple"]])
def test_jdbc(server: Served, options: list[str]) -> None:
    url = f"jdbc:postgresql://{server.host}:{server.port}/flordb"
    command = ["java", "-cp", str(JAR), str(CLIENT), url, server.token, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    columns = [line.split()[1] for line in lines if line.startswith("column ")]
    assert columns[:4] == ["projid", "tstamp", "filename", "epoch"]
    assert {"lr", "acc", "loss", "square"} < set(columns)
    assert [line for line in lines if not line.startswith("column ")] == [
        "table flor",
        "function flor_pivot",
        "keys 0",
        "foreign 0",
        "indexes 0",
        "rows 42 420.0",
        "types float8 2",
        "parts 24",
        "scrolled 2.0 0.5",
        'values {1,2} {"a":1} 1.50 2024-02-03 1 true true',
        "error 42703",
        "refused 42501",
        "late 57014",
        "valid true",
    ]


def test_asyncpg(server: Served) -> None:
    async def ask() -> list[Any]:
        pool = await asyncpg.create_pool(
            host=server.host,
            port=server.port,
            user="flor",
            password=server.token,
            database="flordb",
            min_size=1,
            max_size=1,
        )
        found: list[Any] = []
        for _ in range(2):  # the second time the connection comes back from the pool
            async with pool.acquire() as connection:
                found.append(await connection.fetchval("SELECT max(lr) FROM flor"))
                sql = "SELECT lr FROM flor WHERE lr > $1::double AND tstamp < $2::timestamp"
                rows = await connection.fetch(sql, 0.6, datetime(2100, 1, 1))
                found.append(sorted(row["lr"] for row in rows))
                sql = "SELECT [1, NULL, 3], ['a,\"'], [1.5], len($1::int[]), $2::text[]"
                found.append(tuple(await connection.fetchrow(sql, [1, None, 3], ['x "y"', "\\"])))
                async with connection.transaction():
                    cursor = connection.cursor("SELECT acc, loss FROM flor", prefetch=5)
                    found.append(len([row async for row in cursor]))
        await pool.close()
        return found

    values = ([1, None, 3], ['a,"'], [1.5], 3, ['x "y"', "\\"])
    assert asyncio.run(ask()) == [2.0, [1.0, 2.0], values, 24] * 2


def test_a_scrolling_cursor_goes_both_ways(server: Served) -> None:
    with connected(server, autocommit=False) as connection:
        cursor = connection.cursor("scrolled", scrollable=True)
        cursor.execute("SELECT * FROM range(10)")
        assert cursor.fetchmany(4) == [(0,), (1,), (2,), (3,)]
        cursor.scroll(-2)
        assert cursor.fetchone() == (2,)
        cursor.scroll(9, mode="absolute")
        assert cursor.fetchall() == [(9,)]

        def fetch(how: str) -> list[int]:
            return [n for (n,) in connection.execute(f"FETCH {how} FROM scrolled").fetchall()]

        assert fetch("BACKWARD 3") == [9, 8, 7]
        assert fetch("PRIOR") == [6]
        assert fetch("RELATIVE 0") == [6]
        assert fetch("RELATIVE -2") == [4]
        assert fetch("LAST") == [9]
        assert fetch("ABSOLUTE -3") == [7]
        assert fetch("FIRST") == [0]
        assert fetch("PRIOR") == []
        assert fetch("BACKWARD ALL") == []
        assert fetch("FORWARD ALL") == list(range(10))
        assert connection.execute("MOVE BACKWARD ALL IN scrolled").statusmessage == "MOVE 10"
        assert fetch("NEXT") == [0]


def test_another_cursor_says_that_it_goes_forward_only(server: Served) -> None:
    with connected(server) as connection:
        connection.execute("DECLARE one CURSOR WITH HOLD FOR SELECT * FROM range(3)")
        assert connection.execute("FETCH FIRST FROM one").fetchall() == [(0,)]
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="SCROLL"):
            connection.execute("FETCH PRIOR FROM one")
        assert connection.execute("FETCH ALL FROM one").fetchall() == [(1,), (2,)]


def test_a_pivot_without_its_values_is_refused_with_the_way_to_write_it(server: Served) -> None:
    with connected(server) as connection:
        with pytest.raises(errors.InsufficientPrivilege, match=r"ON epoch IN \(0, 1, 2\)"):
            connection.execute("PIVOT (SELECT lr, epoch, acc FROM flor) ON epoch USING max(acc)")
        sql = "PIVOT (SELECT lr, epoch, acc FROM flor) ON epoch IN (0, 1) USING max(acc)"
        assert len(connection.execute(sql).fetchall()) == 3


@needs_psql
def test_psql_lists_functions(server: Served) -> None:
    place = ["-h", server.host, "-p", str(server.port), "-U", "flor", "-d", "flordb"]
    environment = server.place.environment | {"PGPASSWORD": server.token}
    command = [str(PSQL), *place, "-At", "-c", r"\df"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    found = {line.split("|")[1]: line.split("|")[2:] for line in done.stdout.splitlines()}
    assert found["flor_pivot"] == ["table", "names", "func"]
    assert found["git_source"][:2] == ["varchar", "col0 varchar, col1 varchar"]
