"""What replays cost: equality with the truth, scans against their floor, estimates, growth.

    python bench/replay.py [equality] [scans] [versions] [growth] [restores]

``equality``: the adversary of ``tests/replay`` (workloads trained with their statements from
scratch). ``scans``: each scan of one torch training, in a warm server, beside its floor: the
script's own set-up, the loading of snapshots and the code that is wanted, by the replay's own
clocks; and the estimate beside the time. ``versions``: many runs at once, and how the time grows.
``growth``: recording and querying in a project with few runs and with many. ``restores``: what the
loading of snapshots takes in replays of some of `bench/trainings.py` (of 4 epochs, each with a
snapshot), by the workers' own clocks, beside the machine's limit: reading the bytes that have
changed, which are in the page cache, into memory that was used before, and hashing them.
"""

from __future__ import annotations

import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import flordb
from flordb.query.connection import Connection
from flordb.replay import afterwards, learnt
from flordb.replay.execute import execute
from flordb.replay.plan import Plan, make_plan
from flordb.settings import load
from flordb.store.objects import ObjectStore, digest
from flordb.store.project import Project
from flordb.store.snapshots import SnapshotStore

sys.path.insert(0, str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from bench.estimates import Scan

SCRIPT = """
import flordb as flor
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(flor.arg("seed", 1))
X = torch.randn(12000, 256)
Y = (X.sum(1) > 0).long()
net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))
opt = torch.optim.Adam(net.parameters())
with flor.checkpointing(net=net, opt=opt):
    for epoch in flor.loop("epoch", range(16)):
        for step in flor.loop("step", range(0, 12000, 20)):
            loss = nn.functional.cross_entropy(net(X[step : step + 20]), Y[step : step + 20])
            opt.zero_grad()
            loss.backward()
            opt.step()
        with torch.no_grad():
            accuracy = sum((net(X).argmax(1) == Y).float().mean().item() for _ in range(5)) / 5
        flor.log("loss", loss.item())
with torch.no_grad():
    total = sum(net(X).sum().item() for _ in range(20))
flor.log("end", total)
"""
EPOCH = '        flor.log("loss", loss.item())\n'
STEP = "            opt.step()\n"
END = 'flor.log("end", total)\n'
SCANS = {
    "prefix": ("net = nn", 'flor.log("h", X.sum().item())\nnet = nn', ""),
    "suffix": (END, END + 'flor.log("h", total)\n', ""),
    "validation": (EPOCH, EPOCH + '        flor.log("h", accuracy)\n', ""),
    "range of 1": (STEP, STEP + '            flor.log("h", loss.item())\n', " WHERE epoch = 9"),
    "range of all": (STEP, STEP + '            flor.log("h", loss.item())\n', ""),
}


@dataclass(frozen=True)
class Measured:
    """``seconds``: from the plan to the values; ``floor``: what of it was the user's own work;
    ``whole``: from the query to its rows."""

    estimate: float
    seconds: float
    floor: float
    workers: float
    whole: float


def measure(connection: Connection, query: str) -> Measured:
    """Replay what a query lacks, and look at the workers' own clocks."""
    took: list[dict[str, float]] = []
    asked = time.perf_counter()
    plan: Plan = connection.plan(query)
    began = time.perf_counter()
    with _noted(took):
        report = execute(connection.project, plan, connection.settings)
    seconds = time.perf_counter() - began
    assert not report.failures, report.failures
    rows = connection.execute(query).fetchall()
    whole = time.perf_counter() - asked
    assert all(value is not None for (value,) in rows)
    afterwards.wait()
    spent = [t["setup"] + t["restored"] + t["computed"] for t in took]
    return Measured(plan.seconds, seconds, max(spent), sum(spent) / plan.workers, whole)


@contextmanager
def project(seeds: int, text: str = SCRIPT) -> Iterator[Path]:
    """A repository with runs of the training, recorded side by side."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        (root / "p").mkdir()
        os.chdir(root / "p")
        subprocess.run(["git", "init", "--quiet"], check=True)
        Path("train.py").write_text(text)
        environment = {**os.environ, "FLORDB_EPSILON": "1"}
        from tests.demo.warm import Warm, WarmProcess
        from tests.replay.adversary import Training

        with Warm() as warm:
            running: list[WarmProcess] = []
            for seed in range(seeds):
                if len(running) == (os.cpu_count() or 1):
                    running.pop(0).wait()
                command = ["train.py", "--kwargs", f"seed={seed}"]
                training = Training(command, environment, f"train{seed}")
                running.append(warm.start(root / "p", training))
            for process in running:
                process.wait()
        yield root / "p"


def scans() -> None:
    """Each scan twice: the first time the estimate has the run's timings, then it has learnt."""
    errors: list[float] = []
    with project(1) as root:
        began = time.perf_counter()
        subprocess.run([sys.executable, "train.py"], env={**os.environ}, check=True)
        whole = time.perf_counter() - began
        print(f"one run of the script by itself: {whole:.2f} s")
        print(
            f"{'scan':13} {'again':>5} {'time':>7} {'floor':>7} {'ratio':>6} {'estimated':>9} error"
        )
        script = SCRIPT
        for again in range(3):
            for name, (after, line, where) in SCANS.items():
                column = f"h{again}_{name.replace(' ', '_')}"
                text = script.replace(after, line.replace('"h"', f'"{column}"'))
                (root / "train.py").write_text(text)
                with flordb.connect(acquire="always") as connection:
                    first = connection.execute("SELECT min(tstamp) FROM flor").fetchone()[0]
                    also = " AND" if where else " WHERE"
                    query = f"SELECT {column} FROM flor{where}{also} tstamp = '{first}'"
                    m = measure(connection, query)
                error = m.estimate / m.seconds - 1
                if again:
                    errors.append(abs(error))
                print(
                    f"{name:13} {again:5} {m.seconds:6.2f}s {m.floor:6.2f}s "
                    f"{m.seconds / m.floor:6.2f} {m.estimate:8.2f}s {error:+.0%}"
                )
    print(
        f"estimates, the first round left out (it starts the server): median error "
        f"{statistics.median(errors):.0%}, largest {max(errors):.0%}"
    )


def versions(counts: tuple[int, ...] = (10, 20, 50, 100, 200)) -> None:
    """The same validation scan of more and more runs, which are short."""
    text = SCRIPT.replace("range(16)", "range(2)").replace("12000", "2000")
    text = text.replace("range(5)) / 5", "range(1))").replace("range(20)", "range(1)")
    began = time.perf_counter()
    with project(max(counts), text) as root:
        print(f"{max(counts)} runs recorded in {time.perf_counter() - began:.0f} s")
        for count in (0, *counts):
            column = f"v{count}"
            after, line, _ = SCANS["validation"]
            (root / "train.py").write_text(text.replace(after, line.replace('"h"', f'"{column}"')))
            with flordb.connect(acquire="always") as connection:
                stamps = connection.execute(
                    "SELECT DISTINCT tstamp FROM flor ORDER BY 1"
                ).fetchall()
                last = stamps[max(count, 1) - 1][0]
                m = measure(connection, f"SELECT {column} FROM flor WHERE tstamp <= '{last}'")
            if not count:  # it starts the server
                continue
            print(
                f"{count:4} versions: {m.whole:6.2f} s, {1000 * m.whole / count:5.0f} ms each; "
                f"the workers' own work over the cores {m.workers:6.2f} s "
                f"({(m.whole - 1) / m.workers:.2f} x, one second left out); "
                f"replays {m.seconds:.2f} s, estimated {m.estimate:.2f} s "
                f"({m.estimate / m.seconds - 1:+.0%})"
            )


def growth(few: int = 50, many: int = 5000) -> None:
    """Recording a run and querying a column, with few runs in the project and with many."""
    text = (
        'import flordb as flor\nfor e in flor.loop("epoch", range(5)):\n    flor.log("loss", e)\n'
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.chdir(root)
        subprocess.run(["git", "init", "--quiet"], check=True)
        (root / "train.py").write_text(text)
        for count in (few, many):
            _fill(root, count)
            record, query = [], []
            with flordb.connect() as connection:
                connection.execute("SELECT loss FROM flor LIMIT 1").fetchall()
            for _ in range(5):
                began = time.perf_counter()
                subprocess.run([sys.executable, "train.py"], check=True)
                record.append(time.perf_counter() - began)
                began = time.perf_counter()
                with flordb.connect() as connection:
                    newest = "(SELECT max(tstamp) FROM flor)"
                    rows = connection.execute(
                        f"SELECT epoch, loss FROM flor WHERE tstamp = {newest}"
                    ).fetchall()
                query.append(time.perf_counter() - began)
                assert len(rows) == 5
            print(
                f"{count:5} runs: recording one {statistics.median(record):.2f} s, "
                f"the newest run's values {1000 * statistics.median(query):.0f} ms"
            )


def _fill(root: Path, count: int) -> None:
    """Copies of one real run's file, each with a start of its own."""
    subprocess.run([sys.executable, "train.py"], check=True)
    runs = root / ".flor" / "runs"
    model = sorted(runs.glob("*.jsonl"))[0]
    first, _, rest = model.read_text().partition("\n")
    import json

    header = json.loads(first)
    for number in range(len(list(runs.glob("*.jsonl"))), count):
        stamp = f"2020-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000000Z"
        header["tstamp"] = stamp
        name = f"{stamp[:19].replace('-', '').replace(':', '')}.000000-{number:06x}.jsonl"
        (runs / name).write_text(json.dumps(header) + "\n" + rest)


def equality() -> None:
    """Every replayed value of the adversary's workloads beside the truth."""
    from tests.replay.adversary import WORKLOADS, Warm, build, replay

    names = [p.stem for p in sorted(WORKLOADS.glob("*.py")) if not p.stem.endswith("_lib")]
    names.remove("clocks")
    with tempfile.TemporaryDirectory() as folder, Warm() as warm:
        os.environ |= {"FLORDB_EPSILON": "1000", "XDG_CACHE_HOME": folder + "/cache"}
        root = Path(folder) / "project"
        workloads = build(root, names, warm)
        outcomes, _, _ = replay(root, workloads)
    equal = sum(outcome.equal for outcome in outcomes.values())
    statements = sum(len(outcome.scans) for outcome in outcomes.values())
    wrong = sum(len(outcome.wrong) for outcome in outcomes.values())
    lacking = sum(len(o.lacking) + len(o.refused) for o in outcomes.values())
    due = sum(len(v) for w in workloads.values() for v in w.truth.values())
    print(
        f"{len(names)} workloads, {statements} statements: {equal} of {due} values "
        f"equal to the bit, {wrong} contexts wrong, {lacking} lacking or refused"
    )
    scans = [scan.rstrip("!") for outcome in outcomes.values() for scan in outcome.scans.values()]
    print(", ".join(f"{scans.count(scan)} by {scan}" for scan in sorted(set(scans))))


RESTORED = ("small_cnn", "loader", "adversarial_fine_tune", "transformer")
EPOCHS = re.compile(r'(EPOCHS, STEPS = |loop\("epoch", range\()\d+')


def restores(rounds: int = 3) -> None:
    """Suffix and validation scans by one worker, by turns with the machine's limit."""
    from bench import estimates, trainings

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"FLORDB_WORKERS": "1", "FLORDB_EPSILON": "1"}
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        root = Path(folder) / "project"
        workloads = {
            name: {file: EPOCHS.sub(r"\g<1>4", text) for file, text in files.items()}
            for name, files in trainings.texts().items()
            if name in RESTORED
        }
        estimates.record(root, workloads)
        project = Project(root, has_git=True)
        for scan in estimates.scans(project, workloads):
            if scan.kind in ("suffix", "validation"):
                _restores_of(project, scan, rounds)


def _restores_of(project: Project, scan: Scan, rounds: int) -> None:
    snapshots = SnapshotStore(project.snapshots / scan.want.file.partition(".jsonl")[0])
    steps = sorted(name for name in snapshots.boundaries() if name.endswith("/step@exit"))
    inside = [[name, name.replace("/step@exit", "@end")] for name in steps]
    loaded = ["epoch@exit"]
    if scan.kind == "validation":
        loaded = ["epoch@enter", *itertools.chain(*inside)][:-1]
    times, limits = [], []
    for _ in range(rounds):
        took: list[dict[str, float]] = []
        with _noted(took):
            plan = make_plan(project, [scan.want], load(project.root))
            report = execute(project, plan, load(project.root))
        assert not report.failures, report.failures
        assert took[0]["restores"] == len(loaded)
        afterwards.wait()
        times.append(took[0]["restored"] / took[0]["restores"])
        seconds, changed = _limit(project, snapshots, loaded)
        limits.append(seconds / len(loaded))
    blocks = snapshots.load(loaded[-1]).blocks
    whole, new = sum(block.size for block in blocks) / 1e6, changed / len(loaded) / 1e6
    time_, limit = statistics.median(times), statistics.median(limits)
    print(
        f"{scan.workload:22} {scan.kind:10} {took[0]['restores']:3.0f} snapshots of "
        f"{whole:5.1f} MB, {new:5.1f} MB changed: {1000 * time_:6.1f} ms each "
        f"({1000 * min(times):.1f} to {1000 * max(times):.1f}), "
        f"limit {1000 * limit:6.1f} ms, {time_ / limit:.1f} x",
        flush=True,
    )


def _limit(project: Project, snapshots: SnapshotStore, loaded: list[str]) -> tuple[float, int]:
    """Seconds, and bytes, to read and hash what each snapshot has and the one before has not."""
    last: set[str] = set()
    seconds, size = 0.0, 0
    for boundary in loaded:
        names = snapshots.load(boundary).objects
        for name in names - last:
            data = ObjectStore(project.objects).path(name).read_bytes()
            memory = bytearray(data)
            with open(ObjectStore(project.objects).path(name), "rb", buffering=0) as file:
                began = time.perf_counter()
                file.readinto(memory)
                digest(memory)
                seconds += time.perf_counter() - began
            size += len(data)
        last = names
    return seconds, size


@contextmanager
def _noted(took: list[dict[str, float]]) -> Iterator[None]:
    """Notes what the workers say that they took."""
    original = learnt.Learnt.worked

    def worked(self, *given):  # type: ignore[no-untyped-def]
        took.append(given[-1])
        original(self, *given)

    learnt.Learnt.worked = worked  # type: ignore[method-assign]
    try:
        yield
    finally:
        learnt.Learnt.worked = original  # type: ignore[method-assign]


def main() -> None:
    """Run the parts that are named, or all."""
    parts = {
        "equality": equality,
        "scans": scans,
        "versions": versions,
        "growth": growth,
        "restores": restores,
    }
    for name in sys.argv[1:] or parts:
        print(f"--- {name}")
        parts[name]()


if __name__ == "__main__":
    main()
