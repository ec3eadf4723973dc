"""A plan's tasks on this machine: workspaces and workers, as many as cores, memory and devices
allow.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from flordb.errors import FlorError, GitError, ReplayError
from flordb.replay import environment, guard, pool, schedule
from flordb.replay.born import Ignored
from flordb.replay.outcomes import Lines, Result
from flordb.replay.plan import Plan, Task, observed_lines
from flordb.replay.pool import Key, Server
from flordb.replay.task import DEVICES, Job
from flordb.replay.workspace import Workspace, Workspaces, cache_folder
from flordb.settings import Settings
from flordb.store.project import Project
from flordb.store.runfile import read_run

_TICK_SECONDS = 0.1
# The server imports first, which can take long on a network's disk.
_PROBE_SECONDS = 120.0
_STDERR_LINES = 12
# What a worker may need before any has shown what it needs.
_MEMORY_BYTES = 256e6
_IMPORT_SECONDS = 600.0


@dataclass
class _Worker:
    """A task that has been handed out. ``began``: when its worker began, None before."""

    task: Task
    server: Server
    workspace: Workspace
    timeout_seconds: float
    device: int | None
    asked: float
    began: float | None = None
    pid: int | None = None

    @property
    def too_late(self) -> bool:
        now = time.monotonic()
        if self.began is None:
            return now - self.asked > _IMPORT_SECONDS
        return now - self.began > self.timeout_seconds


class Local:
    """Workers for a plan; used in a ``with`` block, which ends all of them."""

    def __init__(self, project: Project, plan: Plan, settings: Settings) -> None:
        self.project = project
        self.plan = plan
        self.settings = settings
        self._waiting = list(enumerate(plan.tasks))[::-1]
        self._next: tuple[int, Task, Workspace, Path] | None = None
        self._servers: dict[Key, Server] = {}
        self._running: dict[int, _Worker] = {}
        self._peak = _MEMORY_BYTES
        self._ignored = Ignored(project.root)
        self._headers: dict[str, Mapping[str, Any]] = {}
        self._keys: dict[int, Key] = {}
        self._early: list[Result] = []

    def __enter__(self) -> Local:
        self._folder = Path(tempfile.mkdtemp(dir=self.project.temporary))
        try:
            self._start_servers()
            overlay = overlay_works(self.project, self.settings, self._servers)
            self._workspaces = Workspaces(self.project, overlay, guard.writable_folders())
            self._workspaces.__enter__()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self._workspaces.__exit__(kind, error, trace)

    def _end(self) -> None:
        for server in self._servers.values():
            pool.give_back(server)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def busy(self) -> bool:
        return bool(self._early or self._waiting or self._next or self._running)

    def elapsed(self) -> dict[int, float]:
        """Seconds since each running task began, by its number."""
        now = time.monotonic()
        return {n: now - w.began for n, w in self._running.items() if w.began is not None}

    def wait(self) -> list[Result]:
        """The tasks that have ended by now; waits a moment for the first. Raises ReplayError."""
        results, self._early = self._early, []
        results += self._prepare_next()
        while self._next is not None and self._may_start(self._next[0]):
            self._start()
            results += self._prepare_next()
        if not results:
            results = self._listen()
        for number, worker in self._running.items():
            if worker.too_late:
                worker.server.kill(number)
        return results

    def stop(self) -> list[Result]:
        """End all tasks at once, and return what the running ones have left."""
        self._waiting.clear()
        running = list(self._running)
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        self._running.clear()
        return [self._result(number, "it was stopped") for number in running]

    # Starting.

    def _prepare_next(self) -> list[Result]:
        """Make the next task's workspace, also while all workers are at work."""
        failed = []
        while self._next is None and self._waiting:
            number, task = self._waiting.pop()
            try:
                place = self._workspaces.create(task.want.version or "", task.patch.files)
            except (GitError, OSError) as error:
                failed.append(Result(number, [], f"no workspace: {error}"))
                continue
            out = self._folder / f"{number}.jsonl"
            absent = self._absent(task)
            header = self._header(task)
            job = make_job(self.project, task, header, self.plan.imports, place, out, absent)
            job_file = self._folder / f"{number}.job"
            job.save(job_file)
            self._next = (number, task, place, job_file)
        return failed

    def _absent(self, task: Task) -> tuple[str, ...]:
        """What the run did not find, where its script may look for it."""
        return self._ignored.born_between(*task.at_work, task.older) if task.asks else ()

    def _may_start(self, number: int) -> bool:
        if not self._servers[self._keys[number]].ready or len(self._running) >= self.plan.workers:
            return False
        return not self._running or schedule.available_memory() > 1.2 * self._memory_needed()

    def _memory_needed(self) -> float:
        now = [_resident(worker.pid) for worker in self._running.values() if worker.pid]
        return max(self._peak, *now) if now else self._peak

    def _start(self) -> None:
        assert self._next is not None
        number, task, place, job_file = self._next
        self._next = None
        server = self._servers[self._keys[number]]
        device = self._free_device()
        env = dict(server.key[1])
        if device is not None:
            env[DEVICES] = str(device)
        timeout = self.settings.task_timeout_seconds or 300 + 10 * task.seconds
        worker = _Worker(task, server, place, timeout, device, time.monotonic())
        self._running[number] = worker
        server.run(number, job_file, self._log(number), env, self._fresh())

    def _fresh(self) -> bool:
        return self.settings.worker_start == "fresh"

    def _free_device(self) -> int | None:
        """The device that this worker is given, where there are several."""
        if schedule.devices() < 2 or DEVICES in os.environ:
            return None
        loads = dict.fromkeys(range(schedule.devices()), 0)
        for worker in self._running.values():
            if worker.device is not None:
                loads[worker.device] += 1
        return min(loads, key=lambda device: loads[device])

    def _start_servers(self) -> None:
        """Let them begin to import, while the rest is made ready."""
        imports = () if self._fresh() else self.plan.imports
        waiting, self._waiting = self._waiting, []
        for number, task in waiting:
            try:
                key = self._keys[number] = self._key(task)
            except (FlorError, OSError) as error:
                self._early.append(Result(number, [], str(error)))
                continue
            self._waiting.append((number, task))
            if key not in self._servers:
                self._servers[key] = pool.take(key, imports, self.settings.server_idle_seconds)

    def _key(self, task: Task) -> Key:
        header = self._header(task)
        python = environment.interpreter(header, self.settings)
        return python, environment.server_variables(header)

    def _header(self, task: Task) -> Mapping[str, Any]:
        file = task.want.file
        if file not in self._headers:
            self._headers[file] = read_run(self.project.runs / file).header
        return self._headers[file]

    # Ending.

    def _listen(self) -> list[Result]:
        ready, _, _ = select.select(list(self._servers.values()), [], [], _TICK_SECONDS)
        results = []
        for server in ready:
            for answer in server.answers():
                match answer:
                    case {"started": number, "pid": pid} if number in self._running:
                        self._running[number].began = time.monotonic()
                        self._running[number].pid = pid
                    case {"ended": number, "status": status, "peak": peak}:
                        self._peak = max(self._peak, peak)
                        if number in self._running:
                            worker = self._running.pop(number)
                            results.append(self._result(number, _why(status, worker.too_late)))
                            self._workspaces.remove(worker.workspace)
        return results

    def _result(self, number: int, why: str | None) -> Result:
        lines = _read_lines(self._folder / f"{number}.jsonl")
        complete = any(line["k"] == "done" for line in lines)
        return Result(number, lines, why, "" if complete else _tail(self._log(number)))

    def _log(self, number: int) -> Path:
        return self._folder / f"{number}.log"


_overlays: dict[tuple[str, str], str | None] = {}


def overlay_works(project: Project, settings: Settings, servers: Mapping[Key, Server]) -> bool:
    """Whether workers can have a view of their own of this project. Asked once a process.

    Raises ReplayError where the setting says that they must, and the kernel that they cannot.
    """
    if settings.workspaces == "links" or not servers:
        return False
    root = os.path.realpath(project.root)
    key = (root, str(cache_folder()))
    if key not in _overlays:
        with Workspaces(project, overlay=True, writable=guard.writable_folders()) as scratch:
            server = next(iter(servers.values()))
            server.probe(scratch.scratch())
            _overlays[key] = _probed(server)
    why = _overlays[key]
    if why is not None and settings.workspaces == "overlay":
        raise ReplayError(f"workspaces = 'overlay', but {why}")
    return why is None


def _probed(server: Server) -> str | None:
    """Why no overlay can be had, as the server finds out; None where it can."""
    deadline = time.monotonic() + _PROBE_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([server], [], [], left)[0]:
            break
        for answer in server.answers():
            if "probed" in answer:
                why: str | None = answer["probed"]
                return why
    return f"the replay server did not say within {_PROBE_SECONDS:.0f} s whether overlays work"


def make_job(
    project: Project,
    task: Task,
    header: Mapping[str, Any],
    imports: tuple[str, ...],
    place: Workspace,
    out: Path,
    absent: tuple[str, ...] = (),
) -> Job:
    """What a worker is told to do for a task, in a workspace. ``header``: of the run's file;
    ``absent``: what it is not to find there."""
    want = task.want
    return Job(
        run_file=str(project.runs / want.file),
        workspace=str(place.folder),
        outer=str(place.outer),
        layers=place.layers,
        project=str(project.root),
        script=want.filename,
        cwd=str(header.get("cwd") or "."),
        pythonpath=tuple(map(str, header.get("pythonpath") or ())),
        argv=tuple(header.get("argv") or (want.filename,)),
        module=header.get("module"),
        env=environment.variables(header),
        imports=imports,
        names=task.names,
        steps=task.steps,
        needed=tuple(sorted(task.needed)),
        observed=observed_lines(task.patch.insertions),
        snapshots=str(project.snapshots / want.file.partition(".jsonl")[0]),
        objects=str(project.objects),
        out=str(out),
        exact_or_nothing=task.exact_or_nothing,
        tolerance=task.tolerance,
        at_work=task.at_work,
        absent=absent,
        older=task.older,
        began=place.began,
    )


def _why(status: int, too_long: bool) -> str | None:
    if status < 0 and too_long:
        return "it took too long and was stopped (task_timeout_seconds)"
    if status < 0:
        return f"the worker was killed by signal {-status}"
    return None if status == 0 else f"the worker ended with status {status}"


def _resident(pid: int) -> float:
    """The bytes of memory that a process holds; 0 where it is gone or the system does not say."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, IndexError):
        return 0.0


def _read_lines(path: Path) -> Lines:
    """A worker's lines; the last one may be cut off where it was killed."""
    try:
        text = path.read_text()
    except OSError:
        return []
    complete = text.rpartition("\n")[0]
    # In one go: a range scan leaves hundreds of thousands.
    lines: Lines = json.loads(f"[{complete.replace(chr(10), ',')}]")
    return lines


def _tail(path: Path) -> str:
    """A worker's last words: the beginning of Python's report of a crash, or the last lines."""
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    crashes = [n for n, line in enumerate(lines) if line.startswith("Fatal Python error")]
    start = crashes[-1] if crashes else max(0, len(lines) - _STDERR_LINES)
    return "".join(f"\n  {line}" for line in lines[start : start + _STDERR_LINES])
