"""How well plans are priced: estimate beside time, for nine trainings and all scans.

    python bench/estimates.py [--short] [--parts] [--rounds N] [--keep FOLDER] [NAME …]

The trainings of `bench/trainings.py`; with ``--short`` the workloads of ``tests/replay`` with more
data, of whose replays most take less than a tenth of a second. Each is recorded by
an interpreter of its own with the default settings; then, in a server that has the imports done,
each scan is planned and carried out, round by round: priced as if nothing had been learnt at all,
with what replays of the other scripts have taught, and then with all that the rounds before have.
Each estimate stands beside the time that was taken next, and beside the median of that scan's times
over all rounds. How far the same replay's times are from one another stands below: on a machine
whose speed varies no estimate can do better than that.
``--parts`` prints how far each part of each estimate is off. ``--keep`` keeps the recorded runs
in a folder, for the next time, and in ``measured.jsonl`` beside them what each replay consisted of
and took. The constants of `replay.cost` were
set by what ``plain``, ``functions`` and ``trainer`` of the short ones take.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import permutations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import trainings
from flordb.replay import afterwards, learnt
from flordb.replay.execute import execute
from flordb.replay.plan import Plan, make_plan
from flordb.replay.want import Want
from flordb.settings import load
from flordb.store.project import Project
from flordb.store.runfile import read_run
from tests.replay import adversary

# What is replaced in a short workload to make it larger.
LARGER: dict[str, list[tuple[str, str]]] = {
    "plain": [
        ("torch.randn(96, 6)", "torch.randn(9600, 64)"),
        ("Linear(6, 8), nn.BatchNorm1d(8)", "Linear(64, 256), nn.BatchNorm1d(256)"),
        ("Linear(8, 2)", "Linear(256, 2)"),
    ],
    "functions": [
        ("torch.randn(80, 5)", "torch.randn(9000, 64)"),
        ("torch.randn(80)", "torch.randn(9000)"),
        ("[:60]", "[:8000]"),
        ("[60:]", "[8000:]"),
        ("Linear(5, 12)", "Linear(64, 256)"),
        ("Linear(12, 1)", "Linear(256, 1)"),
        ("2\n", "9\n"),
    ],
    "trainer": [("size=(40, 4)", "size=(16000, 4)"), ("range(0, 40, 8)", "range(0, 16000, 8)")],
    "gan": [("randn(40, 2)", "randn(3200, 2)"), ("range(5)", "range(400)")],
    "phases": [("randn(30, 4)", "randn(30000, 4)"), ("range(0, 30, 10)", "range(0, 30000, 10)")],
    "loaders": [("Augmented(48)", "Augmented(4800)")],
    "recurrent": [("size=(2, 61)", "size=(2, 6001)"), ("range(0, 60, 10)", "range(0, 6000, 10)")],
    "schedules": [
        ("torch.randn(60, 4)", "torch.randn(9000, 4)"),
        ("range(0, 60, 10)", "range(0, 9000, 10)"),
        ("total_steps=30", "total_steps=4500"),
    ],
    "plainpy": [("list(range(12))", "list(range(60000))")],
    "trials": [("range(4)", "range(1500)")],
}
KINDS = ("prefix", "suffix", "validation", "range")

Workloads = Mapping[str, Mapping[str, str]]
"""Names, and each one's files: names and texts."""


@dataclass(frozen=True)
class Scan:
    """A replay to be priced. ``kind``: its scan, or "range of 1"."""

    workload: str
    kind: str
    want: Want


def short(workload: str) -> dict[str, str]:
    """The files of a workload of ``tests/replay``, with more data."""
    files = adversary.texts(workload)
    text = files[f"{workload}.py"]
    for old, new in LARGER[workload]:
        assert old in text, (workload, old)
        text = text.replace(old, new)
    return {**files, f"{workload}.py": text}


def record(root: Path, workloads: Workloads) -> None:
    """A repository with a run of each workload, and then its statements of hindsight.

    Runs that are there already are kept.
    """
    if not root.exists():
        root.mkdir(parents=True)
        subprocess.run(["git", "init", "--quiet", "--initial-branch=main", str(root)], check=True)
        (root / ".gitignore").write_text("out/\nlog.txt\n")
    there = {script for script, _ in _runs(Project(root, has_git=True))}
    files = [(file, text) for each in workloads.values() for file, text in each.items()]
    for file, text in files:
        (root / file).write_text(adversary.original(text, False))
    for workload in [name for name in workloads if f"{name}.py" not in there]:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-W", "ignore", f"{workload}.py"], cwd=root, check=True)
        print(f"{workload:24} recorded in {time.perf_counter() - began:5.1f} s", flush=True)
    for file, text in files:
        (root / file).write_text(adversary.hindsight(text, False))


def _runs(project: Project) -> Iterator[tuple[str, Path]]:
    """The script and the run file of each run."""
    for path in sorted(project.runs.glob("*.jsonl")):
        if ".replay-" not in path.name:
            yield read_run(path).header["filename"], path


def scans(project: Project, workloads: Workloads) -> Iterator[Scan]:
    """For each workload the first statement of each scan; for a range also one iteration."""
    settings = load(project.root)
    for script, path in _runs(project):
        workload = Path(script).stem
        if workload not in workloads:
            continue
        header = read_run(path).header
        moment = datetime.fromisoformat(header["tstamp"]).replace(tzinfo=None)
        every = [adversary.TRUTH.findall(text) for text in workloads[workload].values()]
        names = tuple(dict.fromkeys(f"h:{name}" for found in every for _, name, _ in found))

        def want(
            name: str, iterations: tuple[int, ...] | None = None, at: Any = (header, moment, path)
        ) -> Want:
            header, moment, path = at
            file = header["filename"]
            return Want(1, header["projid"], moment, file, path.name, None, (name,), iterations)

        alone = [make_plan(project, [want(name)], settings).tasks for name in names]
        for kind in KINDS:
            task = next((tasks[0] for tasks in alone if tasks and tasks[0].scan == kind), None)
            if task is None:
                continue
            yield Scan(workload, kind, want(task.names[0]))
            if kind == "range" and not task.steps.from_start and len(task.steps.loops) == 1:
                yield Scan(workload, "range of 1", want(task.names[0], iterations=(2,)))


@dataclass(frozen=True)
class Measured:
    """``off``: by part of the estimate, the seconds by which it is above what was taken.

    ``parts``: what each of the plan's tasks consists of; ``took``: what its worker measured.
    """

    scan: Scan
    estimate: float
    seconds: float
    off: dict[str, float]
    parts: list[dict[str, Any]]
    took: list[dict[str, Any]]

    @property
    def error(self) -> float:
        return self.estimate / self.seconds - 1


def measure(project: Project, scan: Scan, forgotten: str | None = None) -> Measured:
    """Plan a scan, and carry it out.

    Parameters: ``forgotten``, the script of whose replays the estimate knows nothing ("": of all).
    """
    settings = load(project.root)
    everything = learnt.load(project.store)
    known = everything if forgotten is None else without(everything, forgotten)
    learnt.save(project.store, known)
    plan = make_plan(project, [scan.want], settings)
    learnt.save(project.store, everything)
    took: list[dict[str, Any]] = []
    original = learnt.Learnt.worked

    def worked(self: learnt.Learnt, *arguments: Any) -> None:
        took.append(arguments[-1])
        original(self, *arguments)

    learnt.Learnt.worked = worked  # type: ignore[method-assign]
    began = time.perf_counter()
    try:
        report = execute(project, plan, settings)
    finally:
        learnt.Learnt.worked = original  # type: ignore[method-assign]
    seconds = time.perf_counter() - began
    afterwards.wait()
    assert not report.failures, report.failures
    parts = [asdict(task.parts) for task in plan.tasks]
    return Measured(scan, plan.seconds, seconds, _off(plan, known, took, seconds), parts, took)


def _off(
    plan: Plan, known: learnt.Learnt, took: list[dict[str, Any]], seconds: float
) -> dict[str, float]:
    """Of all workers together; what is beyond their own work, of a single one."""
    off = dict.fromkeys(learnt.PARTS, 0.0)
    for task in plan.tasks:
        rates, parts = known.rates(task.want.filename, task.scan, task.together), task.parts
        off["setup"] += rates.setup.of(parts.setting_up)
        off["loading"] += rates.loading.of(parts.loading) if parts.restores else 0.0
        off["computing"] += rates.computing.of(parts.computing)
        off["handing"] = rates.handing.of(parts.handing) - seconds
    for each in took:
        off["setup"] -= each["setup"]
        off["loading"] -= each["restored"]
        off["computing"] -= each["computed"]
        off["handing"] += each["setup"] + each["restored"] + each["computed"]
    if len(took) > 1:
        del off["handing"]
    return off


def without(everything: learnt.Learnt, script: str) -> learnt.Learnt:
    """What was learnt, but of a script's replays, or of none at all ("")."""
    if not script:
        return learnt.Learnt()
    kept = [
        {key: seen for key, seen in each.items() if f"|{script}|" not in key}
        for each in (everything.seen, everything.beside)
    ]
    return replace(everything, seen=kept[0], beside=kept[1])


def main() -> None:
    """Record the workloads, price and measure each scan, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--short", action="store_true", help="the workloads of tests/replay")
    parser.add_argument("--parts", action="store_true", help="print how far each part is off")
    parser.add_argument("--rounds", type=int, default=5, help="0: only record")
    parser.add_argument("--keep", type=Path, help="a folder for the recorded runs")
    options = parser.parse_args()
    offered = {name: short(name) for name in LARGER} if options.short else trainings.texts()
    workloads = {name: offered[name] for name in options.names or offered}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        os.environ["XDG_CACHE_HOME"] = str(folder.absolute() / "cache")
        record(folder / "project", workloads)
        if options.rounds:
            rounds(folder, workloads, options.rounds, options.parts)


def rounds(folder: Path, workloads: Workloads, count: int, by_parts: bool) -> None:
    """Price and measure each scan so many times, and print."""
    project = Project(folder / "project", has_git=True)
    found = list(scans(project, workloads))
    learnt.save(project.store, learnt.Learnt())
    first = measure(project, found[0])
    print(f"the first replay, which starts the server: {_beside(first)}")
    kept: dict[str, list[Measured]] = {}
    for number in range(count):
        which = ("nothing learnt", "learnt from other scripts", "learnt")[min(number, 2)]
        print(f"round {number}: {which}")
        for scan in found:
            forgotten = ("", f"{scan.workload}.py", None)[min(number, 2)]
            measured = measure(project, scan, forgotten)
            print(f"  {scan.workload:24} {scan.kind:11} {_beside(measured)}", flush=True)
            if by_parts:
                print("     ", _parts(measured.off), flush=True)
            kept.setdefault(which, []).append(measured)
            with open(folder / "measured.jsonl", "a") as file:
                file.write(json.dumps({"round": number, **asdict(measured)}, default=str) + "\n")
    usual = {key: statistics.median(times) for key, times in _times(kept).items()}
    for which, every in kept.items():
        print(f"{which}: {_summary([(m.seconds, abs(m.error)) for m in every])}")
        beside = [(usual[_key(m)], abs(m.estimate / usual[_key(m)] - 1)) for m in every]
        print(f"    beside the median of the rounds: {_summary(beside)}")
        for part in learnt.PARTS:
            off = [m.off[part] for m in every if part in m.off]
            print(f"    {part:9} off by {_quartiles(off)}")
    print(f"the same replay from round to round: {_summary(_spread(kept))}")


def _key(measured: Measured) -> tuple[str, str]:
    return measured.scan.workload, measured.scan.kind


def _times(rounds: dict[str, list[Measured]]) -> dict[tuple[str, str], list[float]]:
    """The times of each scan."""
    times: dict[tuple[str, str], list[float]] = {}
    for measured in (m for every in rounds.values() for m in every):
        times.setdefault(_key(measured), []).append(measured.seconds)
    return times


def _spread(rounds: dict[str, list[Measured]]) -> list[tuple[float, float]]:
    """How far each time of a scan is from each other one."""
    return [
        (one, abs(other / one - 1))
        for times in _times(rounds).values()
        for one, other in permutations(times, 2)
    ]


def _beside(m: Measured) -> str:
    return f"{m.seconds:6.3f} s, estimated {m.estimate:6.3f} s, {m.error:+.0%}"


def _parts(off: dict[str, float]) -> str:
    return ", ".join(f"{part} {1000 * seconds:+.0f} ms" for part, seconds in off.items())


def _quartiles(off: list[float]) -> str:
    low, middle, high = statistics.quantiles(off, n=4)
    return f"{1000 * middle:+.1f} ms (quartiles {1000 * low:+.1f}, {1000 * high:+.1f})"


def _summary(pairs: list[tuple[float, float]]) -> str:
    every = [error for _, error in pairs]
    long = [error for seconds, error in pairs if seconds > 1] or [0.0]
    return (
        f"{len(pairs)} plans, median {statistics.median(every):.1%}, "
        f"largest {max(every):.0%}; of {len(long)} over one second: "
        f"median {statistics.median(long):.1%}, largest {max(long):.0%}, "
        f"{sum(error > 0.2 for error in long)} off by more than 20 %"
    )


if __name__ == "__main__":
    main()
