"""From wanted values to a plan: which runs are replayed how, at what price, which are refused and
why. Planning reads files and git and changes nothing; what it shows is what is carried out.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from flordb.analysis.hidden import ONLY_LOOKS
from flordb.analysis.program import Program
from flordb.errors import FlorError, ReplayError, RunFileError, SnapshotError
from flordb.replay import learnt, schedule
from flordb.replay.born import asks_for_files, at_work
from flordb.replay.checks import Tolerances
from flordb.replay.cost import Parts, executed, makespan, parts_of
from flordb.replay.depth import Depth, steps_for
from flordb.replay.environment import drift
from flordb.replay.lacking import Tried
from flordb.replay.loading import Loading
from flordb.replay.placing import Placing, third_party
from flordb.replay.propagate import Insertion, Patch, Refusal, merge
from flordb.replay.propagate.effects import last_name
from flordb.replay.recorded import Recorded, recorded
from flordb.replay.starting import start_seconds
from flordb.replay.task import Steps
from flordb.replay.want import Want
from flordb.settings import Settings
from flordb.store import history
from flordb.store.ignored import mark_of
from flordb.store.project import Project
from flordb.store.runfile import RunFile, read_run
from flordb.store.snapshots import Manifest, SnapshotStore


@dataclass(frozen=True)
class Task:
    """One replay. ``seconds``: its estimate; ``notes``: how and why, for the user; ``together``:
    whether other tasks run at the same time; ``at_work``: when the run was (seconds since 1970);
    ``asks``: whether its script may ask for files; ``older``: files that it rewrote or removed."""

    want: Want
    names: tuple[str, ...]
    scan: str
    iterations: tuple[int, ...] | None
    seconds: float
    notes: tuple[str, ...]
    steps: Steps = field(repr=False)
    needed: frozenset[str] = field(repr=False)
    patch: Patch = field(repr=False)
    digests: Mapping[str, str] = field(repr=False)
    exact_or_nothing: bool = False
    tolerance: str = field(default="", repr=False)
    parts: Parts = field(default=Parts(0.0), repr=False)
    together: bool = field(default=False, repr=False)
    at_work: tuple[float, float] = field(default=(float("inf"), float("inf")), repr=False)
    asks: bool = field(default=False, repr=False)
    older: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Refused:
    """Values that cannot be had, and the reason for the user.

    ``choosable``: the version for which the user may choose a place with ``--at``, else ``""``.
    ``iterations``: of the top-level loop, where only these cannot be had (None: all wanted ones).
    """

    want: Want
    names: tuple[str, ...]
    reason: str
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)
    choosable: str = ""
    iterations: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Plan:
    """What will be done. ``seconds``: until all of it is done, by ``workers`` at a time.

    ``start_seconds``: the part of it until the first worker can begin. ``money``: the price of the
    workers' hours, where the setting `price_per_device_hour` says what one costs. ``tried``: what
    earlier replays did not give, and this plan does not try again.
    """

    tasks: tuple[Task, ...]
    refusals: tuple[Refused, ...]
    seconds: float
    workers: int
    imports: tuple[str, ...] = ()
    start_seconds: float = 0.0
    money: float | None = None
    tried: tuple[Tried, ...] = ()


def make_plan(project: Project, wants: Sequence[Want], settings: Settings) -> Plan:
    """Decide how to get the wanted values. Has no side effects.

    Raises ReplayError where the settings cannot be used.
    """
    try:
        Tolerances.parse(settings.tolerance)
    except ValueError as error:
        raise ReplayError(f"tolerance = {settings.tolerance!r}: {error}") from error
    planner = _Planner(project, settings)
    planner.read_ahead(wants)
    tasks: list[Task] = []
    refusals: list[Refused] = []
    for want in wants:
        done, refused = planner.plan(want)
        tasks.extend(done)
        refusals.extend(refused)
    on_device = any(schedule.uses_device(planner.snapshots(task.want)) for task in tasks)
    busy = max((planner.record(task.want).cores for task in tasks), default=1.0)
    workers = schedule.worker_count(settings, on_device, busy)
    tasks = schedule.balance(tasks, workers, lambda task: task.seconds, planner.split)
    if min(len(tasks), workers) > 1:
        tasks = [replace(task, together=True, seconds=planner.price(task, True)) for task in tasks]
    records = {task.want.file: planner.record(task.want) for task in tasks}
    start = start_seconds(records.values(), tuple(planner.imports), planner.learnt)
    seconds = start + makespan((task.seconds for task in tasks), workers) if tasks else 0.0
    imports = tuple(sorted(planner.imports))
    hours = sum(task.seconds for task in tasks) / 3600
    money = hours * settings.price_per_device_hour if settings.price_per_device_hour else None
    return Plan(tuple(tasks), tuple(refusals), seconds, workers, imports, start, money)


class _Planner:
    """Plans runs one by one."""

    def __init__(self, project: Project, settings: Settings) -> None:
        self.project = project
        self.settings = settings
        self.learnt = learnt.load(project.store)
        self.imports: set[str] = set()
        self.placing = Placing(project)
        self._imports_of: set[tuple[str, str]] = set()
        self._records: dict[str, Recorded] = {}
        self._loading: dict[str, Loading] = {}
        self._asking: dict[tuple[str, str], bool] = {}

    def read_ahead(self, wants: Sequence[Want]) -> None:
        """Read the versions of all runs at once. What cannot be read is refused by `plan`."""
        versions = []
        for want in wants:
            with suppress(FlorError, OSError):
                versions.append(self.record(want).version)
        with suppress(FlorError, OSError):
            self.placing.read_ahead(version for version in versions if version is not None)

    def plan(self, want: Want) -> tuple[list[Task], list[Refused]]:
        statements = self.placing.statements(want.filename)
        digests = {name: s.digest for name in want.names for s in statements if s.logs(name)}
        try:
            return self._plan(want, digests)
        except (FlorError, OSError) as error:
            return [], [Refused(want, want.names, str(error), digests)]

    def _plan(self, want: Want, digests: Mapping[str, str]) -> tuple[list[Task], list[Refused]]:
        record = self.record(want)
        if record.version is None:
            raise ReplayError(f"the run has no version: {record.version_why or 'none recorded'}")
        self._note_imports(record.version, want.filename)
        refused: list[Refused] = []
        placed: dict[str, Patch] = {}
        for name in want.names:
            patch = self.placing.patch(want.filename, record.version, name)
            if isinstance(patch, Refusal):
                may_choose = self.placing.may_choose(want.filename, record.version, name)
                choosable = record.version if may_choose else ""
                refused.append(Refused(want, (name,), patch.reason, digests, choosable))
            else:
                placed[name] = patch
        tasks = []
        for names, depth, patch in self._group(want, record, placed, refused, digests):
            tasks.append(self._task(want, record, names, depth, patch, digests))
            refused += [
                Refused(want, names, why, digests, iterations=(index,))
                for index, why in _cut_short(record, depth.steps)
            ]
        return tasks, refused

    def _note_imports(self, version: str, script: str) -> None:
        if (version, script) not in self._imports_of:
            self._imports_of.add((version, script))
            program = self.placing.program(version, script)
            self.imports |= third_party(program, self.placing.old(version))

    def _group(
        self,
        want: Want,
        record: Recorded,
        placed: Mapping[str, Patch],
        refused: list[Refused],
        digests: Mapping[str, str],
    ) -> list[tuple[tuple[str, ...], Depth, Patch]]:
        """Statements that need the same iterations share a replay.

        One that runs nested loops, of which the others would load the effects, gives theirs too.
        """
        old = self.placing.old(record.version or "")
        snapshots = self.manifests(want)
        groups: dict[Steps, list[tuple[str, Depth]]] = {}
        for name, patch in placed.items():
            program = Program({**old, **patch.files}, want.filename)
            if program.broken:
                reason = "; ".join(program.broken.values())
                refused.append(Refused(want, (name,), reason, digests))
                continue
            try:
                depth = steps_for(program, patch.insertions, record, want.iterations, snapshots)
            except ReplayError as error:
                refused.append(Refused(want, (name,), str(error), digests))
                continue
            shared = replace(depth.steps, scan="", run_nested=())
            groups.setdefault(shared, []).append((name, depth))
        found = []
        for members in groups.values():
            names = tuple(name for name, _ in members)
            steps = _together([depth.steps for _, depth in members])
            needed = frozenset[str]().union(*(depth.needed for _, depth in members))
            why = tuple(dict.fromkeys(text for _, depth in members for text in depth.why))
            patch = placed[names[0]]
            if len(names) > 1:
                patch = merge(old, [placed[name] for name in names])
            found.append((names, Depth(steps, needed, why), patch))
        return found

    def _task(
        self,
        want: Want,
        record: Recorded,
        names: tuple[str, ...],
        depth: Depth,
        patch: Patch,
        digests: Mapping[str, str],
    ) -> Task:
        steps = depth.steps
        want = replace(want, version=record.version)
        boundaries = self.snapshots(want).boundaries()
        alone = not boundaries
        if alone and steps.loops:
            # Nothing to restore: the whole run again, believed only where it equals the record.
            steps = steps.wholly()
        rates = self.learnt.rates(want.filename, steps.scan, False)
        parts = parts_of(steps, record, boundaries, self.loading(want), len(names))
        seconds = parts.seconds(rates)
        notes = (*patch.notes, *_notes(steps, record, boundaries), *depth.why)
        if computes(patch):
            notes = (*notes, "the time that the statement itself takes is not known")
        if changed := drift(record.header):
            notes = (*notes, f"packages differ from the run's: {'; '.join(changed)}")
        iterations = steps.iterations
        return Task(
            *(want, names, steps.scan, iterations, seconds, notes, steps),
            *(depth.needed, patch, digests),
            exact_or_nothing=alone,
            tolerance=self.settings.tolerance,
            parts=parts,
            at_work=at_work(self.project.runs / want.file, record),
            asks=self.asks(want, record),
            older=self.older(record),
        )

    def asks(self, want: Want, record: Recorded) -> bool:
        """Whether the script of a run may ask whether files exist."""
        key = (record.version or "", want.filename)
        if key not in self._asking:  # runs share versions
            self._asking[key] = asks_for_files(self.placing.program(*key))
        return self._asking[key]

    def older(self, record: Recorded) -> tuple[str, ...]:
        """The files of which the run found others than are there now."""
        marks = record.rewritten.items()
        return tuple(n for n, mark in marks if mark_of(self.project.root / n) != mark)

    def split(self, task: Task, parts: int) -> list[Task]:
        """A task in ranges of iterations that can run side by side, where that helps."""
        steps = task.steps
        if parts < 2 or len(steps.loops) != 1 or steps.from_start or steps.go_on:
            return [task]
        record = self.record(task.want)
        boundaries = self.snapshots(task.want).boundaries()
        known = sorted({i for loop in record.entries(steps.loops[0]) for i in loop.reached})
        wanted = known if steps.iterations is None else [i for i in known if i in steps.iterations]
        if not wanted:
            return [task]
        rates = self.learnt.rates(task.want.filename, steps.scan, True)
        loading = self.loading(task.want)

        def parts_for(part: tuple[int, ...]) -> Parts:
            own = replace(steps, iterations=part)
            return parts_of(own, record, boundaries, loading, len(task.names))

        def cost(part: tuple[int, ...]) -> float:
            return parts_for(part).seconds(rates)

        found = []
        for part in schedule.parts(wanted, parts, cost):
            own = replace(steps, iterations=part)
            was, now = (_notes(each, record, boundaries) for each in (steps, own))
            said = dict(zip(was, now, strict=False))
            notes = tuple(said.get(note, note) for note in task.notes)
            smaller = replace(task, steps=own, iterations=part, notes=notes, seconds=cost(part))
            found.append(replace(smaller, parts=parts_for(part)))
        return found or [task]

    def price(self, task: Task, together: bool) -> float:
        """Seconds of a task, while other workers are at work or not."""
        return task.parts.seconds(self.learnt.rates(task.want.filename, task.scan, together))

    def record(self, want: Want) -> Recorded:
        if want.file not in self._records:
            record = self._records[want.file] = recorded(self.run_file(want))
            if record.version is None and record.version_why is None and self.project.has_git:
                record.version = history.version_of(self.project.root, want.file)
        return self._records[want.file]

    def run_file(self, want: Want) -> RunFile:
        path = self.project.runs / want.file
        try:
            return read_run(path)
        except OSError as error:
            raise RunFileError(f"the run file {path} cannot be read: {error}") from error

    def snapshots(self, want: Want) -> SnapshotStore:
        return snapshots_of(self.project, want.file)

    def loading(self, want: Want) -> Loading:
        """What loading the run's snapshots takes."""
        if want.file not in self._loading:
            boundaries = self.snapshots(want).boundaries()
            self._loading[want.file] = Loading(boundaries, self.manifests(want))
        return self._loading[want.file]

    def manifests(self, want: Want) -> Callable[[str], Manifest | None]:
        store = self.snapshots(want)

        @cache
        def manifest(boundary: str) -> Manifest | None:
            try:
                return store.load(boundary)
            except SnapshotError:
                return None

        return manifest


def snapshots_of(project: Project, run_file: str) -> SnapshotStore:
    """The snapshots of the run with this run file."""
    return SnapshotStore(project.snapshots / run_file.partition(".jsonl")[0])


def _cut_short(record: Recorded, steps: Steps) -> Iterator[tuple[int, str]]:
    """The wanted iterations that an exception ended which the script caught, and why they are not
    had: whether it comes again, and where, is not known before values have been logged."""
    for loop in (loop for name in steps.loops for loop in record.entries(name)):
        left = loop.begun - set(loop.reached)
        if loop.end == "raised" and record.ended and not record.error:
            for index in sorted(left):
                if steps.iterations is None or index in steps.iterations:
                    yield index, f"an exception ended the iteration {index} of {loop.name!r}"


def _together(steps: Sequence[Steps]) -> Steps:
    """Steps that differ only in the nested loops that they run, as one replay."""
    nested = sorted({name for each in steps for name in each.run_nested})
    scan = next((each.scan for each in steps if each.scan == "range"), steps[0].scan)
    return replace(steps[0], scan=scan, run_nested=tuple(nested))


def _notes(steps: Steps, record: Recorded, boundaries: set[str]) -> tuple[str, ...]:
    notes = []
    for name in steps.loops:
        entries = record.entries(name)
        run = sum(len(executed(steps, loop, boundaries)) for loop in entries)
        notes.append(f"{run} of {sum(len(e.reached) for e in entries)} iterations of {name!r}")
    if steps.run_nested:
        notes.append(f"runs the nested loop {', '.join(steps.run_nested)}")
    if steps.from_start:
        notes.append("from the first iteration on")
    return tuple(notes)


def computes(patch: Patch) -> bool:
    """Whether the inserted code calls more than `flor.log` and what only looks at a value."""
    for insertion in patch.insertions:
        if insertion.kind in ("opening", "closing"):
            continue  # round what the run computed itself
        lines = patch.files[insertion.file].splitlines()[insertion.first - 1 : insertion.last]
        try:
            tree = ast.parse(textwrap.dedent("\n".join(lines)))
        except SyntaxError:
            return True  # a part of a statement
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        if any(last_name(call) not in ("log", "item", *ONLY_LOOKS) for call in calls):
            return True
    return False


def observed_lines(insertions: Sequence[Insertion]) -> dict[str, list[tuple[int, int]]]:
    """The line ranges of inserted statements by file."""
    found: dict[str, list[tuple[int, int]]] = {}
    for insertion in insertions:
        if insertion.kind == "statement":
            found.setdefault(insertion.file, []).append((insertion.first, insertion.last))
    return found


def as_json(plan: Plan) -> dict[str, Any]:
    """A plan as plain data, for ``flordb plan --json``."""
    return {
        "seconds": round(plan.seconds, 3),
        "start_seconds": round(plan.start_seconds, 3),
        "money": None if plan.money is None else round(plan.money, 4),
        "workers": plan.workers,
        "tasks": [
            {
                "tstamp": task.want.tstamp.isoformat(),
                "filename": task.want.filename,
                "names": list(task.names),
                "scan": task.scan,
                "iterations": list(task.iterations) if task.iterations is not None else None,
                "seconds": round(task.seconds, 3),
                "notes": list(task.notes),
            }
            for task in plan.tasks
        ],
        "refusals": [_plain(refused) for refused in plan.refusals],
        "tried": [_plain(tried) for tried in plan.tried],
    }


def _plain(lacking: Refused | Tried) -> dict[str, Any]:
    return {
        "tstamp": lacking.want.tstamp.isoformat(),
        "filename": lacking.want.filename,
        "names": list(lacking.names),
        "reason": lacking.reason,
        "choosable": lacking.choosable or None,
    }
