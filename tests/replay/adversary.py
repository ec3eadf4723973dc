"""Tries to make a replay return a wrong value.

Each workload in ``workloads/`` marks expressions with ``flor.log("truth:x", …)``. A run is recorded
without these statements (in the workloads that set no seeds: with them), the version that has
them is trained from scratch, and then each is added in hindsight as ``h:x``. What a replay gives
must be, bit for bit, what the training from scratch gave, or nothing for a stated reason.

    python -m tests.replay.adversary [WORKLOAD …] [--keep all|ends|none|each] [--each]

prints what is wrong, refused or lacking; with ``--keep each`` snapshots are taken away one by one,
with ``--each`` every iteration is asked for alone.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from flordb.replay.checks import same
from flordb.replay.execute import Report, execute
from flordb.replay.plan import Plan, Want, make_plan
from flordb.replay.recorded import recorded
from flordb.replay.task import Steps
from flordb.settings import load
from flordb.store.project import Project
from flordb.store.runfile import read_run
from tests.demo.warm import Warm, WarmProcess

WORKLOADS = Path(__file__).parent / "workloads"
TRUTH = re.compile(r'^(\s*)flor\.log\("truth:(\w+)", (.*)\)$', re.MULTILINE)

Key = tuple[str, str]
Values = dict[Key, list[Any]]


@dataclass(frozen=True)
class Training:
    """What the warm process is told; see `tests.demo.warm`."""

    command: list[str]
    environment: dict[str, str]
    version: str


@dataclass
class Workload:
    """A recorded workload. ``truth``: what the statements log when trained from scratch."""

    name: str
    file: str
    names: list[str]
    truth: Values


@dataclass
class Outcome:
    """What replays of a workload came to. ``wrong``: (name, context, true, replayed)."""

    equal: int = 0
    wrong: list[tuple[str, str, Any, Any]] = field(default_factory=list)
    lacking: list[Key] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    scans: dict[str, str] = field(default_factory=dict)
    anomalies: list[str] = field(default_factory=list)
    seconds: list[tuple[float, float]] = field(default_factory=list)


def texts(workload: str) -> dict[str, str]:
    """The files of a workload: the script and its modules."""
    found = sorted(WORKLOADS.glob(f"{workload}.py")) + sorted(WORKLOADS.glob(f"{workload}_lib.py"))
    return {path.name: path.read_text() for path in found}


def unseeded(workload: str) -> bool:
    """Whether a workload's random numbers cannot come again: then the run itself logs the truth."""
    return "# unseeded" in texts(workload)[f"{workload}.py"]


def original(text: str, unseeded: bool) -> str:
    """Without the statements of interest, unless its random numbers cannot come again."""
    return text if unseeded else TRUTH.sub(r"\1pass", text)


def hindsight(text: str, unseeded: bool) -> str:
    """With the statements of interest added."""
    if unseeded:
        return TRUTH.sub(r'\g<0>\n\1flor.log("h:\2", \3)', text)
    return TRUTH.sub(r'\1pass\n\1flor.log("h:\2", \3)', text)


def build(root: Path, names: Sequence[str], warm: Warm) -> dict[str, Workload]:
    """Record the workloads in a repository, and train them with their statements in a folder."""
    truth = root.parent / "truth" / root.name
    for folder, change in ((root, original), (truth, hindsight)):
        folder.mkdir(parents=True)
        (folder / ".gitignore").write_text("out/\nlog.txt\n")
        for name in names:
            for file, text in texts(name).items():
                (folder / file).write_text(change(text, unseeded(name)))
    (truth / ".git").mkdir()  # its runs have no version, and need none
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "user.name", "Ada")
    git(root, "config", "user.email", "ada@example.org")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "workloads")
    trainings = [(root, f"{name}.py") for name in names]
    trainings += [(truth, f"{name}.py") for name in names if not unseeded(name)]
    _train(warm, trainings)
    runs = {place: _runs(place) for place in (root, truth)}
    found = {}
    for name in names:
        file = runs[root][f"{name}.py"]
        source = file if unseeded(name) else runs[truth][f"{name}.py"]
        values = recorded(read_run(source)).values
        kept = {(p, n.replace("truth:", "h:")): v for (p, n), v in values.items() if ":" in n}
        statements = [f"h:{n}" for text in texts(name).values() for _, n, _ in TRUTH.findall(text)]
        found[name] = Workload(name, file.name, list(dict.fromkeys(statements)), kept)
    for name in names:
        for file_name, text in texts(name).items():
            (root / file_name).write_text(hindsight(text, unseeded(name)))
    return found


def _runs(folder: Path) -> dict[str, Path]:
    """The run file of each script."""
    files = (folder / ".flor" / "runs").glob("*.jsonl")
    return {read_run(file).header["filename"]: file for file in files}


def _train(warm: Warm, trainings: Sequence[tuple[Path, str]]) -> None:
    """Run scripts, as many at a time as there are cores."""
    waiting = list(trainings)[::-1]
    running: list[tuple[Path, str, WarmProcess]] = []
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            folder, script = waiting.pop()
            started = warm.start(folder, Training([script], dict(os.environ), script))
            running.append((folder, script, started))
        folder, script, process = running.pop(0)
        status = process.wait()
        log = (folder / f".git/{script}.log").read_text()
        assert status == 0, f"{script} ended with {status}:\n{log}"


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def wants(root: Path, workloads: Iterable[Workload], index: int | None = None) -> list[Want]:
    """All statements of the workloads, of one iteration of their top-level loops or of all.

    Statements that steps of another kind suffice for are asked for apart, so that these are tried.
    """
    project, settings = Project(root, has_git=True), load(root)
    found = []
    for number, workload in enumerate(workloads):
        header = read_run(project.runs / workload.file).header
        moment = datetime.fromisoformat(header["tstamp"]).replace(tzinfo=None)
        iterations = None if index is None else (index,)
        file, run = header["filename"], (number + 1, header["projid"], moment)
        want = Want(*run, file, workload.file, None, tuple(workload.names), iterations)
        alone = make_plan(project, [replace(want, names=(n,)) for n in want.names], settings)
        apart: dict[Steps | None, list[str]] = {}
        kinds = [(task.names, replace(task.steps, iterations=None)) for task in alone.tasks]
        steps = {name: kind for names, kind in kinds for name in names}
        for name in want.names:
            apart.setdefault(steps.get(name), []).append(name)
        found += [replace(want, names=tuple(names)) for names in apart.values()]
    return found


def replay(
    root: Path, workloads: dict[str, Workload], index: int | None = None
) -> tuple[dict[str, Outcome], Plan, Report]:
    """Replay the statements of all workloads at once and compare them with the truth."""
    project = Project(root, has_git=True)
    for path in project.runs.glob("*.replay-*"):
        path.unlink()
    settings = load(root)
    plan = make_plan(project, wants(root, workloads.values(), index), settings)
    report = execute(project, plan, settings)
    outcomes = {}
    for workload in workloads.values():
        values: Values = {}
        for path in project.runs.glob(f"{workload.file.partition('.jsonl')[0]}.replay-*"):
            for key, found in recorded(read_run(path)).values.items():
                values.setdefault(key, []).extend(found)
        outcomes[workload.name] = _judge(workload, values, plan, report, index)
    return outcomes, plan, report


def _judge(
    workload: Workload, values: Values, plan: Plan, report: Report, index: int | None
) -> Outcome:
    outcome = Outcome()
    for task in plan.tasks:
        if task.want.file == workload.file:
            outcome.scans |= dict.fromkeys(task.names, task.scan + task.steps.from_start * "!")
    for failure in report.failures:
        if failure.want.file == workload.file:
            outcome.refused |= dict.fromkeys(failure.names, failure.reason)
    for key, found in values.items():
        true = workload.truth.get(key, [])
        if len(found) == len(true) and all(same(a, b) for a, b in zip(true, found, strict=True)):
            outcome.equal += len(found)
        else:
            outcome.wrong.append((key[1], key[0], true, found))
    for key in workload.truth:
        asked = index is None or _index(key[0]) in (None, index)
        if asked and key not in values and key[1] not in outcome.refused:
            outcome.lacking.append(key)
    return outcome


def _index(path: str) -> int | None:
    found = re.match(r"[^/]*=(\d+)", path)
    return int(found[1]) if found else None


class SnapshotFiles:
    """The snapshots of all runs, to take some away for a while."""

    def __init__(self, root: Path) -> None:
        self.folder = root / ".flor" / "snapshots"
        self.aside = root / ".flor" / "aside"

    def of(self, workload: Workload) -> list[str]:
        return sorted(p.name for p in self._place(workload).glob("*.json"))

    def _place(self, workload: Workload) -> Path:
        return self.folder / workload.file.partition(".jsonl")[0]

    def keep(self, workload: Workload, kept: Iterable[str]) -> None:
        """Keep only these of a workload's snapshots."""
        if not self.aside.exists():
            shutil.copytree(self.folder, self.aside)
        for name in set(self.of(workload)) - set(kept):
            (self._place(workload) / name).unlink()

    def restore(self) -> None:
        if self.aside.exists():
            shutil.rmtree(self.folder)
            self.aside.rename(self.folder)


def ends(names: Sequence[str]) -> list[str]:
    """The snapshots of which there are always some: the first ones and the last one."""
    return [n for n in names if n.startswith("start") or ("%2F" not in n and "=" not in n)]


def one_by_one(
    root: Path, workloads: dict[str, Workload]
) -> Iterator[tuple[str, dict[str, Outcome]]]:
    """Take away the first snapshot of each workload, then the second, and so on."""
    snapshots = SnapshotFiles(root)
    listed = {name: snapshots.of(workload) for name, workload in workloads.items()}
    for position in range(max(map(len, listed.values()))):
        chosen = {n: w for n, w in workloads.items() if position < len(listed[n])}
        try:
            for name, workload in chosen.items():
                gone = listed[name][position]
                snapshots.keep(workload, (n for n in listed[name] if n != gone))
            outcomes, _, _ = replay(root, chosen)
        finally:
            snapshots.restore()
        yield ", ".join(f"{n} without {listed[n][position]}" for n in chosen), outcomes


def main() -> None:
    """Record, replay, print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workloads", nargs="*")
    parser.add_argument("--keep", default="all", choices=("all", "ends", "none", "each"))
    parser.add_argument("--each", action="store_true", help="ask for each iteration alone")
    parser.add_argument("--scans", action="store_true", help="print how each statement is had")
    options = parser.parse_args()
    every = [p.stem for p in sorted(WORKLOADS.glob("*.py")) if not p.stem.endswith("_lib")]
    with tempfile.TemporaryDirectory() as folder, Warm() as warm:
        os.environ |= {"FLORDB_EPSILON": "1000", "HOME": folder, "XDG_CACHE_HOME": folder + "/c"}
        root = Path(folder) / "project"
        workloads = build(root, options.workloads or every, warm)
        if options.keep == "each":
            for what, outcomes in one_by_one(root, workloads):
                _print(what, outcomes, options.scans)
            return
        snapshots = SnapshotFiles(root)
        for workload in workloads.values():
            names = snapshots.of(workload)
            kept = {"all": names, "ends": ends(names), "none": []}[options.keep]
            snapshots.keep(workload, kept)
        if not options.each:
            _print(options.keep, replay(root, workloads)[0], options.scans)
            return
        for index in range(6):
            _print(f"iteration {index}", replay(root, workloads, index)[0], options.scans)


def _print(what: str, outcomes: dict[str, Outcome], scans: bool) -> None:
    print(f"--- {what}")
    for name, outcome in outcomes.items():
        print(
            f"{name:10} {outcome.equal:4} equal {len(outcome.wrong):3} wrong "
            f"{len(outcome.lacking):3} lacking {len(outcome.refused):3} refused"
        )
        for wrong in outcome.wrong[:12]:
            print("    WRONG  ", *(str(part)[:70] for part in wrong))
        for key in outcome.lacking[:8]:
            print("    LACKING", key)
        for statement, reason in outcome.refused.items():
            print("    refused", statement, reason[:170].replace("\n", " | "))
        if scans:
            print("    scans  ", outcome.scans)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
