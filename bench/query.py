"""How fast questions are answered: planning, the pivot, what people ask of a tracker, taking in.

    python bench/query.py [planner] [ingest] [pivot] [tracker] [names] [runs]    (default: all)

Prints each figure with the bar that it is held against and the machine's own limit beside it: the
same query on a hand-made wide table, in the same process, by turns. Times are the best of five.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

import flordb
from flordb.query.connection import Connection
from flordb.query.statement import parse
from flordb.settings import Settings
from flordb.store import catalog
from flordb.store.encoding import dump_line
from flordb.store.project import Project

ROUNDS = 5


@dataclass(frozen=True, order=True)
class Seconds:
    """On the clock, and of the processors (which others on the machine do not add to)."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall * 1e3:8.1f} ms ({self.cpu * 1e3:7.1f} of CPU)"


def best(work: Callable[[], Any], rounds: int = ROUNDS) -> Seconds:
    """The least of each."""
    wall, cpu = [], []
    for _ in range(rounds):
        start, began = time.perf_counter(), _cpu()
        work()
        wall.append(time.perf_counter() - start)
        cpu.append(_cpu() - began)
    return Seconds(min(wall), min(cpu))


def _cpu() -> float:
    """Seconds of this process and of those that it has waited for."""
    own, others = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def show(what: str, seconds: Seconds, bar: str, limit: Seconds | None = None) -> None:
    beside = ""
    if limit is not None:
        ratios = f"{seconds.wall / limit.wall:.2f} ({seconds.cpu / max(limit.cpu, 1e-3):.2f})"
        beside = f", wide table {limit}, ratio {ratios}"
    print(f"  {what:44} {seconds}{beside}   bar: {bar}", flush=True)


# --- projects -------------------------------------------------------------------------------------


def header(run: int) -> dict[str, Any]:
    tstamp = f"2023-{run // 2500 + 1:02}-{run // 100 % 25 + 1:02}T10:{run % 100 // 2:02}:{run % 2}0"
    return {
        "k": "run",
        "flor": 1,
        "projid": "p",
        "tstamp": f"{tstamp}.000000Z",
        "filename": "train.py",
        "host": "elsewhere",
    }


def several(number: int, parent: int, loop: str, count: int) -> dict[str, Any]:
    return {"k": "ctxs", "c": number, "p": parent, "l": loop, "i": 0, "m": count}


def values(context: int, name: str, found: list[float]) -> dict[str, Any]:
    return {"k": "logs", "c": context, "n": name, "v": found}


def make_project(folder: Path, runs: int, body: Callable[[int], str]) -> Project:
    project = Project(folder, has_git=False)
    project.prepare()
    (folder / "train.py").write_text("import flordb as flor\n")
    for run in range(runs):
        end = dump_line({"k": "exit", "t": 9.0, "status": 0, "error": None})
        text = f"{dump_line({**header(run), 'flor': 2})}{body(run)}{end}"
        (project.runs / f"r{run:05}.jsonl").write_text(text)
    return project


def nested(epochs: int, steps: int) -> Callable[[int], str]:
    """lr outside loops, acc in each epoch, loss in each step."""
    rng = random.Random(7)
    lines, number = [], 0
    for epoch in range(epochs):
        number += 1
        lines.append(several(number, 0, "epoch", 1) | {"i": [epoch], "r": [0, 1]})
        lines[-1].pop("m")
        lines.append(several(number + 1, number, "step", steps))
        lines.append(values(number + 1, "loss", [rng.random() for _ in range(steps)]))
        lines.append(values(number, "acc", [rng.random()]))
        number += steps
    text = "".join(map(dump_line, lines))
    return lambda run: dump_line({"k": "log", "n": "lr", "v": 0.1 / (run + 1), "a": "given"}) + text


METRICS = [f"metric{number}" for number in range(10)]
PARAMETERS = ["lr", "batch_size", "momentum", "decay", "width"]


def tracked(steps: int) -> Callable[[int], str]:
    """Five hyper-parameters, ten metrics a step, and their last values outside the loop."""

    def body(run: int) -> str:
        rng = random.Random(run)
        lines: list[dict[str, Any]] = [
            {"k": "log", "n": name, "v": rng.randrange(1, 100) / 100, "a": "given"}
            for name in PARAMETERS
        ]
        lines.append(several(1, 0, "step", steps))
        for name in METRICS:
            found = [rng.random() for _ in range(steps)]
            lines.append(values(1, name, found))
            lines.append({"k": "log", "n": f"final_{name}", "v": found[-1]})
        return "".join(map(dump_line, lines))

    return body


# --- figures --------------------------------------------------------------------------------------


def planner(folder: Path) -> None:
    print("planner and splice, warm (5 runs; cost of a statement less DuckDB's own)")
    project = make_project(folder / "planner", 5, nested(3, 10))
    code = (
        "import flordb as flor\nfor epoch in flor.loop('epoch', range(3)):\n    flor.log('f1', 1)\n"
    )
    (project.root / "train.py").write_text(code)
    with flordb.connect(project, acquire="never") as connection:
        for title, sql in {
            "stored columns": "SELECT lr, max(acc) FROM flor WHERE tstamp > '2023-01-01' "
            "GROUP BY ALL",
            "a virtual column": "SELECT epoch, f1 FROM flor WHERE lr > 0.01 AND epoch > 1",
            "CTE and join": "WITH a AS (SELECT tstamp, lr FROM flor) "
            "SELECT acc FROM flor JOIN a USING (tstamp) ORDER BY acc DESC LIMIT 3",
        }.items():
            with connection._attached():
                statement = parse(sql)
                show(f"parse: {title}", best(lambda sql=sql: parse(sql), 50), "3 ms with the next")
                prepare = best(lambda s=statement: connection._prepare(s, None), 50)
                show(f"plan and splice: {title}", prepare, "3 ms with the one before")

                def anew(s: Any = statement) -> None:
                    connection._memory.forget()
                    connection._prepare(s, None)

                show("  what it remembers forgotten", best(anew, 50), "none")
        plain = duckdb.connect()
        sql = "SELECT 42 AS answer"
        bare = best(lambda: plain.sql(sql).to_arrow_table(), 200)
        ours = best(lambda: connection.execute(sql), 200)
        show("a statement without flor", ours, "1 ms more than DuckDB")
        show("  DuckDB alone", bare, "none")


def ingest(folder: Path) -> None:
    print("taking in run files of 100,101 records each (100 epochs x 1,000 steps)")
    project = make_project(folder / "ingest", 11, nested(100, 1_000))
    kept = sorted(project.runs.iterdir())
    for path in kept[1:]:
        path.rename(folder / path.name)
    _take_in(project, "one, with the making of the database")
    for path in kept[1:]:
        (folder / path.name).rename(path)
    _take_in(project, "ten more")
    again = make_project(folder / "again", 10, nested(100, 1_000))
    _take_in(again, "ten, with the making of the database")
    start = time.perf_counter()
    read = sum(len(path.read_bytes()) for path in project.runs.iterdir())
    reading = time.perf_counter() - start
    print(f"  the machine's limit: reading {read / 1e6:.0f} MB takes {reading:.2f} s")


def _take_in(project: Project, what: str) -> None:
    start, began = time.perf_counter(), _cpu()
    report = catalog.sync(project, Settings())
    seconds = Seconds(time.perf_counter() - start, _cpu() - began)
    rate = report.rows / seconds.wall
    print(f"  {what:44} {seconds}: {rate:,.0f} records/s   bar: 1,000,000")


PIVOT = {
    "one name by run and epoch": (
        "SELECT tstamp, epoch, avg(loss) FROM {} GROUP BY ALL",
        ["loss"],
        "1.5",
    ),
    "three names at three levels, by lr": (
        "SELECT lr, max(acc), min(loss) FROM {} GROUP BY ALL",
        ["lr", "acc", "loss"],
        "2",
    ),
    "three names at three levels, by run and epoch": (
        "SELECT tstamp, epoch, any_value(lr), any_value(acc), avg(loss) FROM {} GROUP BY ALL",
        ["lr", "acc", "loss"],
        "2",
    ),
    "full history of one metric, Arrow": (
        "SELECT tstamp, epoch, step, loss FROM {}",
        ["loss"],
        "1.5",
    ),
}


def pivot(folder: Path) -> None:
    print("pivot, 100 runs x 100 epochs x 1,000 steps, two threads")
    project = Project(folder / "pivot", has_git=False)
    if not project.runs.exists():
        project = make_project(project.root, 100, nested(100, 1_000))
    with flordb.connect(project, acquire="never") as connection:
        connection.execute("SET threads = 2")
        start = time.perf_counter()
        connection.execute("SELECT count(lr) FROM flor")
        print(f"  taken in, in {time.perf_counter() - start:.1f} s")
        wide = duckdb.connect(str(folder / "wide.duckdb"))
        wide.execute("SET threads = 2")
        with connection._attached():
            rows = connection._duckdb.sql("FROM flor_pivot(['lr', 'acc', 'loss'])").to_arrow_table()
        wide.execute("CREATE OR REPLACE TABLE wide AS FROM rows ORDER BY tstamp, epoch, step")
        wide.execute("CHECKPOINT")
        del rows
        sizes = [path.stat().st_size for path in (project.database, folder / "wide.duckdb")]
        print(f"  database {sizes[0] / 1e6:.0f} MB, the wide table's {sizes[1] / 1e6:.0f} MB")
        for title, (sql, names, bar) in PIVOT.items():
            ours, theirs, warm = [], [], []
            for _ in range(ROUNDS):  # by turns, so that all see the same machine
                ours.append(best(lambda sql=sql: connection.execute(sql.format("flor")), 1))
                theirs.append(
                    best(lambda sql=sql: wide.sql(sql.format("wide")).to_arrow_table(), 1)
                )
            show(title, min(ours), bar, min(theirs))
            # The wide table is attached and in DuckDB's memory, ours is opened by each statement.
            with connection._attached():
                query = f"SELECT flor_pivot_sql({names}, brief := true)"
                ((text,),) = connection._duckdb.execute(query).fetchall()
                for _ in range(ROUNDS):
                    asked = connection._duckdb.sql(sql.format(f"({text})"))
                    warm.append(best(asked.to_arrow_table, 1))
            show("  the same, opened before", min(warm), "none", min(theirs))
        wide.close()


def tracker(folder: Path) -> None:
    print("200 runs x 10 metrics x 500 steps, as dataframes")
    project = make_project(folder / "tracker", 200, tracked(500))
    with flordb.connect(project, acquire="never") as connection:
        connection.execute("SELECT count(lr) FROM flor")
        finals = ", ".join(f"final_{name}" for name in METRICS)
        last = ", ".join(f"arg_max({name}, step) AS {name}" for name in METRICS)
        some = ", ".join(PARAMETERS)
        for title, sql, bar in (
            (
                "hyper-parameters and final metrics",
                f"SELECT tstamp, {some}, {finals} FROM flor",
                50,
            ),
            (
                "the same, last value of each history",
                f"SELECT tstamp, {some}, {last} FROM flor GROUP BY ALL",
                50,
            ),
            ("full history of one metric", "SELECT tstamp, step, metric3 FROM flor", 50),
            ("filter on a hyper-parameter", "SELECT tstamp, lr FROM flor WHERE lr > 0.5", 15),
        ):
            work: Callable[[], Any] = lambda sql=sql: connection.execute(sql).df()  # noqa: E731
            work()
            show(title, best(work, 20), f"{bar} ms")
    code = (
        f"import flordb; c = flordb.connect({str(project.root)!r}, acquire='never')\n"
        "print(c.execute('SELECT tstamp, lr FROM flor WHERE lr > 0.5').df().shape)"
    )

    # Compiled once, as for a user, also where the environment says otherwise.
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment = kept | {"PYTHONPYCACHEPREFIX": str(folder / "compiled")}

    def cold(code: str = code) -> None:
        command = [sys.executable, "-c", code]
        subprocess.run(command, check=True, capture_output=True, env=environment)

    cold()
    show("a cold process with its first query", best(cold), "600 ms", None)
    bare = "import duckdb, pandas; duckdb.sql('SELECT 1').df()"
    show("  of which Python, duckdb and pandas alone", best(lambda: cold(bare)), "none")


def names(folder: Path) -> None:
    print("10,000 names")
    lines = [{"k": "log", "n": f"metric/{n}", "v": n / 7} for n in range(10_000)]
    text = "".join(map(dump_line, lines))
    project = make_project(folder / "names", 5, lambda _: text)
    with flordb.connect(project, acquire="never") as connection:
        start = time.perf_counter()
        connection.execute('SELECT "metric/7" FROM flor')
        print(f"  taken in, in {time.perf_counter() - start:.1f} s")
        _ask(connection, 'SELECT "metric/7" FROM flor', "SELECT * FROM flor", "DESCRIBE flor")
        _ask(connection, "SELECT count(*) FROM information_schema.columns", "SHOW ALL TABLES")


def runs(folder: Path) -> None:
    print("5,000 runs")
    project = make_project(
        folder / "runs", 5_000, lambda run: dump_line({"k": "log", "n": "lr", "v": run / 7})
    )
    with flordb.connect(project, acquire="never") as connection:
        start = time.perf_counter()
        connection.execute("SELECT lr FROM flor")
        print(f"  taken in, in {time.perf_counter() - start:.1f} s")
        _ask(
            connection,
            "SELECT * FROM flor",
            "FROM runs",
            "SELECT state, count(*) FROM runs GROUP BY 1",
        )


def _ask(connection: Connection, *queries: str) -> None:
    for sql in queries:
        show(sql, best(lambda sql=sql: connection.execute(sql)), "1 s")


PARTS = {part.__name__: part for part in (planner, ingest, pivot, tracker, names, runs)}


def main() -> None:
    print(f"duckdb {duckdb.__version__}, Python {sys.version.split()[0]}")
    chosen = sys.argv[1:] or list(PARTS)
    with tempfile.TemporaryDirectory() as folder:
        for part in chosen:
            PARTS[part](Path(folder))


if __name__ == "__main__":
    main()
