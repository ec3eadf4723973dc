"""A plan's tasks on a Ray cluster (``--on ray``): the same tasks, versions and snapshots, without a
disk that the machines share.

Versions travel in a git bundle, run files and snapshots through Ray's object store; each Ray worker
keeps what it has received in a folder of its own, and replays there as on any machine
(`replay.local`). Which task runs where and when is Ray's business. The machines need flordb and
what the scripts import; untracked files of the project do not travel. A script that looks for files
finds the names of those that the run found; reading one ends its replay.
"""

from __future__ import annotations

import atexit
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from flordb.errors import GitError, ReplayError, SnapshotError
from flordb.record.context import end_of
from flordb.replay import schedule
from flordb.replay.born import Ignored
from flordb.replay.local import Local
from flordb.replay.outcomes import Result
from flordb.replay.plan import Plan, Task, snapshots_of
from flordb.replay.task import Steps
from flordb.replay.workspace import own_folder, remove_tree
from flordb.settings import Settings
from flordb.store import history
from flordb.store.objects import ObjectStore
from flordb.store.project import Project

_TICK_SECONDS = 0.1
_STOP_SECONDS = 15.0
_MOST_NAMES = 5_000


@dataclass(frozen=True)
class _Shipment:
    """What a machine needs for a task. ``bundle``, ``run_file`` and the values of ``objects`` refer
    to Ray's object store; ``commit``: the version in the bundle; ``manifests``: by file name."""

    task: Task
    projid: str
    settings: Settings
    imports: tuple[str, ...]
    commit: str
    bundle: Any
    run_file: Any
    manifests: Mapping[str, bytes]
    objects: Mapping[str, Any]


def connected() -> Any:
    """The module ``ray``, connected to the cluster of ``RAY_ADDRESS``, or to one on this machine.

    Raises ReplayError where Ray is not installed or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise ReplayError(
            "replays on Ray need the package ray: pip install 'flordb[ray]'"
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ReplayError(f"the Ray cluster cannot be reached: {error}") from error
    return ray


def cpus() -> int:
    """The cores of the cluster. Raises ReplayError."""
    return int(connected().cluster_resources().get("CPU", 1))


class OnRay:
    """Tasks on a Ray cluster; used in a ``with`` block, which ends all of them."""

    def __init__(self, project: Project, plan: Plan, settings: Settings) -> None:
        self.project = project
        self.plan = plan
        self.settings = settings
        self._early: list[Result] = []
        self._running: dict[Any, int] = {}
        self._put: dict[str, Any] = {}
        self._ignored = Ignored(project.root)

    def __enter__(self) -> OnRay:
        ray = self._ray = connected()
        versions = {task.want.version or "" for task in self.plan.tasks}
        data, commits = history.bundle(self.project, sorted(versions))
        self._bundle = ray.put(data)
        device = 1 if ray.cluster_resources().get("GPU") else 0
        remote = ray.remote(num_cpus=1, max_retries=0)(_replay)
        for number, task in enumerate(self.plan.tasks):  # longest first
            try:
                shipment = self._shipment(task, commits[task.want.version or ""])
            except (OSError, SnapshotError, GitError, ReplayError) as error:
                self._early.append(Result(number, [], f"it could not be sent: {error}"))
                continue
            gpus = device if _uses_device(self.project, task) else 0
            self._running[remote.options(num_gpus=gpus).remote(shipment)] = number
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def busy(self) -> bool:
        return bool(self._early or self._running)

    def elapsed(self) -> dict[int, float]:
        """Nothing: when a task begins is only known to Ray."""
        return {}

    def wait(self) -> list[Result]:
        """The tasks that have ended by now; waits a moment for the first."""
        results, self._early = self._early, []
        if self._running:
            ready, _ = self._ray.wait(list(self._running), timeout=_TICK_SECONDS)
            results += [
                self._result(reference, self._running.pop(reference)) for reference in ready
            ]
        return results

    def stop(self) -> list[Result]:
        """End all tasks, and return what the running ones have left, where it comes soon."""
        running, self._running = self._running, {}
        for reference in running:
            self._ray.cancel(reference)
        waiting = {"num_returns": len(running), "timeout": _STOP_SECONDS}
        ended, late = self._ray.wait(list(running), **waiting) if running else ([], [])
        for reference in late:
            self._ray.cancel(reference, force=True)
        results = [self._result(reference, running[reference]) for reference in ended]
        return [result for result in results if result.lines]

    def _result(self, reference: Any, number: int) -> Result:
        try:
            result: Result = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()
            return Result(number, [], f"{type(error).__name__}: {said[-1] if said else ''}")
        return replace(result, number=number)

    def _shipment(self, task: Task, commit: str) -> _Shipment:
        store = snapshots_of(self.project, task.want.file)
        objects = ObjectStore(self.project.objects)
        manifests: dict[str, bytes] = {}
        shipped: dict[str, Any] = {}
        for boundary in needed(task.steps, store.boundaries()):
            path = store.path(boundary)
            try:
                names = store.load(boundary).objects
                shipped |= {name: self._reference(name, objects.get(name)) for name in names}
                manifests[path.name] = path.read_bytes()
            except SnapshotError:
                continue  # gone or damaged: the replay does without it
        run_file = (self.project.runs / task.want.file).read_bytes()
        if task.asks:
            task = replace(task, older=self._names(task))
        return _Shipment(
            task=task,
            projid=self.project.projid,
            settings=replace(self.settings, on="local", workers=1),
            imports=self.plan.imports,
            commit=commit,
            bundle=self._bundle,
            run_file=self._reference(task.want.file, run_file),
            manifests=manifests,
            objects=shipped,
        )

    def _names(self, task: Task) -> tuple[str, ...]:
        """The untracked files that a run found, which its script may look for."""
        names = {*task.older, *self._ignored.others(*task.at_work, task.older)}
        if len(names) > _MOST_NAMES:
            raise ReplayError(
                f"its script looks for files, and the project has more than {_MOST_NAMES} that git "
                "ignores, which do not travel; replay it on this machine"
            )
        return tuple(sorted(names))

    def _reference(self, name: str, data: bytes | memoryview) -> Any:
        """Data in the object store, put there once a plan."""
        if name not in self._put:
            self._put[name] = self._ray.put(bytes(data))
        return self._put[name]


def needed(steps: Steps, boundaries: set[str]) -> set[str]:
    """The snapshots that a replay of these steps can use."""
    if len(steps.loops) != 1 or not steps.iterations or steps.from_start:
        return boundaries
    (loop,) = steps.loops
    first, last = min(steps.iterations), max(steps.iterations)
    begin = next((i for i in range(first - 1, 0, -1) if end_of(f"{loop}={i}") in boundaries), 0)
    passed = {f"{loop}={i}" for i in _iterations(loop, boundaries) if not begin <= i <= last}
    return {b for b in boundaries if _iteration(b) not in passed}


def _iteration(boundary: str) -> str:
    return boundary.partition("@")[0].partition("/")[0]


def _iterations(loop: str, boundaries: set[str]) -> set[int]:
    heads = (_iteration(boundary).rpartition("=") for boundary in boundaries)
    return {int(index) for name, _, index in heads if name == loop and index.isdigit()}


def _uses_device(project: Project, task: Task) -> bool:
    """Whether a run's snapshots hold tensors of a device."""
    return schedule.uses_device(snapshots_of(project, task.want.file))


# On the machines of the cluster.

_projects: dict[str, Path] = {}
_locks: list[IO[str]] = []


def _replay(shipment: _Shipment) -> Result:
    """Replay a shipment in this Ray worker."""
    import ray

    project = _project_of(shipment, ray)
    want = replace(shipment.task.want, version=shipment.commit)
    task = replace(shipment.task, want=want)
    plan = Plan((task,), (), task.seconds, 1, shipment.imports)
    with Local(project, plan, shipment.settings) as local:
        results: list[Result] = []
        try:
            while local.busy:
                results += local.wait()
        except KeyboardInterrupt:  # Ray's way to cancel a task
            results += local.stop()
    return results[0] if results else Result(0, [], "it was stopped")


def _project_of(shipment: _Shipment, ray: Any) -> Project:
    """This worker's own copy of the project, as far as the shipment needs it."""
    key = f"{shipment.projid}/{shipment.commit}"
    if key not in _projects:
        outer, lock = own_folder(Path(tempfile.gettempdir()) / "flordb-ray")
        _locks.append(lock)
        atexit.register(remove_tree, outer)
        _projects[key] = outer / shipment.projid
        _projects[key].mkdir()
        history.unbundle(_projects[key], ray.get(shipment.bundle))
    project = Project(_projects[key], has_git=True)
    project.prepare()
    name = shipment.task.want.file
    (project.runs / name).write_bytes(ray.get(shipment.run_file))
    objects = ObjectStore(project.objects)
    lacking = objects.lacks(list(shipment.objects))
    for digest, data in zip(lacking, ray.get([shipment.objects[n] for n in lacking]), strict=True):
        objects.put(digest, data)
    folder = snapshots_of(project, name).folder
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in shipment.manifests.items():
        (folder / file).write_bytes(data)
    return project
