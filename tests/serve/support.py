"""Real servers in processes of their own, and the real clients that ask them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Sandbox

ROOT = Path(__file__).parents[2]
DUCKDB15 = ROOT / "build" / "duckdb-1.5.5"
SHELL = DUCKDB15 / "duckdb_cli" / "duckdb"
"""The DuckDB for which PyPI has the extensions of Quack, and its shell (`make test` gets them)."""

needs_quack = pytest.mark.skipif(
    not (DUCKDB15 / "duckdb_extension_quack").exists() or not SHELL.exists(),
    reason=f"no extension quack and no DuckDB shell in {DUCKDB15}: make test installs them",
)


@dataclass(frozen=True)
class Served:
    """A running server."""

    place: Sandbox
    process: subprocess.Popen[str]
    quack: str | None
    no_quack: str | None
    token: str
    host: str
    port: int


def on_duckdb15(environment: dict[str, str]) -> dict[str, str]:
    """The environment in which flordb runs on DuckDB 1.5.5."""
    return {**environment, "PYTHONPATH": str(DUCKDB15)}


@contextmanager
def served(place: Sandbox, *arguments: str, quack: bool = False, **env: str) -> Iterator[Served]:
    """`flordb serve` on free ports; with ``quack`` on the DuckDB that has its extension."""
    environment = {**place.environment, **env}
    if quack:
        environment = on_duckdb15(environment)
    ports = ["--quack-port", "0" if quack else "-1", "--postgres-port", "0"]
    log = place.root.parent / f"serve-{os.urandom(4).hex()}.log"
    with open(log, "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "flordb", "serve", "--json", *ports, *arguments],
            cwd=place.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"the server did not start:\n{log.read_text()}")
        said = json.loads(line)
        yield Served(
            place,
            process,
            said["quack"],
            said["no_quack"],
            Path(said["token_file"]).read_text().strip(),
            *(said.get("postgres") or ("", 0)),
        )
    finally:
        process.terminate()
        process.communicate(timeout=60)


def in_shell(server: Served, sql: str, token: str | None = None) -> tuple[list[str], str]:
    """What the DuckDB shell 1.5.5 prints for statements on the server, which is ``f``: the lines
    of its rows as CSV, and its errors."""
    process = in_shell_behind(server, sql, token)
    out, err = process.communicate(timeout=120)
    return out.splitlines(), err


def in_shell_behind(server: Served, sql: str, token: str | None = None) -> subprocess.Popen[str]:
    """The shell of `in_shell`, while it runs."""
    extensions = "".join(
        f"LOAD '{DUCKDB15}/duckdb_extension_{name}/extensions/v1.5.5/{name}.duckdb_extension';\n"
        for name in ("httpfs", "quack")
    )
    attach = f"ATTACH '{server.quack}' AS f (TOKEN '{token or server.token}');\n"
    process = subprocess.Popen(
        [str(SHELL), "-init", "/dev/null", "-csv", "-noheader"],
        env=server.place.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(extensions + attach + sql)
    process.stdin.close()
    process.stdin = None  # so that communicate() leaves it alone
    return process


PSQL = shutil.which("psql")
ISQL = shutil.which("isql")
ODBC_DRIVER = Path("/usr/lib/x86_64-linux-gnu/odbc/psqlodbcw.so")

needs_psql = pytest.mark.skipif(PSQL is None, reason="no psql: apt-get install postgresql-client")
needs_odbc = pytest.mark.skipif(
    ISQL is None or not ODBC_DRIVER.exists(),
    reason="no isql or no psqlODBC: apt-get install unixodbc odbc-postgresql",
)


def connected(server: Served, **more: Any) -> psycopg.Connection[Any]:
    """A psycopg connection, in autocommit mode."""
    defaults: dict[str, Any] = {"autocommit": True, "password": server.token, "user": "flor"}
    place = {"host": server.host, "port": server.port, "dbname": "flordb"}
    return psycopg.connect(**(defaults | place | more))
