"""Acquire values in a sandbox through the replay room's public functions."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from flordb.replay.execute import Report, execute
from flordb.replay.plan import Plan, Want, make_plan
from flordb.replay.recorded import recorded
from flordb.settings import load
from flordb.store.runfile import read_run

WORKLOADS = Path(__file__).parent / "workloads"
TRUTH = re.compile(r'^(\s*)flor\.log\("truth:(\w+)", (.*)\)$', re.MULTILINE)


def with_hindsight(text: str) -> str:
    """The script with a hindsight statement after each statement that logs a truth."""
    return TRUTH.sub(r'\g<0>\n\1flor.log("h:\2", \3)', text)


def truths(text: str) -> list[str]:
    return [name for _, name, _ in TRUTH.findall(text)]


def plan(
    sandbox, names: list[str], iterations: tuple[int, ...] | None = None, number: int = -1
) -> Plan:
    path = sandbox.run_files()[number]
    header = read_run(path).header
    moment = datetime.fromisoformat(header["tstamp"]).replace(tzinfo=None)
    want = Want(
        1, header["projid"], moment, header["filename"], path.name, None, tuple(names), iterations
    )
    return make_plan(sandbox.project, [want], load(sandbox.root))


def acquire(
    sandbox, names: list[str], iterations: tuple[int, ...] | None = None, number: int = -1
) -> tuple[dict[tuple[str, str], list[Any]], Plan, Report]:
    """Values by (context path, name), the plan, and the report."""
    before = set(sandbox.project.runs.iterdir())
    chosen = plan(sandbox, names, iterations, number)
    report = execute(sandbox.project, chosen, load(sandbox.root))
    values: dict[tuple[str, str], list[Any]] = {}
    for path in sorted(set(sandbox.project.runs.iterdir()) - before):
        for key, found in recorded(read_run(path)).values.items():
            values.setdefault(key, []).extend(found)
    # The parts of a run that is replayed by several workers come in any order.
    return dict(sorted(values.items())), chosen, report


def recorded_truths(sandbox, name: str, number: int = -1) -> dict[tuple[str, str], list[Any]]:
    """What the run logged as a truth, keyed as its hindsight twin will be."""
    found = recorded(read_run(sandbox.run_files()[number])).values
    return {(path, f"h:{name}"): v for (path, n), v in found.items() if n == f"truth:{name}"}


def install(sandbox, workload: str) -> list[str]:
    """Record a workload, then add its hindsight statements. Returns the names of the truths."""
    names = []
    files = [f"{workload}.py", f"{workload}_lib.py"]
    texts = {f: (WORKLOADS / f).read_text() for f in files if (WORKLOADS / f).exists()}
    for file, text in texts.items():
        sandbox.write(file, text)
    sandbox.commit()
    sandbox.run(f"{workload}.py")
    for file, text in texts.items():
        sandbox.write(file, with_hindsight(text))
        names += truths(text)
    return names


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, for as long as a slow machine may need."""
    deadline = time.time() + 30
    while not condition():
        assert time.time() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
