"""DuckDB's errors come back as PEP 249's, and as DuckDB's own."""

from __future__ import annotations

import inspect
import os
import signal
import threading

import duckdb
import pytest

import flordb
from flordb.errors import FlorError
from flordb.query import errors
from tests.conftest import Sandbox

THEIRS = [
    found
    for _, found in inspect.getmembers(duckdb, inspect.isclass)
    if issubclass(found, duckdb.Error)
]


@pytest.mark.parametrize("theirs", THEIRS)
def test_every_duckdb_error_is_one_of_ours_and_stays_one_of_duckdbs(
    theirs: type[duckdb.Error],
) -> None:
    translated = errors.translate(theirs("why"))
    assert isinstance(translated, theirs)
    assert isinstance(translated, errors.Error)
    assert isinstance(translated, FlorError)
    assert str(translated) == "why"
    for name in ("DataError", "OperationalError", "ProgrammingError", "IntegrityError"):
        if issubclass(theirs, getattr(duckdb, name)):
            assert isinstance(translated, getattr(errors, name))


def test_unknown_name_gives_the_nearest() -> None:
    error = errors.UnknownName("f1_pde", ["lr", "f1_ped", "f1"])
    assert error.candidates[0] == "f1_ped"
    assert 'Referenced column "f1_pde" not found' in str(error)
    assert isinstance(error, duckdb.BinderException)


@pytest.mark.slow
def test_ctrl_c_during_a_query_is_a_keyboard_interrupt(sandbox: Sandbox) -> None:
    sandbox.project.prepare()
    with flordb.connect(sandbox.root) as connection:
        connection.execute("SET threads = 1")  # or DuckDB may not notice it
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            connection.execute("SELECT sum(range * range) FROM range(1000000000000)")
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
