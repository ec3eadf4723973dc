"""Carries out a plan: workspaces, workers, replay files. What has been acquired is kept, whatever
happens to the rest.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flordb.errors import FlorWarning, GitError
from flordb.replay import workspace
from flordb.replay.plan import Plan, Refused, Task, Want, observed_lines
from flordb.replay.pool import Pool
from flordb.replay.task import Job
from flordb.settings import Settings
from flordb.store import history
from flordb.store.project import Project
from flordb.store.runfile import FORMAT, dump_line, read_run

_STDERR_LINES = 12


@dataclass(frozen=True)
class Progress:
    """How far a plan has come, in tasks and in estimated seconds."""

    done: int
    total: int
    seconds_done: float
    seconds_total: float
    label: str


@dataclass(frozen=True)
class Failure:
    want: Want
    names: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Report:
    """What came of a plan. ``acquired``: values; ``anomalies``: sentences for the user."""

    acquired: int
    failures: tuple[Failure, ...]
    anomalies: tuple[str, ...]


def execute(
    project: Project,
    plan: Plan,
    settings: Settings,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Run a plan's tasks, and write their values and outcomes as replay files.

    Parameters: ``progress``, called now and then. The next sync takes the files in. Ctrl-C stops
    all workers and keeps what is complete. Raises ReplayError where no worker can be had at all.
    """
    project.prepare()
    work = _Work(project, plan, settings, progress or _silent)
    for refused in plan.refusals:
        work.refuse(refused)
    try:
        if plan.tasks:
            work.run()
    finally:
        work.commit()
    return Report(work.acquired, tuple(work.failures), tuple(work.anomalies))


def _silent(progress: Progress) -> None:
    """Show nothing."""


class _Work:
    def __init__(
        self,
        project: Project,
        plan: Plan,
        settings: Settings,
        progress: Callable[[Progress], None],
    ) -> None:
        self.project = project
        self.plan = plan
        self.settings = settings
        self.progress = progress
        self.acquired = 0
        self.failures: list[Failure] = []
        self.anomalies: list[str] = []
        self.files: list[Path] = []

    def refuse(self, refused: Refused) -> None:
        self.failures.append(Failure(refused.want, refused.names, refused.reason))
        outcome = {"status": "refused", "reason": refused.reason, "seconds": 0.0}
        lines = [
            _outcome(name, refused.digests.get(name), refused.want, outcome)
            for name in refused.names
        ]
        self._write_file(refused.want, refused.names, "none", lines)

    def run(self) -> None:
        folder = Path(tempfile.mkdtemp(dir=self.project.temporary))
        try:
            with Pool(self.plan.imports, folder / "server.log") as pool:
                self._run(pool, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, pool: Pool, folder: Path) -> None:
        waiting = list(enumerate(self.plan.tasks))[::-1]
        rooms: dict[int, Path] = {}
        done: set[int] = set()
        try:
            while waiting or pool.running:
                while waiting and pool.running < self.plan.workers:
                    number, task = waiting.pop()
                    try:
                        version = task.want.version or ""
                        rooms[number] = workspace.create(self.project, version, task.patch.files)
                    except (GitError, OSError) as error:
                        self._failed(task, f"no workspace: {error}", [])
                        done.add(number)
                        continue
                    self._start(pool, folder, number, task, rooms[number])
                for ended in pool.wait():
                    self._finish(self.plan.tasks[ended.number], folder, ended.number, ended.why)
                    workspace.remove(rooms.pop(ended.number))
                    done.add(ended.number)
                self._show(pool, done)
        finally:
            for room in rooms.values():
                workspace.remove(room)

    def _start(self, pool: Pool, folder: Path, number: int, task: Task, place: Path) -> None:
        job = _job(self.project, task, place, folder / f"{number}.jsonl")
        job_file = folder / f"{number}.job"
        job.save(job_file)
        timeout = self.settings.task_timeout_seconds or 300 + 10 * task.seconds
        pool.submit(number, job_file, folder / f"{number}.log", timeout)

    def _show(self, pool: Pool, done: set[int]) -> None:
        tasks = self.plan.tasks
        seconds = sum(
            task.seconds if number in done else min(pool.elapsed(number), task.seconds)
            for number, task in enumerate(tasks)
        )
        total = sum(task.seconds for task in tasks)
        names = sorted({name for task in tasks for name in task.names})
        self.progress(Progress(len(done), len(tasks), seconds, total, ", ".join(names)))

    def _finish(self, task: Task, folder: Path, number: int, why: str | None) -> None:
        lines = _read_lines(folder / f"{number}.jsonl")
        end = next((line for line in lines if line["k"] == "done"), None)
        found = [line for line in lines if line["k"] != "done"]
        error = end["error"] if end is not None else why or "the worker ended without a word"
        said = _tail(folder / f"{number}.log") if end is None else ""
        anomalies = [line for line in found if line["k"] == "anomaly"]
        for line in anomalies[:3]:
            self.anomalies.append(
                f"{line['n']} at {line['at'] or 'the top level'} of the run of "
                f"{task.want.tstamp}: recorded {line['recorded']}, replayed {line['replayed']}"
            )
        if anomalies and task.exact_or_nothing:
            first = anomalies[0]
            error = (
                "without snapshots the run had to be repeated, and it came out differently: "
                f"{first['n']} at {first['at']} was {first['recorded']}, now {first['replayed']}"
            )
            found = [line for line in found if line["k"] != "log"]
        if error:
            self._failed(task, error + said, found)
        else:
            self._succeeded(task, found, float(end["s"]) if end else 0.0)

    def _succeeded(self, task: Task, lines: list[dict[str, Any]], seconds: float) -> None:
        for name in task.names:
            count = sum(1 for line in lines if line["k"] == "log" and line["n"] == name)
            self.acquired += count
            if count:
                outcome: dict[str, Any] = {"status": "acquired", "contexts": count}
            else:
                reason = "the statement did not run in this replay"
                outcome = {"status": "no value", "reason": reason}
                self.failures.append(Failure(task.want, (name,), reason))
            outcome = {**outcome, "seconds": seconds, "iterations": task.iterations}
            lines.append(_outcome(name, task.digests.get(name), task.want, outcome))
        self._write_file(task.want, task.names, task.scan, lines)

    def _failed(self, task: Task, reason: str, lines: list[dict[str, Any]]) -> None:
        self.failures.append(Failure(task.want, task.names, reason))
        # Values from before the failure are what the run would have logged; they are kept.
        self.acquired += sum(1 for line in lines if line["k"] == "log")
        outcome = {"status": "failed", "reason": reason, "iterations": task.iterations}
        for name in task.names:
            lines.append(_outcome(name, task.digests.get(name), task.want, outcome))
        self._write_file(task.want, task.names, task.scan, lines)

    def _write_file(
        self, want: Want, names: tuple[str, ...], scan: str, lines: list[dict[str, Any]]
    ) -> None:
        """Write a replay file whole, under its name only when it is complete."""
        base = want.file.partition(".jsonl")[0]
        path = self.project.runs / f"{base}.replay-{secrets.token_hex(4)}.jsonl"
        header = {
            "k": "replay",
            "flor": FORMAT,
            "projid": want.projid,
            "tstamp": f"{want.tstamp:%Y-%m-%dT%H:%M:%S.%f}Z",
            "filename": want.filename,
            "names": list(names),
            "scan": scan,
            "commit": want.version,
            "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
        }
        temporary = path.with_suffix(".part")
        temporary.write_text("".join(dump_line(line) for line in (header, *lines)))
        os.replace(temporary, path)
        self.files.append(path)

    def commit(self) -> None:
        """Put the replay files into git, beside the run files."""
        if not self.project.has_git:
            return
        try:
            files = {path.name: path.read_bytes() for path in self.files}
            history.commit_replays(self.project, files)
        except (GitError, OSError) as error:
            warnings.warn(
                f"flordb: the acquired values are stored, but not committed to git: {error}.",
                FlorWarning,
                stacklevel=2,
            )


def _outcome(
    name: str, digest: str | None, want: Want, fields: Mapping[str, Any]
) -> dict[str, Any]:
    return {"k": "outcome", "n": name, "statement": digest, "code": want.version, **fields}


def _job(project: Project, task: Task, place: Path, out: Path) -> Job:
    want = task.want
    header = read_run(project.runs / want.file).header
    return Job(
        run_file=str(project.runs / want.file),
        workspace=str(place),
        project=str(project.root),
        script=want.filename,
        cwd=str(header.get("cwd") or "."),
        argv=tuple(header.get("argv") or (want.filename,)),
        env={str(k): str(v) for k, v in (header.get("env") or {}).items()},
        names=task.names,
        steps=task.steps,
        needed=tuple(sorted(task.needed)),
        observed=observed_lines(task.patch.insertions),
        snapshots=str(project.snapshots / want.file.partition(".jsonl")[0]),
        objects=str(project.objects),
        out=str(out),
        exact_or_nothing=task.exact_or_nothing,
    )


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """A worker's lines; the last one may be cut off where it was killed."""
    try:
        text = path.read_text()
    except OSError:
        return []
    complete = text.rpartition("\n")[0]
    return [json.loads(line) for line in complete.splitlines()]


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return "\n  " + "\n  ".join(lines[-_STDERR_LINES:]) if lines else ""
