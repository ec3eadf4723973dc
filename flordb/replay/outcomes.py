"""What comes of replays: values, anomalies and reasons, written as replay files beside the run
files, of which the next sync takes them in.
"""

from __future__ import annotations

import secrets
import time
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import flordb
from flordb.errors import GitError, ReplayError, warn_in_training
from flordb.replay.checks import doubtful
from flordb.replay.lacking import how_to_choose
from flordb.replay.plan import Refused, Task, snapshots_of
from flordb.replay.want import Want
from flordb.store import history
from flordb.store.encoding import dump_line
from flordb.store.objects import ObjectStore
from flordb.store.project import Project
from flordb.store.runfile import FORMAT
from flordb.store.sources import read_sources
from flordb.store.whole import write_whole

Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """What a worker left behind. ``why``: it did not get to its end; ``said``: its last words."""

    number: int
    lines: Lines
    why: str | None = None
    said: str = ""


@dataclass(frozen=True)
class Failure:
    """Values that did not come, and why. ``choosable``: as in `replay.plan.Refused`."""

    want: Want
    names: tuple[str, ...]
    reason: str
    choosable: str = ""


@dataclass(frozen=True)
class Report:
    """What came of a plan. ``acquired``: values; ``anomalies``: sentences for the user;
    ``inputs``: files that replays read and that were written after the run, with that run's start.
    """

    acquired: int
    failures: tuple[Failure, ...]
    anomalies: tuple[str, ...]
    inputs: tuple[tuple[str, datetime], ...] = ()


class Outcomes:
    """Takes the results of a plan's tasks and writes a replay file for each."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.acquired = 0
        self.failures: list[Failure] = []
        self.anomalies: list[str] = []
        self.inputs: list[tuple[str, datetime]] = []
        self.files: list[Path] = []

    def report(self) -> Report:
        found = tuple(self.failures), tuple(self.anomalies), tuple(self.inputs)
        return Report(self.acquired, *found)

    def refuse(self, refused: Refused) -> None:
        """Keep why a plan has no task for these values."""
        failure = Failure(refused.want, refused.names, refused.reason, refused.choosable)
        self.failures.append(failure)
        reason = refused.reason + how_to_choose(refused.names, [refused.choosable])
        outcome: dict[str, Any] = {"status": "refused", "reason": reason, "seconds": 0.0}
        if refused.iterations is not None:
            outcome["iterations"] = refused.iterations
        lines = [
            _outcome(name, refused.digests.get(name), refused.want, outcome)
            for name in refused.names
        ]
        self._write_file(refused.want, refused.names, "none", lines)

    def take(self, task: Task, result: Result) -> None:
        """Keep what a task gave, or why it failed."""
        end = next((line for line in result.lines if line["k"] == "done"), None)
        found = [line for line in result.lines if line["k"] != "done"]
        error = result.why or "the worker ended without a word"
        if end is not None:
            error = end["error"]
            ObjectStore(self.project.objects).renew(end["objects"])
        anomalies = [line for line in found if line["k"] == "anomaly"]
        for line in anomalies[:3]:
            self.anomalies.append(
                f"{line['n']} at {line['at'] or 'the top level'} of the run of "
                f"{task.want.tstamp}: recorded {line['recorded']}, replayed {line['replayed']}"
            )
        void = self._void(task, anomalies)
        found = [line for line in found if line["k"] != "log" or line["n"] not in void]
        if error and end is not None and (end["passing"] or self._mend(task, end)):
            again = f"{error}. It is tried again when it is asked for again"
            self.failures.append(Failure(task.want, task.names, again))
            if not void:
                self.take_stopped(task, result)
        elif error:
            self._failed(task, error + result.said, found)
        else:
            changed = sorted(end["changed"]) if end is not None else []
            self.inputs += [(path, task.want.tstamp) for path in changed]
            seconds = float(end["s"]) if end is not None else 0.0
            self._succeeded(task, found, seconds, void, changed)

    def _mend(self, task: Task, end: Mapping[str, Any]) -> bool:
        """Remove snapshots that turned out to be damaged. Returns whether the task failed by them,
        or by storage that could not be reached, so that the same task may not fail again."""
        snapshots = snapshots_of(self.project, task.want.file)
        objects = ObjectStore(self.project.objects)
        suspects = set(end["unread"])
        mended = [snapshots.mend(boundary, objects, suspects) for boundary in end["unusable"]]
        return bool(mended) and all(mended)

    def _void(self, task: Task, anomalies: Lines) -> dict[str, str]:
        """The names that get no value because the replay came out differently, with the reasons."""
        if not anomalies:
            return {}
        first: dict[str, dict[str, Any]] = {line["n"]: line for line in reversed(anomalies)}
        doubts: dict[str, str]
        if task.exact_or_nothing:
            doubts = dict.fromkeys(task.names, str(anomalies[0]["n"]))
            how = "without snapshots the run had to be repeated, and it came out differently"
        else:
            old = read_sources(self.project.root, task.want.version or "")
            doubts = doubtful({**old, **task.patch.files}, task.want.filename, task.names, first)
            how = "the replay came out differently from the run, in what the value may depend on"
        return {name: f"{how}: {_difference(first[column])}" for name, column in doubts.items()}

    def take_stopped(self, task: Task, result: Result) -> None:
        """Keep the iterations that a replay had completed when it was stopped from outside, or by
        a snapshot that could not be read."""
        if task.exact_or_nothing or len(task.steps.loops) != 1 or task.steps.go_on:
            return
        done, lines = _completed(result.lines)
        if not done:
            return
        self.acquired += sum(1 for line in lines if line["k"] == "log")
        outcome = {"status": "acquired", "iterations": done}
        for name in task.names:
            lines.append(_outcome(name, task.digests.get(name), task.want, outcome))
        self._write_file(task.want, task.names, task.scan, lines)

    def _succeeded(
        self,
        task: Task,
        lines: Lines,
        seconds: float,
        void: Mapping[str, str],
        changed: Sequence[str],
    ) -> None:
        for name in task.names:
            count = sum(1 for line in lines if line["k"] == "log" and line["n"] == name)
            self.acquired += count
            outcome: dict[str, Any]
            if name in void:
                outcome = {"status": "failed", "reason": void[name]}
                self.failures.append(Failure(task.want, (name,), void[name]))
            elif count:
                outcome = {"status": "acquired", "contexts": count}
                if changed:
                    outcome["reason"] = f"read as it is now: {', '.join(changed)}"
            else:
                reason = "the statement did not run in this replay"
                outcome = {"status": "no value", "reason": reason}
                self.failures.append(Failure(task.want, (name,), reason))
            outcome = {**outcome, "seconds": seconds, "iterations": task.iterations}
            lines.append(_outcome(name, task.digests.get(name), task.want, outcome))
        self._write_file(task.want, task.names, task.scan, lines)

    def _failed(self, task: Task, reason: str, lines: Lines) -> None:
        self.failures.append(Failure(task.want, task.names, reason))
        # Values from before the failure are what the run would have logged; they are kept.
        self.acquired += sum(1 for line in lines if line["k"] == "log")
        outcome = {"status": "failed", "reason": reason, "iterations": task.iterations}
        for name in task.names:
            lines.append(_outcome(name, task.digests.get(name), task.want, outcome))
        self._write_file(task.want, task.names, task.scan, lines)

    def _write_file(
        self, want: Want, names: Sequence[str], scan: str, lines: Sequence[dict[str, Any]]
    ) -> None:
        """Write a replay file, and the arrays that it refers to. Raises ReplayError."""
        base = want.file.partition(".jsonl")[0]
        # Later ones come later in order, also after those of earlier versions of flordb (eight hex
        # digits): a file before those that are there means that all of the run is taken in anew.
        token = f"t{time.time_ns() // 1000:014x}{secrets.token_hex(2)}"
        path = self.project.runs / f"{base}.replay-{token}.jsonl"
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
        kept = [line for line in lines if line["k"] != "object"]
        try:
            values = ObjectStore(self.project.values)
            for line in lines:
                if line["k"] == "object":
                    values.put(line["n"], b64decode(line["data"]))
            write_whole(path, "".join(map(dump_line, (header, *kept))).encode())
        except OSError as error:
            raise ReplayError(
                f"what a replay gave cannot be kept: {error}. Make room or make the folder "
                "writable, and ask again: what was kept until now is not replayed again"
            ) from error
        self.files.append(path)

    def commit(self) -> None:
        """Put the replay files into git, beside the run files."""
        if not self.project.has_git or not self.files:
            return
        try:
            files = {path.name: path.read_bytes() for path in self.files}
            history.commit_replays(self.project, files)
        except (GitError, OSError) as error:
            warn_in_training(f"the acquired values are stored, but not committed to git: {error}.")


def _difference(anomaly: Mapping[str, Any]) -> str:
    place = anomaly["at"] or "the top level"
    return f"{anomaly['n']} at {place} was {anomaly['recorded']}, now {anomaly['replayed']}"


def _outcome(
    name: str, digest: str | None, want: Want, fields: Mapping[str, Any]
) -> dict[str, Any]:
    line = {"k": "outcome", "n": name, "statement": digest, "code": want.version}
    return {**line, "flordb": flordb.__version__, **fields}


def _completed(lines: Lines) -> tuple[list[int], Lines]:
    """The top-level iterations that were left behind, as another came, and the lines of these."""
    top: dict[int, int] = {}
    for line in lines:
        if line["k"] == "ctx":
            parent = line.get("p", 0)
            top[line["c"]] = line["i"] if parent == 0 else top[parent]
    last = max(top.values(), default=0)
    kept = [line for line in lines if top.get(line.get("c", 0), last) < last]
    values = {top[line["c"]] for line in kept if line["k"] == "log"}
    return sorted(values), kept
