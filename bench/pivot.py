"""How fast run files are taken in, and how flor_pivot compares with a hand-made wide table.

    python bench/pivot.py [MILLIONS …]        (default: 1 10)

Prints records a second, then for each query the seconds over the wide table, over the pivot, and
their ratio. The wide table holds exactly the rows of the pivot, so it is the fastest there can be.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import duckdb

from flordb.settings import Settings
from flordb.store import catalog
from flordb.store.project import Project
from flordb.store.runfile import dump_line

RUNS, EPOCHS = 10, 10
NAMES = ["loss", "grad", "rate"]
QUERIES = {
    "one name": (["loss"], "SELECT epoch, avg(loss) FROM {} GROUP BY 1"),
    "two names": (["loss", "grad"], "SELECT epoch, corr(loss, grad) FROM {} GROUP BY 1"),
    "three names": ([*NAMES], "SELECT count(*), sum(loss * grad * rate) FROM {}"),
    "across levels": (["lr", "acc", "loss"], "SELECT lr, max(acc), min(loss) FROM {} GROUP BY 1"),
    "filtered": (["loss"], "SELECT avg(loss) FROM {} WHERE epoch = 3"),
}


def write_runs(project: Project, records: int) -> int:
    """Write run files with about so many records; returns how many lines that is."""
    steps = max(1, records // (RUNS * EPOCHS * len(NAMES)))
    lines = 0
    for run in range(RUNS):
        tstamp = f"2023-06-{run + 1:02}T10:00:00.000000Z"
        text = [{"k": "run", "flor": 1, "projid": "p", "tstamp": tstamp, "filename": "t.py"}]
        text.append({"k": "log", "n": "lr", "v": 0.1 / (run + 1)})
        number = 0
        for epoch in range(EPOCHS):
            number += 1
            above = number
            text.append({"k": "ctx", "c": above, "p": 0, "l": "epoch", "i": epoch, "v": epoch})
            for step in range(steps):
                number += 1
                text.append({"k": "ctx", "c": number, "p": above, "l": "step", "i": step})
                text += [
                    {"k": "log", "c": number, "n": name, "v": (step + 1) / (number + place)}
                    for place, name in enumerate(NAMES)
                ]
            text.append({"k": "log", "c": above, "n": "acc", "v": epoch / EPOCHS})
        lines += len(text)
        (project.runs / f"r{run}.jsonl").write_text("".join(map(dump_line, text)))
    return lines


def multiply(project: Project, times: int) -> None:
    """As if there were so many times as many runs."""
    db = duckdb.connect()
    db.execute(f"ATTACH '{project.database}' AS flordb")
    db.execute("USE flordb")
    for table in ("runs", "loops", "logs"):
        db.execute(f"CREATE TEMP TABLE copied AS FROM {table}")
        replaced = "run_id + n * 1000 AS run_id"
        if table != "runs":
            replaced += ", ctx_id + n AS ctx_id"
            replaced += ", list_transform(path, lambda p: p + n) AS path"
        db.execute(
            f"INSERT INTO {table} SELECT * REPLACE ({replaced}) FROM copied, range(1, {times}) t(n)"
        )
        db.execute("DROP TABLE copied")
    db.close()


def seconds(db: duckdb.DuckDBPyConnection, query: str) -> float:
    """The better of three."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        db.execute(query).fetchall()
        best = min(best, time.perf_counter() - start)
    return best


def compare(project: Project) -> None:
    db = duckdb.connect()
    catalog.attach(db, project, Settings())
    (rows,) = db.execute("SELECT count(*) FROM logs").fetchall()[0]
    print(f"{rows:,} log rows")
    for title, (names, query) in QUERIES.items():
        db.execute(f"CREATE OR REPLACE TABLE wide AS FROM flor_pivot({names})")
        wide = seconds(db, query.format("wide"))
        pivot = seconds(db, query.format(f"flor_pivot({names})"))
        print(f"  {title:14} wide {wide:7.3f} s   pivot {pivot:7.3f} s   ratio {pivot / wide:6.1f}")
    catalog.detach(db)


def many_names(count: int) -> None:
    """One name of very many."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), has_git=False)
        project.prepare()
        first = {"k": "run", "flor": 1, "projid": "p", "tstamp": "2023-06-01T10:00:00Z"}
        lines = [{**first, "filename": "t.py"}]
        lines += [{"k": "log", "n": f"metric/{n}", "v": n / 7} for n in range(count)]
        (project.runs / "r.jsonl").write_text("".join(map(dump_line, lines)))
        db = duckdb.connect()
        start = time.perf_counter()
        catalog.attach(db, project, Settings())
        print(f"{count:,} names: sync and attach {time.perf_counter() - start:.2f} s")
        for query in (
            'SELECT "metric/7" FROM flor',
            "SELECT * FROM flor",
            "FROM flor_pivot(['metric/7'])",
        ):
            print(f"  {seconds(db, query):7.3f} s  {query}")


def main() -> None:
    print(f"duckdb {duckdb.__version__}")
    sizes = [float(size) for size in sys.argv[1:]] or [1.0, 10.0]
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), has_git=False)
        project.prepare()
        lines = write_runs(project, int(min(sizes) * 1e6))
        start = time.perf_counter()
        report = catalog.sync(project, Settings())
        taken = time.perf_counter() - start
        print(f"taken in: {report.rows:,} records ({lines:,} lines) in {taken:.1f} s: ", end="")
        print(f"{report.rows / taken:,.0f} records/s, {lines / taken:,.0f} lines/s")
        for before, size in zip([None, *sizes], sizes, strict=False):
            if before is not None:
                multiply(project, int(size / before))
            compare(project)
    for count in (1_000,):
        many_names(count)


if __name__ == "__main__":
    main()
