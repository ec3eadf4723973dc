"""psycopg as a client: values, both protocols, cursors, transactions, cancelling, errors."""

from __future__ import annotations

import json
import struct
import threading
import time
from decimal import Decimal
from functools import partial
from typing import Any

import duckdb
import psycopg
import pytest
from psycopg import errors

from flordb.store.encoding import dump_line
from tests.serve.support import Served, connected

pytestmark = pytest.mark.slow

VALUES = {
    "true": "bool",
    "NULL::BOOLEAN": "bool",
    "1::UTINYINT": "int2",
    "-2::SMALLINT": "int2",
    "3::INTEGER": "int4",
    "9223372036854775807": "int8",
    "1.5::FLOAT": "float4",
    "0.1::DOUBLE": "float8",
    "'nan'::DOUBLE": "float8",
    "'-inf'::DOUBLE": "float8",
    "170141183460469231731687303715884105727::HUGEINT": "numeric",
    "-123456.789::DECIMAL(12, 3)": "numeric",
    "0.00010::DECIMAL(9, 5)": "numeric",
    "0::DECIMAL(9, 2)": "numeric",
    "100000000::DECIMAL(18, 0)": "numeric",
    "'grün \"q\" \\ \n'": "text",
    "''": "text",
    "'a'::ENUM('a', 'b')": "text",
    "DATE '1969-07-20'": "date",
    "TIMESTAMP '2020-01-01 01:02:03.456789'": "timestamp",
    "NULL::TIMESTAMP": "timestamp",
    "TIMESTAMP_NS '2020-01-01 01:02:03.456789'": "timestamp",
    "TIME '23:59:59.5'": "time",
    "INTERVAL '2 days 3 hours'": "interval",
    "'5b7f5b4e-5f0f-4e3c-9d7e-3f0d5c8f1a2b'::UUID": "uuid",
    "'\\x00\\xFFa'::BLOB": "bytea",
    "[1, NULL, 3]": "int4[]",
    "['a', NULL, '\"\\,{}']": "text[]",
    "[TIMESTAMP '2020-01-01 00:00:00']": "timestamp[]",
    "[1.5::DECIMAL(4, 2)]": "numeric[]",
    "[]::DOUBLE[]": "float8[]",
    "{'a': 1, 'b': [1]}": "json",
    "map {'k': 2}": "json",
    "'{\"a\": null}'::JSON": "json",
    "[[1], [2]]": "json",
}


def test_values_come_as_their_types_in_both_formats(server: Served) -> None:
    columns = ", ".join(f"{value} AS c{n}" for n, value in enumerate(VALUES))
    with connected(server) as connection:
        text = connection.execute(f"SELECT {columns}", prepare=True)
        binary = connection.cursor(binary=True).execute(f"SELECT {columns}")
        assert text.description is not None
        types = [psycopg.adapters.types[column.type_code] for column in text.description]
        names = [
            kind.name + "[]" * (kind.array_oid == column.type_code)
            for kind, column in zip(types, text.description, strict=True)
        ]
        assert dict(zip(VALUES, names, strict=True)) == VALUES
        ours, theirs = text.fetchone(), binary.fetchone()
    (plain,) = duckdb.sql(f"SELECT {columns}").fetchall()
    assert ours is not None
    assert repr(ours) == repr(theirs)
    for (value, kind), got, expected in zip(VALUES.items(), ours, plain, strict=True):
        if kind == "json":
            continue
        if isinstance(expected, float):
            assert repr(got) == repr(expected), value
        elif kind == "numeric":
            assert got == Decimal(expected), value
        else:
            assert got == expected, value


def test_json_is_json(server: Served) -> None:
    with connected(server) as connection:
        row = connection.execute("SELECT {'a': 1, 'b': [1, NULL]}, map {'k': 2}, NULL::JSON")
        assert row.fetchone() == ({"a": 1, "b": [1, None]}, {"k": 2}, None)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT max(lr) FROM public.flor",
        'SELECT max("public"."flor".lr) FROM "public"."flor"',
        "SELECT max(f.lr) FROM flordb.PUBLIC.flor f",
        "SELECT max(lr), '{\"public.\": 1}'::jsonb, CAST('[1]' AS JSONB) FROM public.flor",
    ],
)
def test_the_schema_public_and_jsonb_are_known(server: Served, sql: str) -> None:
    with connected(server) as connection:
        row = connection.execute(sql).fetchone()
    assert row is not None
    assert row[0] == 2.0
    assert row[1:] in ((), ({"public.": 1}, [1]))


def test_many_rows_of_mixed_lengths_equal_plain_duckdb(server: Served) -> None:
    sql = (
        "SELECT i, CASE WHEN i % 3 > 0 THEN repeat('x', (i % 50)::INT) END AS s, "
        "CASE WHEN i % 5 > 0 THEN i / 7 END AS d, i % 2 = 0 AS b FROM range(40000) t(i) ORDER BY i"
    )
    expected = duckdb.sql(sql).fetchall()
    with connected(server) as connection:
        assert connection.execute(sql).fetchall() == expected
        assert connection.cursor(binary=True).execute(sql).fetchall() == expected


def test_parameters_of_all_kinds_decide_runs(server: Served) -> None:
    with connected(server) as connection:
        sql = 'SELECT lr, "end" FROM flor WHERE lr > %s AND filename = %s ORDER BY lr LIMIT %s'
        assert connection.execute(sql, (0.7, "train.py", 1)).fetchall() == [(1.0, 9.0)]
        binary = 'SELECT lr, "end" FROM flor WHERE lr > %b AND filename = %b ORDER BY lr LIMIT %b'
        assert connection.execute(binary, (0.7, "train.py", 1)).fetchall() == [(1.0, 9.0)]
        row = connection.execute(
            "SELECT %s,%s,%t::text,%s", (None, "it's $1", -5, [1, 2])
        ).fetchone()
        assert row == (None, "it's $1", "-5", [1, 2])
        with pytest.raises(errors.InvalidTextRepresentation):
            connection.execute("SELECT %s::INTEGER", ("x",))


def test_a_prepared_statement_is_planned_each_time(server: Served) -> None:
    with connected(server) as connection:
        found = [
            connection.execute("SELECT count(*) FROM flor WHERE lr > %s", (x,), prepare=True)
            for x in (0, 0.7, 1.5, 3)
        ]
        assert [cursor.fetchone() for cursor in found] == [(3,), (2,), (1,), (0,)]


def test_cursors_are_read_in_parts_and_side_by_side(server: Served) -> None:
    with connected(server, autocommit=False) as connection:
        first, second = connection.cursor("one"), connection.cursor("Two words")
        first.itersize = 3
        first.execute("SELECT * FROM range(7)")
        second.execute("SELECT lr FROM flor ORDER BY lr")
        rows = iter(first)
        assert next(rows) == (0,)
        assert second.fetchmany(2) == [(0.5,), (1.0,)]
        assert [n for (n,) in rows] == [1, 2, 3, 4, 5, 6]
        assert second.fetchall() == [(2.0,)]
        assert second.fetchall() == []
        first.close()
        with pytest.raises(errors.InvalidCursorName):
            connection.execute("FETCH 1 FROM one")


def test_portals_give_as_many_rows_as_are_asked_for(server: Served) -> None:
    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!i", 4 + len(body)) + body

    execute = [message(b"E", b"\0" + struct.pack("!i", n)) for n in (2, 2, 0)]
    with connected(server) as connection:
        kinds = talk(
            connection,
            message(b"P", b"\0SELECT * FROM range(7)\0\0\0")
            + message(b"B", b"\0\0\0\0\0\0\0\0")
            + b"".join(execute)
            + message(b"S", b""),
        )
    assert kinds == "12" + "DDs" + "DDs" + "DDDC" + "Z"


def talk(connection: psycopg.Connection[Any], data: bytes) -> str:
    """Send bytes past the library; the kinds of the messages that answer, up to ReadyForQuery."""
    import socket

    with socket.socket(fileno=socket.dup(connection.pgconn.socket)) as raw:
        raw.setblocking(True)
        raw.sendall(data)
        kinds, buffer = "", b""
        while not kinds.endswith("Z"):
            part = raw.recv(65536)
            assert part, f"the server hung up after {kinds}"
            buffer += part
            while len(buffer) >= 5:
                length = 1 + struct.unpack("!i", buffer[1:5])[0]
                if len(buffer) < length:
                    break
                kinds += chr(buffer[0])
                buffer = buffer[length:]
    return kinds


def test_transactions_are_kept_count_of(server: Served) -> None:
    with connected(server, autocommit=False) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(errors.UndefinedColumn):
            connection.execute("SELECT nothing FROM flor")
        with pytest.raises(errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        connection.rollback()
        with connection.transaction(), connection.transaction():
            assert connection.execute("SELECT 2").fetchone() == (2,)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_settings_are_the_sessions_own(server: Served) -> None:
    with connected(server, application_name="a test") as connection, connected(server) as other:
        assert connection.execute("SHOW application_name").fetchone() == ("a test",)
        connection.execute("SET application_name TO 'another'; SET flor_budget = '2 min'")
        assert connection.execute("SHOW application_name").fetchone() == ("another",)
        assert connection.execute("SHOW flor_budget").fetchone() == ("120 s",)
        assert other.execute("SHOW flor_budget").fetchone() == ("60 s",)
        connection.execute("DISCARD ALL")
        assert connection.execute("SHOW application_name").fetchone() == ("a test",)
        assert connection.execute("SHOW flor_budget").fetchone() == ("60 s",)
        for wrong in (
            "SHOW nonsense",
            "SET flor_budget = 'much'",
            "SET client_encoding = 'latin1'",
        ):
            with pytest.raises(psycopg.Error):
                connection.execute(wrong)


def test_several_statements_in_one_text(server: Served) -> None:
    with connected(server) as connection:
        cursor = connection.execute("SELECT 1 AS a; SELECT ';' AS b; SHOW search_path; -- no more")
        results = [cursor.fetchone()]
        while cursor.nextset():
            results.append(cursor.fetchone())
    assert results == [(1,), (";",), ("main",)]


def test_a_pipeline_of_statements_skips_what_follows_an_error(server: Served) -> None:
    with connected(server) as connection:
        with connection.pipeline():
            first = connection.execute("SELECT 1")
            second = connection.execute("SELECT 2")
        assert (first.fetchone(), second.fetchone()) == ((1,), (2,))
        with connection.pipeline() as pipeline:
            wrong = connection.execute("SELECT nothing FROM flor")
            skipped = connection.execute("SELECT 3")
            with pytest.raises(errors.UndefinedColumn):
                pipeline.sync()
            for cursor in (wrong, skipped):
                assert cursor.description is None
        assert connection.execute("SELECT 4").fetchone() == (4,)


def test_a_query_is_cancelled_and_the_session_goes_on(server: Served) -> None:
    with connected(server) as connection:
        threading.Timer(0.3, connection.cancel).start()
        with pytest.raises(errors.QueryCanceled):
            connection.execute("SELECT count(*) FROM range(1000000000) a, range(1000) b")
        assert connection.execute("SELECT 1").fetchone() == (1,)
        connection.execute("SET statement_timeout = '300ms'")
        with pytest.raises(errors.QueryCanceled):
            connection.execute("SELECT count(*) FROM range(1000000000) a, range(1000) b")
        connection.execute("RESET statement_timeout")
        assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_over_budget_is_an_error_with_plan_and_ways_on(server: Served) -> None:
    with connected(server) as connection:
        connection.execute("SET flor_budget = '0.0001 s'")
        with pytest.raises(errors.ConfigurationLimitExceeded, match="the budget is") as caught:
            connection.execute("SELECT third FROM flor")
        assert "To acquire: 3 replays of 3 runs" in (caught.value.diag.message_detail or "")
        assert "SET flor_acquire = 'never'" in (caught.value.diag.message_hint or "")
        connection.execute("SET flor_acquire = 'never'")
        stored = connection.execute("SELECT DISTINCT lr, third FROM flor WHERE lr = 1")
        assert stored.fetchall() == [(1.0, None)]
        connection.execute("RESET flor_acquire; SET flor_budget = '1 min'")
        told: list[str] = []
        connection.add_notice_handler(partial(_note, told))
        third = connection.execute("SELECT epoch, third FROM flor WHERE lr = 1 ORDER BY epoch")
        assert third.fetchall() == [(0, 1.0), (1, 5 / 3), (2, 7 / 3), (3, 3.0)]
        assert any(text.startswith("replaying third: ") for text in told)


def test_a_session_is_told_once_what_was_tried_in_vain(server: Served) -> None:
    run = server.place.run_files()[0]
    header = json.loads(run.read_text().partition("\n")[0])
    outcome = {"k": "outcome", "n": "square", "status": "refused", "reason": "no such place"}
    replay = run.with_name(f"{run.name.removesuffix('.jsonl')}.replay-00.jsonl")
    replay.write_text(dump_line({**header, "k": "replay"}) + dump_line(outcome))
    with connected(server) as connection:
        known = "SELECT reason FROM acquisitions WHERE value_name = 'square'"
        while not connection.execute(known).fetchall():
            time.sleep(0.1)
    for binary in (False, True):  # the second is described before it is executed
        with connected(server) as connection:
            told: list[str] = []
            connection.add_notice_handler(partial(_note, told))
            for _ in range(2):
                query = "SELECT square FROM flor WHERE lr = 0.5"
                assert connection.execute(query, binary=binary).fetchall() == [(None,)]
            (text,) = told
            assert text.startswith("not tried again until its statement changes: square of ")
            assert text.endswith("no such place")


def _note(told: list[str], notice: errors.Diagnostic) -> None:
    told.append(notice.message_primary or "")


def test_probes_acquire_nothing(server: Served) -> None:
    before = list(server.place.project.runs.glob("*.replay-*"))
    with connected(server) as connection:
        for probe in (
            "SELECT * FROM (SELECT half FROM flor) t LIMIT 0",
            "SELECT half FROM flor WHERE 1 = 0",
            "SELECT * FROM flor",
            "DESCRIBE SELECT half FROM flor",
            "EXPLAIN SELECT half FROM flor",
        ):
            cursor = connection.execute(probe)
            assert cursor.description is not None
        connection.pgconn.prepare(b"later", b"SELECT half FROM flor")
        described = connection.pgconn.describe_prepared(b"later")
        assert (described.fname(0), described.ftype(0)) == (b"half", 701)
        assert list(server.place.project.runs.glob("*.replay-*")) == before
        plan = connection.execute("EXPLAIN SELECT half FROM flor").fetchone()
        assert plan is not None
        assert plan[1].startswith("To acquire: 3 replays of 3 runs")
