"""SQL that has nothing to do with flor gives what plain DuckDB gives: rows, columns and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

import flordb
from flordb.query.connection import Connection
from tests.store.runfiles import ended, header, log, project, write

FIXTURE = Path(__file__).parent / "fixtures" / "plain.sql"
STATEMENTS = FIXTURE.read_text().split("\n\n")[1:]


@pytest.fixture
def ours(tmp_path: Path) -> Connection:
    place = project(tmp_path / "p")
    write(place, "r", [log("lr", 1), ended()], header())
    return flordb.connect(place)


def said(connection: Any, sql: str) -> Any:
    """Columns and rows, or the class and the words of the error."""
    try:
        found = connection.sql(sql)
        if isinstance(found, flordb.Cursor):
            columns = found.description and [column[0] for column in found.description]
        else:
            columns = None if found is None else list(found.columns)
        return columns and (columns, repr(found.fetchall()))
    except duckdb.Error as error:
        classes = type(error).__mro__
        return next(k for k in classes if k.__module__.startswith("_duckdb")), str(error)


def test_every_statement_gives_what_plain_duckdb_gives(ours: Connection) -> None:
    """All in one session, because they build on one another."""
    with duckdb.connect() as plain, ours:
        plain.execute("SET arrow_lossless_conversion = true")
        for sql in STATEMENTS:
            expected, found = said(plain, sql), said(ours, sql)
            if expected is None or expected[0] in (["Count"], ["Success"]):
                assert found is None, sql  # DuckDB 2 gives a row for each statement
            else:
                assert found == expected, sql


def test_values_pass_as_parameters_and_dataframes(ours: Connection) -> None:
    frame = pd.DataFrame({"x": [1, 2, 3]})
    with duckdb.connect() as plain, ours:
        for sql, given in [
            ("SELECT ?, ?::INTEGER + 1", ["a", 2]),
            ("SELECT $low + $high", {"low": 1, "high": 2}),
            ("SELECT sum(x) FROM frame WHERE x > ?", [1]),
            ("WITH t AS (FROM frame) SELECT max(x) FROM t JOIN frame USING (x)", None),
        ]:
            expected = plain.execute(sql, given).fetchall()
            assert ours.execute(sql, given).fetchall() == expected, sql
    assert len(frame) == 3


def test_the_text_reaches_duckdb_byte_for_byte(
    ours: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    query = Connection._query

    def note(self: Connection, sql: str, *rest: Any) -> Any:
        seen.append(sql)
        return query(self, sql, *rest)

    monkeypatch.setattr(Connection, "_query", note)
    texts = [
        "select  1 --x\n , 'ü' /* y */",
        "FROM (VALUES (1)) AS flore(a) SELECT\ta",
        "SELECT 1 AS \"Flor-s\" WHERE 'floral' <> $$flores$$",
    ]
    with ours:
        for text in texts:
            ours.execute(text)
    assert seen == texts


def test_dataframes_have_the_types_that_duckdb_gives_them(ours: Connection) -> None:
    sql = "SELECT 'x'::ENUM ('x', 'y') AS e, (1, 'a') AS t, [1, 2] AS l, 1::HUGEINT AS h, 'z' AS s"
    with duckdb.connect() as plain, ours:
        pd.testing.assert_frame_equal(ours.execute(sql).df(), plain.execute(sql).df())
