"""Rows a second over each protocol of `flordb serve`, next to plain DuckDB in this process, and
what a trivial query takes.

    python bench/serve.py [ROWS]        (default: 1000000)

Quack is measured where `make test` has installed DuckDB 1.5.5 with its extension and shell.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import psycopg

import flordb
from flordb.store.encoding import dump_line
from flordb.store.project import Project

ROOT = Path(__file__).parents[1]
DUCKDB15 = ROOT / "build" / "duckdb-1.5.5"
SHELL = DUCKDB15 / "duckdb_cli" / "duckdb"
TIMES = 3
ROWS_SQL = "SELECT i, i / 7 AS x, 'name ' || i % 1000 AS s, i % 2 = 0 AS b FROM range({}) t(i)"
FLOR_SQL = "SELECT lr, epoch, step, loss FROM flor"
RUNS, EPOCHS = 10, 10


def record(root: Path, rows: int) -> None:
    """Run files with so many values of ``loss``, in ten runs of ten epochs."""
    project = Project(root, has_git=False)
    project.prepare()
    steps = rows // (RUNS * EPOCHS)
    for run in range(RUNS):
        tstamp = f"2023-06-{run + 1:02}T10:00:00.000000Z"
        lines: list[dict[str, Any]] = [
            {"k": "run", "flor": 1, "projid": "p", "tstamp": tstamp, "filename": "t.py"},
            {"k": "log", "n": "lr", "v": 0.1 / (run + 1)},
        ]
        number = 0
        for epoch in range(EPOCHS):
            number += 1
            above = number
            lines.append({"k": "ctx", "c": above, "p": 0, "l": "epoch", "i": epoch})
            for step in range(steps):
                number += 1
                lines.append({"k": "ctx", "c": number, "p": above, "l": "step", "i": step})
                lines.append({"k": "log", "c": number, "n": "loss", "v": 1 / number})
        lines.append({"k": "end", "t": 1.0, "status": 0})
        (project.runs / f"r{run}.jsonl").write_text("".join(map(dump_line, lines)))


@contextmanager
def serving(root: Path, quack: bool) -> Iterator[dict[str, Any]]:
    """A server in a process of its own, and what it says of itself."""
    ports = ["--quack-port", "0" if quack else "-1", "--postgres-port", "-1" if quack else "0"]
    environment = dict(os.environ)
    if quack:
        environment["PYTHONPATH"] = str(DUCKDB15)
    process = subprocess.Popen(
        [sys.executable, "-m", "flordb", "serve", "--json", *ports, "--project", str(root)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said: dict[str, Any] = json.loads(process.stdout.readline())
        yield said | {"token": Path(said["token_file"]).read_text().strip()}
    finally:
        process.terminate()
        process.wait()


def best(run: Callable[[], Any]) -> float:
    """The fewest seconds of some runs."""
    found = []
    for _ in range(TIMES):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found)


def median_ms(run: Callable[[], Any], times: int = 200) -> float:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return statistics.median(found) * 1000


def show(what: str, rows: int, seconds: float, plain: float) -> None:
    rate = rows / seconds
    print(
        f"  {what:46} {rate / 1e6:8.2f} M rows/s   {seconds / plain:6.1f} x plain DuckDB",
        flush=True,
    )


def plain_seconds(sql: str) -> float:
    """The same rows, from DuckDB to Arrow, in this process."""
    return best(lambda: duckdb.sql(sql).to_arrow_table())


Case = tuple[str, str, int, float]
"""What a query is called, its text, its rows, and the seconds of plain DuckDB."""


def over_postgres(said: dict[str, Any], cases: list[Case]) -> None:
    host, port = said["postgres"]
    with psycopg.connect(
        host=host, port=port, user="flor", password=said["token"], dbname="flordb", autocommit=True
    ) as connection:
        pgconn = connection.pgconn
        for name, sql, count, base in cases:
            text = sql.encode()
            show(f"{name}: libpq, text", count, best(lambda t=text: pgconn.exec_(t)), base)
            binary = best(lambda t=text: pgconn.exec_params(t, [], result_format=1))
            show(f"{name}: libpq, binary", count, binary, base)
            whole = best(lambda s=sql: connection.execute(s).fetchall())
            show(f"{name}: psycopg, as Python's values", count, whole, base)
        trivial = median_ms(lambda: connection.execute("SELECT 1").fetchall())
        print(f"  SELECT 1: {trivial:.2f} ms; ", end="")
        one = median_ms(lambda: connection.execute("SELECT max(lr) FROM flor").fetchall(), 20)
        print(f"SELECT max(lr) FROM flor: {one:.1f} ms")


def in_shell(said: dict[str, Any], statements: str) -> str:
    loads = "".join(
        f"LOAD '{DUCKDB15}/duckdb_extension_{name}/extensions/v1.5.5/{name}.duckdb_extension';\n"
        for name in ("httpfs", "quack")
    )
    attach = f"ATTACH '{said['quack']}' AS f (TOKEN '{said['token']}');\n"
    done = subprocess.run(
        [str(SHELL), "-init", "/dev/null", "-csv", "-noheader"],
        input=loads + attach + statements,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr, done.stderr
    return done.stdout


def over_quack(said: dict[str, Any], cases: list[Case]) -> None:
    """Timed by the shell's own clock, so that its start does not count."""
    for name, sql, count, base in cases:
        inner = sql.replace("'", "''")
        last = "x" if name == "made rows" else "loss"
        query = f"SELECT count({last}), max({last}) FROM f.query('{inner}');\n"
        out = in_shell(said, ".timer on\n" + query * TIMES)
        seconds = min(_real(line) for line in out.splitlines() if "real" in line)
        show(f"{name}: DuckDB shell, over all its rows", count, seconds, base)
    out = in_shell(said, ".timer on\n" + "FROM f.query('SELECT 1');\n" * 50)
    times = [_real(line) for line in out.splitlines() if "real" in line]
    print(f"  SELECT 1: {statistics.median(times) * 1000:.0f} ms (the shell's clock counts ms)")


def _real(line: str) -> float:
    words = line.split()
    return float(words[words.index("real") + 1])


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        record(root, rows)
        with flordb.connect(root) as connection:
            connection.execute(FLOR_SQL)
            wide = connection.execute(FLOR_SQL).to_arrow_table()
            duckdb.register("wide", wide)
            flor_rows = wide.num_rows
            ours = best(lambda: connection.execute(FLOR_SQL).to_arrow_table())
        plain = plain_seconds(ROWS_SQL.format(rows))
        flor = plain_seconds("SELECT * FROM wide")
        cases = [
            ("made rows", ROWS_SQL.format(rows), rows, plain),
            ("flor", FLOR_SQL, flor_rows, flor),
        ]
        print(f"{rows:,} rows of 4 columns; DuckDB {duckdb.__version__}, in this process, to Arrow")
        show("made rows: plain DuckDB", rows, plain, plain)
        show("flor's rows as a table: plain DuckDB", flor_rows, flor, flor)
        show("flor: flordb.connect()", flor_rows, ours, flor)
        print(f"PostgreSQL protocol, on DuckDB {duckdb.__version__}")
        with serving(root, quack=False) as said:
            over_postgres(said, cases)
        if not SHELL.exists():
            print(f"no Quack: {SHELL} is missing (make test)")
            return
        print("Quack, on DuckDB 1.5.5")
        with serving(root, quack=True) as said:
            over_quack(said, cases)


if __name__ == "__main__":
    main()
