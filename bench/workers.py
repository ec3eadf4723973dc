"""How soon replays start and how well they share the machine.

From a task to the first line of the user's script (``start``); range scans (``ranges``) and twenty
versions (``versions``), by one worker and by two, by turns; and the plan for the dissertation's 200
epochs on 16 workers. ``python bench/workers.py start`` measures only the first.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import flordb
from flordb.query.connection import Connection
from flordb.replay import afterwards, schedule
from flordb.replay.cost import makespan
from flordb.replay.execute import execute

SCRIPT = """
import os, time
mark = open(os.environ["BENCH_MARK"], "a")
print(time.time(), file=mark)
import flordb as flor
import torch
from torch import nn
print(time.time(), file=mark, flush=True)
torch.set_num_threads(1)
torch.manual_seed(flor.arg("seed", 1))
X = torch.randn(4000, 256)
Y = (X.sum(1) > 0).long()
net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))
opt = torch.optim.Adam(net.parameters())
with flor.checkpointing(net=net, opt=opt):
    for epoch in flor.loop("epoch", range(EPOCHS)):
        for step in flor.loop("step", range(0, 4000, BATCH)):
            loss = nn.functional.cross_entropy(net(X[step : step + BATCH]), Y[step : step + BATCH])
            opt.zero_grad()
            loss.backward()
            opt.step()
        flor.log("loss", loss.item())
flor.log("end", loss.item())
"""
LAST = 'flor.log("end", loss.item())\n'
STEP = "            opt.step()\n"
REPEATS = 20
ROUNDS = 3
WAYS = {
    "fork, overlay": {},
    "fork, links": {"FLORDB_WORKSPACES": "links"},
    "fresh interpreter, overlay": {"FLORDB_WORKER_START": "fresh"},
}


def main() -> None:
    """Run what is named, or all of it, and print."""
    parts = {"start": start_up, "ranges": ranges, "versions": versions}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as marks:
        os.environ["BENCH_MARK"] = f"{marks}/mark"
        for name in sys.argv[1:] or parts:
            parts[name](Path(folder) / name)
        os.chdir("/")
    planned()
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")


def project(root: Path, epochs: int, batch: int, seeds: int = 1) -> tuple[Path, str]:
    """A project with so many runs, each of a version of its own. Returns its script and text."""
    root.mkdir()
    os.chdir(root)
    subprocess.run(["git", "init", "--quiet"], check=True)
    script = root / "train.py"
    text = SCRIPT.replace("EPOCHS", str(epochs)).replace("BATCH", str(batch))
    for seed in range(seeds):
        script.write_text(f"{text}# version {seed}\n")
        command = [sys.executable, "train.py", "--kwargs", f"seed={seed}"]
        subprocess.run(command, env={**os.environ, "FLORDB_EPSILON": "1"}, check=True)
    return script, text


def start_up(root: Path) -> None:
    """From handing a task over, its workspace still to be made, to lines of the script."""
    script, text = project(root, epochs=1, batch=2000)
    print(f"From a task to the script, {REPEATS} times (median, largest)")
    for number, (name, variables) in enumerate(WAYS.items()):
        hindsight = f'flor.log("h{number}", loss.item())\n'
        script.write_text(text.replace(LAST, LAST + hindsight))
        os.environ.update(variables)
        first, imports = [], []
        with flordb.connect(acquire="always") as connection:
            plan = connection.plan(f"SELECT h{number} FROM flor")
            execute(connection.project, plan, connection.settings)  # the server's own imports
            for _ in range(REPEATS):
                Path(os.environ["BENCH_MARK"]).unlink()
                handed = time.time()
                execute(connection.project, plan, connection.settings)
                began, ready = map(float, Path(os.environ["BENCH_MARK"]).read_text().split())
                first.append(began - handed)
                imports.append(ready - handed)
        for variable in variables:
            del os.environ[variable]
        print(f"  {name:28} first line {_ms(first)}   first line after its imports {_ms(imports)}")


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:5.0f} ms, {max(seconds) * 1000:5.0f} ms"


def ranges(root: Path) -> None:
    """All steps of sixteen epochs, by one worker and by two, by turns."""
    script, text = project(root, epochs=16, batch=10)
    print(f"A range scan of sixteen epochs, median of {ROUNDS} by turns")
    one, two = _by_turns(script, text, STEP, "            ")
    print(f"  1 worker  {one:6.2f} s\n  2 workers {two:6.2f} s")
    print(f"  {one / two:.2f} x faster on two cores")


def versions(root: Path) -> None:
    """One statement for twenty versions, by one worker and by two, beside what these take."""
    script, text = project(root, epochs=2, batch=100, seeds=20)
    print(f"A suffix scan of twenty versions, median of {ROUNDS} by turns")
    one, two = _by_turns(script, text, LAST, "")
    print(f"  1 worker  {one:6.2f} s\n  2 workers {two:6.2f} s")
    with flordb.connect(acquire="never") as connection:
        (own,) = connection.execute(
            "SELECT median(seconds) FROM (SELECT sum(seconds) AS seconds FROM acquisitions "
            "WHERE value_name LIKE 'one%' GROUP BY value_name)"
        ).fetchone()
    print(f"  of which in the one worker {own:.2f} s, over two cores {own / 2:.2f} s")
    print(f"  bound: 1.3 x {own / 2:.2f} s + 1 s = {1.3 * own / 2 + 1:.2f} s")


def _by_turns(script: Path, text: str, after: str, indent: str) -> tuple[float, float]:
    """Median seconds of a query that replays one more statement, by one worker and by two.

    The first round starts the server and is left out.
    """
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(ROUNDS + 1):
        for workers, name in ((1, "one"), (2, "two")):
            column = f"{name}{number}"
            statement = f'{indent}flor.log("{column}", loss.item())\n'
            script.write_text(text.replace(after, after + statement))
            seconds[workers].append(_query(f"SELECT {column} FROM flor", workers))
            afterwards.wait()
    return statistics.median(seconds[1][1:]), statistics.median(seconds[2][1:])


def _query(query: str, workers: int) -> float:
    with flordb.connect(acquire="always", workers=workers) as connection:
        _warm(connection)
        began = time.perf_counter()
        connection.execute(query).fetchall()
        return time.perf_counter() - began


def _warm(connection: Connection) -> None:
    """What every process pays once, whatever it asks."""
    connection.execute("SELECT loss FROM flor").fetchall()


def planned() -> None:
    """The dissertation's 200 epochs on 16 workers (figure 5.11)."""
    parts = schedule.parts(range(200), 16, len)
    print(f"200 epochs on 16 workers: planned makespan {makespan(map(len, parts), 16):.0f} epochs")


if __name__ == "__main__":
    main()
