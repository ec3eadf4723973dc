"""From wanted values to a plan: which runs are replayed how, at what price, which are refused and
why. Planning reads files and git and changes nothing; what it shows is what is carried out.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from flordb.analysis.hidden import ONLY_LOOKS
from flordb.analysis.program import Program
from flordb.analysis.statements import LogStatement, statements_of
from flordb.errors import FlorError, GitError, ReplayError, RunFileError, SnapshotError
from flordb.replay import learnt, pool, schedule
from flordb.replay.checks import Tolerances
from flordb.replay.choices import chosen, mixed, read_choices
from flordb.replay.cost import Parts, executed, makespan, parts_of
from flordb.replay.depth import Depth, steps_for
from flordb.replay.environment import drift
from flordb.replay.propagate import Insertion, Matcher, Patch, Refusal, Site, merge
from flordb.replay.recorded import Recorded, recorded
from flordb.replay.task import Steps
from flordb.replay.want import Want
from flordb.settings import Settings
from flordb.store import history
from flordb.store.project import Project
from flordb.store.runfile import RunFile, read_run
from flordb.store.snapshots import Manifest, SnapshotStore


@dataclass(frozen=True)
class Task:
    """One replay. ``seconds``: its estimate; ``notes``: how and why, for the user; ``together``:
    whether other tasks run at the same time."""

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


@dataclass(frozen=True)
class Refused:
    """Values that cannot be had, and the reason for the user.

    ``choosable``: the version for which the user may choose a place with ``--at``, else ``""``.
    """

    want: Want
    names: tuple[str, ...]
    reason: str
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)
    choosable: str = ""


@dataclass(frozen=True)
class Plan:
    """What will be done. ``seconds``: until all of it is done, by ``workers`` at a time.

    ``start_seconds``: the part of it until the first worker can begin. ``money``: the price of the
    workers' hours, where the setting `price_per_device_hour` says what one costs.
    """

    tasks: tuple[Task, ...]
    refusals: tuple[Refused, ...]
    seconds: float
    workers: int
    imports: tuple[str, ...] = ()
    start_seconds: float = 0.0
    money: float | None = None


def make_plan(project: Project, wants: Sequence[Want], settings: Settings) -> Plan:
    """Decide how to get the wanted values. Has no side effects.

    Raises ReplayError where the settings cannot be used.
    """
    try:
        Tolerances.parse(settings.tolerance)
    except ValueError as error:
        raise ReplayError(f"tolerance = {settings.tolerance!r}: {error}") from error
    planner = _Planner(project, settings)
    tasks: list[Task] = []
    refusals: list[Refused] = []
    for want in wants:
        done, refused = planner.plan(want)
        tasks.extend(done)
        refusals.extend(refused)
    on_device = any(schedule.uses_device(planner.snapshots(task.want)) for task in tasks)
    workers = schedule.worker_count(settings, on_device)
    tasks = schedule.balance(tasks, workers, lambda task: task.seconds, planner.split)
    if min(len(tasks), workers) > 1:
        tasks = [replace(task, together=True, seconds=planner.price(task, True)) for task in tasks]
    start = 0.0 if pool.is_warm() else planner.start()
    seconds = start + makespan((task.seconds for task in tasks), workers) if tasks else 0.0
    imports = tuple(sorted(planner.imports))
    hours = sum(task.seconds for task in tasks) / 3600
    money = hours * settings.price_per_device_hour if settings.price_per_device_hour else None
    return Plan(tuple(tasks), tuple(refusals), seconds, workers, imports, start, money)


class _Planner:
    """Plans runs one by one; what they share (sources, patches) is worked out once."""

    def __init__(self, project: Project, settings: Settings) -> None:
        self.project = project
        self.settings = settings
        self.learnt = learnt.load(project.store)
        self.starts: dict[str, float] = {}
        self.imports: set[str] = set()
        self._newest: dict[str, str] | None = None
        self._statements: dict[str, tuple[LogStatement, ...]] = {}
        self._old: dict[str, dict[str, str]] = {}
        self._matchers: dict[tuple[str, str], Matcher] = {}
        self._patches: dict[tuple[str, str, str], Patch | Refusal] = {}
        self._choices = read_choices(project)
        self._records: dict[str, Recorded] = {}

    def plan(self, want: Want) -> tuple[list[Task], list[Refused]]:
        digests = {s.name: s.digest for s in self.statements(want.filename) if s.name in want.names}
        try:
            return self._plan(want, digests)
        except (FlorError, OSError) as error:
            return [], [Refused(want, want.names, str(error), digests)]

    def _plan(self, want: Want, digests: Mapping[str, str]) -> tuple[list[Task], list[Refused]]:
        record = self.record(want)
        if record.version is None:
            raise ReplayError(f"the run has no version: {record.version_why or 'none recorded'}")
        refused: list[Refused] = []
        placed: dict[str, Patch] = {}
        for name in want.names:
            patch = self._patch(want, record.version, name)
            if isinstance(patch, Refusal):
                own = chosen(self._choices, name, self.old(record.version))
                choosable = "" if own or not self._logged(want, name) else record.version
                refused.append(Refused(want, (name,), patch.reason, digests, choosable))
            else:
                placed[name] = patch
        tasks = []
        for names, depth, patch in self._group(want, record, placed, refused, digests):
            tasks.append(self._task(want, record, names, depth, patch, digests))
        return tasks, refused

    def _patch(self, want: Want, version: str, name: str) -> Patch | Refusal:
        found = self._logged(want, name)
        if not found:
            return Refusal(
                f"no statement that {want.filename} reaches logs {name!r} in the working tree"
            )
        old = self.old(version)
        if want.filename not in old:
            raise ReplayError(f"the version {version[:10]} has no {want.filename}")
        self.imports |= third_party(Program(old, want.filename), old)
        key = (version, want.filename, name)
        if key not in self._patches:
            self._patches[key] = self._placed(want.filename, version, name, found)
        return self._patches[key]

    def _logged(self, want: Want, name: str) -> list[LogStatement]:
        """The statements of today's code that log a name."""
        return [s for s in self.statements(want.filename) if s.name == name]

    def _placed(
        self, script: str, version: str, name: str, statements: Sequence[LogStatement]
    ) -> Patch | Refusal:
        """The statements that log a name, in a version: those of them that have a place there."""
        old = self.old(version)
        matcher = self._matchers.get((version, script))
        if matcher is None:
            matcher = Matcher(_modules(old, script), _modules(self.newest(), script))
            self._matchers[version, script] = matcher
        at = chosen(self._choices, name, old)
        answers = [matcher.propagate(Site(s.file, s.lineno), at=at) for s in statements]
        placed = [answer for answer in answers if isinstance(answer, Patch)]
        if not placed:
            return next(answer for answer in answers if isinstance(answer, Refusal))
        return placed[0] if len(placed) == 1 else merge(old, placed)

    def _group(
        self,
        want: Want,
        record: Recorded,
        placed: Mapping[str, Patch],
        refused: list[Refused],
        digests: Mapping[str, str],
    ) -> list[tuple[tuple[str, ...], Depth, Patch]]:
        """Statements that need the same steps share a replay."""
        old = self.old(record.version or "")
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
            groups.setdefault(depth.steps, []).append((name, depth))
        found = []
        for steps, members in groups.items():
            names = tuple(name for name, _ in members)
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
        self.starts[want.file] = record.start + record.imports
        want = replace(want, version=record.version)
        boundaries = self.snapshots(want).boundaries()
        alone = not boundaries
        if alone and steps.loops:
            # Nothing to restore: the whole run again, believed only where it equals the record.
            steps = steps.wholly()
        rates = self.learnt.rates(want.filename, steps.scan, False)
        parts = parts_of(steps, record, boundaries, len(names))
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
        )

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

        def parts_for(part: tuple[int, ...]) -> Parts:
            own = replace(steps, iterations=part)
            return parts_of(own, record, boundaries, len(task.names))

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

    def start(self) -> float:
        """Seconds until a server has imported the libraries: at most what the runs took to."""
        if self.learnt.start is not None:
            return self.learnt.start
        return max(self.starts.values(), default=0.0)

    def price(self, task: Task, together: bool) -> float:
        """Seconds of a task, while other workers are at work or not."""
        return task.parts.seconds(self.learnt.rates(task.want.filename, task.scan, together))

    def statements(self, script: str) -> tuple[LogStatement, ...]:
        if script not in self._statements:
            self._statements[script] = mixed(statements_of(self.newest(), script), self._choices)
        return self._statements[script]

    def newest(self) -> dict[str, str]:
        if self._newest is None:
            try:
                self._newest = history.working_sources(self.project.root)
            except GitError:
                self._newest = {}
        return self._newest

    def old(self, version: str) -> dict[str, str]:
        if version not in self._old:
            self._old[version] = history.read_sources(self.project.root, version)
        return self._old[version]

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


def _modules(sources: Mapping[str, str], script: str) -> dict[str, str]:
    """The texts of the modules that a script imports from the project, and its own."""
    program = Program(sources, script)
    return {path: sources[path] for path in (*program.modules, *program.broken)}


def third_party(program: Program, sources: Mapping[str, str]) -> set[str]:
    """The modules that a program imports and that are not the project's own."""
    found: set[str] = set()
    for module in program.modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                # What is imported from a package may be a module of it.
                found.add(node.module)
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = {Path(path).stem for path in sources} | {Path(path).parts[0] for path in sources}
    return {name for name in found if name.partition(".")[0] not in (*own, "__future__")}


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
        if any(_called(call) not in ("log", "item", *ONLY_LOOKS) for call in calls):
            return True
    return False


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


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
        "refusals": [
            {
                "tstamp": refused.want.tstamp.isoformat(),
                "filename": refused.want.filename,
                "names": list(refused.names),
                "reason": refused.reason,
                "choosable": refused.choosable or None,
            }
            for refused in plan.refusals
        ],
    }
