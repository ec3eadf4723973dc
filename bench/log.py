"""What logging costs, side by side with plain Python in the same run.

    python bench/log.py            all of it, about a minute
    python bench/log.py memory     ten million records in one run

Prints a call of `flor.log` next to an empty call; 100 epochs of 1,000 steps (100,100 records)
recorded, and until they can be queried, next to a loop that writes the same records with
`json.dumps`; what a `kill -9` loses; the import. Medians of alternating rounds.
"""

from __future__ import annotations

import json
import math
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CALLS = 100_000
EPOCHS, STEPS = 100, 1_000
ROUNDS = 5


def losses() -> list[float]:
    """An epoch's values, with all their digits, like a loss has them."""
    return [1 / (1 + step) + math.sin(step) / 97 for step in range(STEPS)]


# One call.


def _empty(name: str, value: float) -> float:
    return value


def calls() -> None:
    """Nanoseconds a call: rounds of 100,000 of each kind, one after the other."""
    import flordb as flor

    def empty() -> None:
        for step in range(CALLS):
            _empty("loss", step * 0.5)

    def log() -> None:
        for step in range(CALLS):
            flor.log("loss", step * 0.5)

    found: dict[str, list[float]] = {"empty": [], "log": []}
    for _ in flor.loop("epoch", range(1)):
        for _ in flor.loop("batch", range(ROUNDS * 4)):
            for work in (empty, log):
                began = time.perf_counter()
                work()
                found[work.__name__].append((time.perf_counter() - began) / CALLS)
                time.sleep(0.3)  # the flusher's work is counted below, in whole runs
    for name, seconds in found.items():
        best, median = min(seconds) * 1e6, statistics.median(seconds) * 1e6
        print(f"{name:14} {median:7.3f} µs a call (best {best:.3f})")


# Whole runs, each in a process of its own: `python bench/log.py run KIND FOLDER`.


def _plain(values: list[float]) -> None:
    for epoch in range(EPOCHS):
        for step in range(STEPS):
            values[step] / (1 + epoch)


def _dumps(values: list[float]) -> None:
    with open("lines.jsonl", "w") as file:
        for epoch in range(EPOCHS):
            for step in range(STEPS):
                record = {"name": "loss", "epoch": epoch, "step": step}
                record["value"] = values[step] / (1 + epoch)
                file.write(json.dumps(record) + "\n")
            record = {"name": "acc", "epoch": epoch, "value": epoch / EPOCHS}
            file.write(json.dumps(record) + "\n")


def _flor(values: list[float]) -> None:
    import flordb as flor

    for epoch in flor.loop("epoch", range(EPOCHS)):
        for step in flor.loop("step", range(STEPS)):
            flor.log("loss", values[step] / (1 + epoch))
        flor.log("acc", epoch / EPOCHS)
    flor.commit()


def run(kind: str) -> None:
    """One run; prints the seconds of processor time, and of the clock, that it took."""
    values = losses()
    if kind == "flor":
        import flordb as flor

        flor.log("begin", 0)  # the version is written; what that costs is `start`, below
        time.sleep(1.0)
    work = {"plain": _plain, "dumps": _dumps, "flor": _flor}[kind]
    cpu, clock = time.process_time(), time.perf_counter()
    work(values)
    print(json.dumps([time.process_time() - cpu, time.perf_counter() - clock]))


def runs() -> None:
    """Runs of each kind in turn, and the query that follows one."""
    import flordb as flor

    flor.dataframe()  # what imports DuckDB and pandas, once
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "dumps": [], "flor": []}
    queried: list[float] = []
    for _ in range(ROUNDS):
        for kind, results in found.items():
            command = [sys.executable, "bench.py", "run", kind]
            done = subprocess.run(command, capture_output=True, check=True, text=True)
            results.append(tuple(json.loads(done.stdout)))
        began = time.perf_counter()
        count = flor.sql("SELECT count(loss) AS n FROM flor")["n"][0]
        queried.append(time.perf_counter() - began)
        assert count == EPOCHS * STEPS * len(queried), count
    median = {
        kind: [statistics.median(s) for s in zip(*r, strict=True)] for kind, r in found.items()
    }
    plain_cpu, plain_clock = median["plain"]
    base_cpu, base_clock = (median["dumps"][n] - median["plain"][n] for n in (0, 1))
    cpu, clock = (median["flor"][0] - plain_cpu, median["flor"][1] - plain_clock)
    print(f"json.dumps     {base_cpu:7.3f} s of processor time, {base_clock:.3f} s of the clock")
    print(f"flor           {cpu:7.3f} s = {cpu / base_cpu:.2f} x, {clock:.3f} s = "
          f"{clock / base_clock:.2f} x, git's commit included")  # fmt: skip
    until = clock + statistics.median(queried)
    print(f"until queried  {until:7.3f} s of the clock = {until / base_clock:.2f} x")
    size = max(path.stat().st_size for path in Path(".flor/runs").iterdir())
    print(f"run file       {size / 1e6:7.2f} MB, JSON lines "
          f"{Path('lines.jsonl').stat().st_size / 1e6:.2f} MB")  # fmt: skip


def kills() -> None:
    """Milliseconds of values that are missing after `kill -9`, one value a millisecond."""
    from flordb.store.runfile import read_run

    script = (
        "import flordb as flor, time, itertools\n"
        "for i in itertools.count():\n    flor.log('t', time.time())\n    time.sleep(0.001)\n"
    )
    lost = []
    runs = Path(".flor/runs")
    for _ in range(ROUNDS):
        before = set(runs.glob("*"))
        process = subprocess.Popen([sys.executable, "-c", script])
        time.sleep(2.0 + len(lost) * 0.037)
        killed = time.time()
        process.send_signal(signal.SIGKILL)
        process.wait()
        (path,) = set(runs.glob("*")) - before
        times = [line["v"] for line in read_run(path).singly() if line.get("n") == "t"]
        lost.append(killed - times[-1])
    listed = ", ".join(f"{seconds * 1e3:.0f}" for seconds in sorted(lost))
    print(f"kill -9        {listed} ms of values lost")


def memory() -> None:
    """Ten million records in one run: how much the memory grows."""
    import flordb as flor

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

    flor.log("begin", 0)
    time.sleep(1.0)
    values = losses()
    before, most = resident(), 0.0
    began = time.perf_counter()
    for _ in flor.loop("epoch", range(10_000)):
        for step in flor.loop("step", range(STEPS)):
            flor.log("loss", values[step])
        most = max(most, resident())
    seconds = time.perf_counter() - began
    print(f"10,000,000 records in {seconds:.1f} s; memory {before:.0f} MB, at most "
          f"{most - before:+.0f} MB")  # fmt: skip


def imports() -> None:
    """Milliseconds of `import flordb`, each time in a new interpreter."""
    code = "import time; t = time.perf_counter(); import flordb; print(time.perf_counter() - t)"
    found = []
    for _ in range(ROUNDS * 2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        found.append(float(done.stdout))
    print(f"import         {statistics.median(found) * 1e3:7.1f} ms")


def _in_a_project(work: str) -> None:
    """Run this script from a project of its own: a script's run belongs to where the script is."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(__file__, Path(folder) / "bench.py")
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        subprocess.run([sys.executable, "bench.py", work], cwd=folder, check=True)


def main() -> None:
    """Run what the command line names, or everything but ``memory``."""
    kinds = {"calls": calls, "runs": runs, "kills": kills, "memory": memory, "imports": imports}
    names = sys.argv[1:] or [name for name in kinds if name != "memory"]
    if names[0] == "run":
        run(names[1])
    elif __file__ == str(Path("bench.py").resolve()):
        kinds[names[0]]()
    else:
        for name in names:
            _in_a_project(name)


if __name__ == "__main__":
    main()
