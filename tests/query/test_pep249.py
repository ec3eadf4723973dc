"""A connection is what PEP 249 says, with DuckDB's extras, alike under DuckDB 1.5 and 2."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest

import flordb
from flordb.query import dbapi as module
from flordb.query import errors
from flordb.query.connection import Connection
from flordb.store.project import Project
from tests.store.runfiles import Node, ended, header, lines_of, project, write


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Three runs with lr 0, 1, 2; each has two epochs with acc = lr + epoch / 10."""
    place = project(tmp_path_factory.mktemp("connection") / "p")
    for day in range(3):
        epochs = [Node([("acc", day + epoch / 10)]) for epoch in range(2)]
        node = Node([("lr", day)], [("epoch", epochs)])
        write(place, f"r{day}", [*lines_of(node), ended()], header(day))
    return place


@pytest.fixture
def db(history: Project) -> Iterator[Connection]:
    with flordb.connect(history) as connection:
        yield connection


def test_module_has_what_pep_249_asks_for() -> None:
    assert (module.apilevel, module.threadsafety, module.paramstyle) == ("2.0", 1, "qmark")


def test_description_and_rowcount(db: Connection) -> None:
    cursor = db.cursor()
    assert cursor.description is None
    assert cursor.rowcount == -1
    cursor.execute("SELECT tstamp, lr FROM flor")
    assert [column[0] for column in cursor.description] == ["tstamp", "lr"]
    assert all(len(column) == 7 for column in cursor.description)
    assert [str(column[1]) for column in cursor.description] == ["TIMESTAMP", "BIGINT"]
    assert cursor.rowcount == 3
    cursor.execute("CREATE TABLE t (x INTEGER)")
    assert cursor.description is None
    cursor.execute("INSERT INTO t VALUES (1)")
    assert cursor.description is None


def test_rows_come_one_by_one_in_portions_or_all(db: Connection) -> None:
    cursor = db.cursor().execute("SELECT acc FROM flor ORDER BY acc")
    assert cursor.fetchone() == (0.0,)
    assert cursor.fetchmany() == [(0.1,)]
    cursor.arraysize = 2
    assert cursor.fetchmany() == [(1.0,), (1.1,)]
    assert cursor.fetchmany(1) == [(2.0,)]
    assert cursor.fetchall() == [(2.1,)]
    assert cursor.fetchone() is None
    assert (cursor.fetchmany(3), cursor.fetchall()) == ([], [])
    cursor.execute("SELECT lr FROM flor ORDER BY lr")
    assert list(cursor) == [(0,), (1,), (2,)]


def test_each_cursor_keeps_its_own_result(db: Connection) -> None:
    first = db.cursor().execute("SELECT lr FROM flor ORDER BY lr")
    second = db.cursor().execute("SELECT acc FROM flor ORDER BY acc")
    assert first.fetchone() == (0,)
    assert second.fetchone() == (0.0,)
    assert first.fetchall() == [(1,), (2,)]
    assert first.connection is db
    first.close()
    assert len(second.fetchall()) == 5


def test_what_is_closed_or_not_begun_says_so(history: Project) -> None:
    connection = flordb.connect(history)
    cursor = connection.cursor()
    with pytest.raises(errors.InterfaceError, match="no result"):
        cursor.fetchall()
    cursor.close()
    cursor.close()
    for use in (lambda: cursor.execute("SELECT 1"), cursor.fetchone, cursor.df):
        with pytest.raises(errors.InterfaceError, match="cursor is closed"):
            use()
    other = connection.cursor().execute("SELECT 1")
    connection.close()
    connection.close()
    for use in (connection.cursor, connection.commit, connection.rollback, other.fetchall):
        with pytest.raises(errors.InterfaceError, match="closed"):
            use()
    with pytest.raises(errors.InterfaceError, match="closed"):
        connection.execute("SELECT 1")


def test_with_blocks_close(history: Project) -> None:
    with flordb.connect(history) as connection, connection.cursor() as cursor:
        assert cursor.execute("SELECT 1").fetchall() == [(1,)]
    with pytest.raises(errors.InterfaceError):
        cursor.fetchall()
    with pytest.raises(errors.InterfaceError):
        connection.execute("SELECT 1")


@pytest.mark.parametrize(
    ("sql", "ours", "theirs"),
    [
        ("SELEC 1", errors.ProgrammingError, duckdb.ParserException),
        ("SELECT * FROM nowhere", errors.ProgrammingError, duckdb.CatalogException),
        ("SELECT x FROM (SELECT 1 AS y)", errors.ProgrammingError, duckdb.BinderException),
        ("SELECT nothing FROM flor", errors.UnknownName, duckdb.BinderException),
        ("SELECT 'x'::INTEGER", errors.DataError, duckdb.ConversionException),
        ("SELECT lr::VARCHAR || 'x'::INTEGER FROM flor", errors.DataError, duckdb.Error),
        ("FROM read_csv('/no/such/file')", errors.OperationalError, duckdb.IOException),
    ],
)
def test_errors_are_ours_and_duckdbs(
    db: Connection, sql: str, ours: type[Exception], theirs: type[Exception]
) -> None:
    with pytest.raises(ours) as caught:
        db.execute(sql)
    assert isinstance(caught.value, theirs)
    assert isinstance(caught.value, errors.Error)
    assert db.execute("SELECT count(*) FROM flor").fetchall() == [(3,)]


def test_constraints_raise_integrity_errors(db: Connection) -> None:
    db.execute("CREATE TABLE unique_one (x INTEGER PRIMARY KEY)")
    with pytest.raises(errors.IntegrityError):
        db.execute("INSERT INTO unique_one VALUES (1), (1)")


def test_parameters(db: Connection) -> None:
    query = "SELECT lr, ? FROM flor WHERE lr > ? ORDER BY lr"
    assert db.execute(query, ["é", 0]).fetchall() == [(1, "é"), (2, "é")]
    assert db.execute(query, ("é", 1)).fetchall() == [(2, "é")]
    named = "SELECT lr FROM flor WHERE lr = $wanted"
    assert db.execute(named, {"wanted": 2}).fetchall() == [(2,)]
    with pytest.raises(errors.Error):
        db.execute("SELECT lr FROM flor WHERE lr = ?")


def test_executemany(db: Connection) -> None:
    db.execute("CREATE TABLE many (x INTEGER, y VARCHAR)")
    cursor = db.cursor().executemany("INSERT INTO many VALUES (?, ?)", [(1, "a"), (2, "b")])
    assert cursor.description is None
    assert db.execute("FROM many ORDER BY x").fetchall() == [(1, "a"), (2, "b")]


def test_own_tables_live_beside_the_project(db: Connection) -> None:
    db.execute("CREATE TABLE mine AS SELECT lr, max(acc) AS best FROM flor GROUP BY lr")
    joined = "SELECT best FROM flor JOIN mine USING (lr) ORDER BY best"
    assert db.execute(joined).fetchall() == [(0.1,), (1.1,), (2.1,)]
    db.execute("CREATE VIEW seen AS SELECT max(acc) AS best FROM flor")
    assert db.execute("FROM seen").fetchall() == [(2.1,)]


def test_transactions(db: Connection) -> None:
    db.commit()
    db.rollback()
    db.execute("CREATE TABLE kept (x INTEGER)")
    db.begin()
    db.execute("INSERT INTO kept SELECT lr FROM flor")
    db.rollback()
    assert db.execute("FROM kept").fetchall() == []
    db.begin()
    db.execute("INSERT INTO kept SELECT lr FROM flor")
    db.commit()
    assert db.execute("SELECT count(*) FROM kept").fetchall() == [(3,)]


def test_dataframes_of_the_caller_are_tables(db: Connection) -> None:
    notes = pd.DataFrame({"lr": [1, 2], "note": ["one", "two"]})
    rows = db.execute("SELECT note, lr FROM flor JOIN notes USING (lr) ORDER BY lr").fetchall()
    assert rows == [("one", 1), ("two", 2)]
    chosen = pa.table({"lr": [0]})
    assert db.execute("SELECT lr FROM flor SEMI JOIN chosen USING (lr)").fetchall() == [(0,)]
    assert len(notes) + len(chosen) == 3


def test_frames_and_arrow(db: Connection) -> None:
    cursor = db.execute("SELECT lr, lr * 2 AS twice FROM flor ORDER BY lr")
    frame = cursor.df()
    assert frame.to_dict("list") == {"lr": [0, 1, 2], "twice": [0, 2, 4]}
    assert cursor.fetchdf().equals(frame)
    table = cursor.to_arrow_table()
    assert isinstance(table, pa.Table)
    assert table.column_names == ["lr", "twice"]
    for reader in (cursor.arrow(), cursor.to_arrow_reader(1)):
        assert isinstance(reader, pa.RecordBatchReader)
        assert reader.read_all().to_pydict() == table.to_pydict()
    # Looking at the result in one form does not use it up in another.
    assert len(cursor.fetchall()) == 3


def test_columns_of_one_name_stay_apart(db: Connection) -> None:
    cursor = db.execute("SELECT 1 AS x, 2 AS x, 3 AS X")
    assert [column[0] for column in cursor.description] == ["x", "x", "X"]
    assert list(cursor.df().columns) == ["x", "x", "X"]
    assert cursor.to_arrow_table().column_names == ["x", "x", "X"]
    assert cursor.fetchall() == [(1, 2, 3)]


VALUES: list[tuple[str, Any]] = [
    ("170141183460469231731687303715884105727::HUGEINT", 2**127 - 1),
    ("18446744073709551615::UBIGINT", 2**64 - 1),
    ("'00000000-0000-0000-0000-00000000000a'::UUID", uuid.UUID(int=10)),
    ("12.50::DECIMAL(10, 2)", decimal.Decimal("12.50")),
    ("'{\"a\": [1, null]}'::JSON", '{"a": [1, null]}'),
    ("INTERVAL 3 DAY", datetime.timedelta(days=3)),
    ("DATE '2023-06-23'", datetime.date(2023, 6, 23)),
    ("TIME '10:11:12.5'", datetime.time(10, 11, 12, 500000)),
    ("TIMESTAMP '2023-06-23 10:00:00.123456'", datetime.datetime(2023, 6, 23, 10, 0, 0, 123456)),
    ("'b'::ENUM('a', 'b')", "b"),
    ("{'a': 1, 'b': 'x'}", {"a": 1, "b": "x"}),
    ("[1, NULL, 3]", [1, None, 3]),
    ("MAP {'k': 1}", {"k": 1}),
    ("'\\x00\\xFF'::BLOB", b"\x00\xff"),
    ("'NaN'::DOUBLE > 1e308", True),
    ("'infinity'::DOUBLE", float("inf")),
    ("NULL", None),
    ("'é\n\"'", 'é\n"'),
]


@pytest.mark.parametrize(("sql", "value"), VALUES)
def test_values_survive(db: Connection, sql: str, value: Any) -> None:
    (row,) = db.execute(f"SELECT {sql} AS v").fetchall()
    assert row == (value,)
    assert type(row[0]) is type(value)
    assert row == duckdb.connect().execute(f"SELECT {sql} AS v").fetchone()


def test_times_with_zones_survive(db: Connection) -> None:
    (value,) = db.execute("SELECT TIMESTAMPTZ '2023-06-23 10:00:00+00'").fetchone()
    assert value.timestamp() == 1687514400


def test_pandas_reads_it(db: Connection) -> None:
    with pytest.warns(UserWarning, match="SQLAlchemy"):
        frame = pd.read_sql("SELECT lr FROM flor ORDER BY lr", db)
    assert frame["lr"].tolist() == [0, 1, 2]


def test_several_statements_give_the_rows_of_the_last(db: Connection) -> None:
    text = "CREATE TABLE s AS SELECT lr FROM flor; SELECT max(lr) FROM s; -- flor\n"
    assert db.execute(text).fetchall() == [(2,)]


def test_unknown_acquire_and_no_project(history: Project, tmp_path: Path) -> None:
    with pytest.raises(flordb.errors.ProjectError, match="'auto', 'always' or 'never'"):
        flordb.connect(history, acquire="sometimes")
    with pytest.raises(flordb.errors.ProjectError, match="No flordb project"):
        flordb.connect(tmp_path)


def test_the_package_is_a_module_as_pep_249_wants(db: Connection) -> None:
    for name in module.__all__:
        assert getattr(flordb, name) is getattr(module, name)
    assert issubclass(flordb.InterfaceError, flordb.Error)
    assert not issubclass(flordb.InterfaceError, flordb.DatabaseError)
    names = ["DataError", "OperationalError", "IntegrityError", "InternalError"]
    for name in [*names, "ProgrammingError", "NotSupportedError"]:
        assert issubclass(getattr(flordb, name), flordb.DatabaseError)
        assert getattr(db, name) is getattr(flordb, name)


def test_constructors_and_type_objects(db: Connection) -> None:
    values = [
        flordb.Date(2023, 6, 23),
        flordb.Time(10, 11, 12),
        flordb.Timestamp(2023, 6, 23, 10),
        flordb.Binary(b"\x00\xff"),
        flordb.TimestampFromTicks(1687514400.0),
        flordb.DateFromTicks(1687514400.0),
        flordb.TimeFromTicks(1687514400.0),
    ]
    cursor = db.execute("SELECT ?, ?, ?, ?, ?, ?, ?", values)
    assert cursor.fetchone() == tuple(values)
    cursor.execute("SELECT 1, 'x', TIMESTAMP '2023-06-23 10:00:00', 'x'::BLOB")
    kinds = [column[1] for column in cursor.description]
    objects = [flordb.NUMBER, flordb.STRING, flordb.DATETIME, flordb.BINARY]
    assert kinds == objects
    assert [kind == flordb.NUMBER for kind in kinds] == [True, False, False, False]


def test_cursors_iterate_and_count(db: Connection) -> None:
    cursor = db.cursor().execute("SELECT lr FROM flor ORDER BY lr")
    assert (cursor.rownumber, next(cursor), cursor.rownumber) == (0, (0,), 1)
    assert cursor.nextset() is None
    assert cursor.fetchall() == [(1,), (2,)]
    with pytest.raises(StopIteration):
        next(cursor)
    with pytest.raises(errors.ProgrammingError):
        cursor.execute("SELECT nothing FROM flor")
    with pytest.raises(errors.InterfaceError):  # not the rows of the statement before
        cursor.fetchall()
