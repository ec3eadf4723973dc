"""A run that is being recorded: what is behind `flor.log` and the others in a training script.

The hot paths are `log` and the iteration of nested loops; everything else happens at the ends of
loops, or behind the training. Nothing here raises because of what the user logs, and no failure of
flor's own ends the training.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any, TypeVar

from flordb import kwargs
from flordb.errors import GitError, warn_in_training
from flordb.record.adaptive import Adaptive
from flordb.record.code import is_project_file
from flordb.record.collecting import no_collection
from flordb.record.context import SCALARS, START, Context, Steps, end_of, enter_of, exit_of, root
from flordb.record.encoder import fields_of
from flordb.record.frames import Uses, left_by_code, uses_of_loop
from flordb.record.imports import ImportClock
from flordb.record.iterables import describe, range_of
from flordb.record.paging import Paging, told
from flordb.record.reach import Reach, reach
from flordb.record.snapshotter import Saved, Snapshotter, cores_short
from flordb.record.values import PLAIN, Held, freeze
from flordb.record.versioning import Versioning
from flordb.record.writer import RunWriter
from flordb.settings import Settings
from flordb.store.objects import ObjectStore
from flordb.store.project import Project
from flordb.store.snapshots import SnapshotStore

T = TypeVar("T")

_TELLING_SECONDS = 1.0
"""So long loops must take until it is told how many cores they keep busy: of shorter ones, the
first snapshot may be most."""


class Recorder:
    """The session of a recorded run.

    Parameters: ``writer`` (its run file), ``versioning`` (its code in git), ``tstamp`` (its start).
    """

    def __init__(
        self,
        project: Project,
        settings: Settings,
        tstamp: datetime,
        writer: RunWriter,
        versioning: Versioning,
    ) -> None:
        self.project = project
        self.settings = settings
        self.tstamp = tstamp
        self.ended = False
        self._writer = writer
        self._append: Any = writer.append
        self._note = writer.note
        writer.throttle = self._throttle
        self._versioning = versioning
        # Where each thread (or asynchronous task) is in the nest of loops. One that has entered no
        # loop of its own logs where the thread is that began the run.
        self._own: contextvars.ContextVar[Context | Steps | None] = contextvars.ContextVar(
            "flor_context", default=None
        )
        self._get_own = self._own.get
        self._thread = threading.get_ident()
        self._main: Context | Steps = root()
        self._own.set(self._main)
        self._top: Context | None = None
        self._checkpoint: dict[str, Any] = {}
        self._args: dict[str, Any] = {}
        self._is_project = is_project_file(project.root)
        self._warned: set[str] = set()
        self._adaptive = Adaptive(settings.epsilon, settings.restore_ratio)
        self._decided: tuple[Context, bool] | None = None
        self._snapshotter = Snapshotter(
            ObjectStore(project.objects),
            SnapshotStore(project.snapshots / writer.path.stem),
            self._saved,
            self._is_project,
            settings,
            self._adaptive,
        )
        self._paging = Paging()
        self._paged = self._paging.now()
        self._loops_ended: float | None = None
        self._loops_began: float | None = None
        self._cpu_began = self._cpu_ended = 0.0
        self._error: str | None = None
        self._failed_with = 0
        self._snapshotter.take(START, Reach(), {})
        self._imports = ImportClock()

    # What scripts call.

    def log(self, name: str, value: T) -> T:
        place = self._get_own() or self._main
        if type(value) in PLAIN:
            self._append((place, place.index, name, value))
        else:
            self._log_frozen(place, place.index, name, freeze(value))
        return value

    def _log_frozen(self, place: Context | Steps, index: int, name: str, value: Any) -> None:
        if type(value) is Held:
            self._writer.hold(value)
        self._append((place, index, name, value))

    def _throttle(self, append: Any) -> None:
        self._append = append

    def _here(self) -> Context:
        """The context in which this thread is."""
        return (self._get_own() or self._main).here()

    def place(self) -> contextvars.Context:
        """The caller's context variables, with this place in the loops, for work in a thread."""
        found = contextvars.copy_context()
        found.run(self._own.set, self._here())
        return found

    def _enter(self, place: Context | Steps) -> None:
        """Make ``place`` the one in which this thread is."""
        self._own.set(place)
        if threading.get_ident() == self._thread and not _in_event_loop():
            self._main = place

    def arg(self, name: str, default: T) -> T:
        value, how = default, "default"
        if name in kwargs.given:
            value, how = kwargs.convert(name, kwargs.given[name], default), "given"
        frozen = fields_of(freeze(value), self._writer.store)
        fields = {"k": "log", "n": name, **frozen, "a": how}
        self._note(self._here(), fields)
        return value

    def loop(self, name: str, iterable: Iterable[T]) -> Iterator[T]:
        return self._loop(str(name), iterable, sys._getframe(2))

    @contextmanager
    def iteration(self, name: str, index: int | None, value: Any) -> Iterator[None]:
        outer = self._here()
        number = outer.enter(name) if index is None else index
        context = Context(outer, name, number, value, 0)
        self._enter(context)
        self._note(context, {})
        began, mark = time.perf_counter(), self._paging.now()
        try:
            yield
        finally:
            self._enter(outer)
            seconds = time.perf_counter() - began
            self._time_line(context, "iteration", seconds, self._paging.since(mark))

    @contextmanager
    def checkpointing(self, objects: Mapping[str, Any]) -> Iterator[None]:
        outer = self._checkpoint
        self._checkpoint = {**outer, **objects}
        try:
            yield
        finally:
            self._checkpoint = outer

    def commit(self) -> None:
        from flordb import session

        self.end(0)
        session.replace(None)

    def read(self, runs: list[list[str]]) -> None:
        """Note which runs' values this run has read: (projid, tstamp, filename) of each."""
        self._note(None, {"k": "read", "runs": runs})

    # Loops.

    def _loop(self, name: str, iterable: Iterable[T], frame: FrameType) -> Iterator[T]:
        outer = self._here()
        if outer.parent is None:
            yield from self._top_loop(name, iterable, frame, outer)
        elif outer is self._top:
            yield from self._nested_loop(name, iterable, frame, outer)
        else:
            yield from self._inner_loop(name, iterable, outer, [0])

    def _inner_loop(
        self, name: str, iterable: Iterable[T], outer: Context, count: list[int]
    ) -> Iterator[T]:
        """The loop itself. ``count`` gets how many iterations were begun."""
        entry = outer.enter(name)
        values = range_of(iterable)
        steps = Steps(outer, name, entry, values)
        get_own, enter = self._get_own, self._enter
        index = -1
        try:
            for value in iterable:
                index += 1
                if values is None and type(value) in SCALARS:
                    enter(Context(outer, name, index, value, entry))
                else:
                    steps.index = index
                    if get_own() is not steps:
                        enter(steps)
                yield value
        finally:
            count[0] = index + 1
            enter(outer)

    def _nested_loop(
        self, name: str, iterable: Iterable[T], frame: FrameType, outer: Context
    ) -> Iterator[T]:
        entry = (outer.entries or {}).get(name, 0)
        began, mark = time.perf_counter(), self._paging.now()
        uses = uses_of_loop(frame)
        count = [0]
        exhausted = False
        try:
            yield from self._inner_loop(name, iterable, outer, count)
            exhausted = True
        finally:
            seconds, paging = time.perf_counter() - began, self._paging.since(mark)
            self._enter(outer)
            end = _end(frame, exhausted)
            if end != "raised" and self._worth(outer):
                self._snapshot(exit_of(outer.path, name, entry), frame, uses, outer, {})
            self._loop_line(outer, name, entry, count[0], seconds, end, paging)

    def _top_loop(
        self, name: str, iterable: Iterable[T], frame: FrameType, outer: Context
    ) -> Iterator[T]:
        entry = outer.enter(name)
        uses = uses_of_loop(frame)
        self._reached_loops()
        info = describe(iterable)
        self._snapshot(enter_of("", name, entry), frame, uses, outer, info)
        self._adaptive.expect(self._snapshotter.expected)
        began, before = time.perf_counter(), self._paging.now()
        count = 0
        exhausted = False
        try:
            for index, value in enumerate(iterable):
                context = Context(outer, name, index, value, entry)
                self._enter(context)
                self._top = context
                self._note(context, {})
                started, mark = time.perf_counter(), self._paging.now()
                yield value
                self._enter(context)
                if self._worth(context):
                    self._snapshot(end_of(context.path), frame, uses, context, {})
                seconds = time.perf_counter() - started
                self._time_line(context, "iteration", seconds, self._paging.since(mark))
                count += 1
            exhausted = True
        finally:
            seconds, paging = time.perf_counter() - began, self._paging.since(before)
            self._enter(outer)
            end = _end(frame, exhausted)
            if end != "raised":
                self._snapshot(exit_of("", name, entry), frame, uses, outer, info)
            self._loops_ended, self._cpu_ended = time.perf_counter(), time.process_time()
            self._paged = self._paging.now()
            self._loop_line(outer, name, entry, count, seconds, end, paging)

    def _loop_line(
        self,
        outer: Context,
        name: str,
        entry: int,
        count: int,
        seconds: float,
        end: str,
        paging: float,
    ) -> None:
        line: dict[str, Any] = {"k": "loop", "l": name, "e": entry, "n": count}
        self._note(outer, line | {"s": round(seconds, 6), "end": end} | told(paging))

    def _time_line(self, context: Context | None, what: str, seconds: float, paging: float) -> None:
        line: dict[str, Any] = {"k": "time", "w": what, "s": round(seconds, 6)}
        self._note(context, line | told(paging))

    def _reached_loops(self) -> None:
        if self._loops_began is None:
            self._loops_began, self._cpu_began = time.perf_counter(), time.process_time()
            line = {"k": "time", "w": "setup", "s": round(self._writer.elapsed(), 6)}
            line["imports"] = round(self._imports.stop(), 6)
            self._note(None, line)
        elif self._loops_ended is not None:
            seconds = time.perf_counter() - self._loops_ended
            self._time_line(None, "between", seconds, self._paging.since(self._paged))

    # Snapshots.

    def _worth(self, context: Context) -> bool:
        """Whether this iteration's snapshots are taken; decided once for all of an iteration."""
        if self._decided is not None and self._decided[0] is context:
            return self._decided[1]
        computed = time.perf_counter() - (self._loops_began or time.perf_counter())
        pays = self._adaptive.pays(computed)
        if pays:
            self._adaptive.begins()
        self._decided = (context, pays)
        return pays

    def _snapshot(
        self,
        boundary: str,
        frame: FrameType,
        uses: Uses,
        context: Context,
        info: dict[str, Any],
    ) -> None:
        if self.ended:
            return
        began, mark = time.perf_counter(), self._paging.now()
        try:
            with no_collection():
                below = self._snapshotter.known(boundary)
                found = reach(frame, uses, self._checkpoint, self._is_project, below)
                taken = self._snapshotter.take(boundary, found, info)
        except Exception as error:  # flor must not end the training
            self._warn(f"no snapshot at {boundary}: {type(error).__name__}: {error}")
            return
        finally:
            self._paging.leave_out(mark)
        seconds = time.perf_counter() - began
        if context.parent is not None:
            self._adaptive.held_up(seconds)
        if taken:
            self._note(context, {"k": "snap", "at": boundary, "s": round(seconds, 6)})

    def _saved(self, saved: Saved) -> None:
        if cores_short():
            self._adaptive.took_behind(saved.cpu)
        line: dict[str, Any] = {"k": "time", "w": "snapshot", "at": saved.boundary}
        line |= {"s": round(saved.seconds, 6), "cpu": round(saved.cpu, 6), "bytes": saved.bytes}
        self._note(None, line)

    def _warn(self, what: str) -> None:
        key = what.split(":")[0]
        if key not in self._warned:
            self._warned.add(key)
            warn_in_training(f"{what}. Training goes on.")

    # The end.

    def failed(self, error: str, status: int) -> None:
        """Remember what ends the script, an exception or a signal, and the exit status of that."""
        self._error, self._failed_with = error, status

    def end(self, status: int) -> None:
        """Write the run's last lines and commit it; waits only as long as the settings allow."""
        if self.ended:
            return
        if "flordb.background" in sys.modules:  # what runs there may log
            sys.modules["flordb.background"].end()
        self.ended = True
        self._imports.stop()
        ended, paging = time.perf_counter(), self._paging.since(self._paged)
        wait = self.settings.exit_wait_seconds
        if not self._snapshotter.close(self.settings.snapshot_wait_seconds):
            self._warn("the last snapshots were not written in time")
        self._versioning.wait(wait)
        last: list[Mapping[str, Any]] = []
        if self._loops_began is not None and self._loops_ended is not None:
            line = {"k": "time", "w": "rest", "s": round(ended - self._loops_ended, 6)}
            line |= told(paging)
            looped = self._loops_ended - self._loops_began
            if looped >= _TELLING_SECONDS:
                line["cores"] = round((self._cpu_ended - self._cpu_began) / looped, 2)
            last.append(line)
        if rewritten := self._versioning.rewritten():
            last.append({"k": "files", "rewritten": rewritten})
        if self._error is not None:
            status = status or self._failed_with
        elapsed = round(self._writer.elapsed(), 6)
        last.append({"k": "exit", "t": elapsed, "status": status, "error": self._error})
        self._writer.close(last, wait)
        try:
            self._versioning.commit(self._writer.path, wait)
        except (GitError, OSError) as error:
            # The version is kept alive; the next sync commits the run.
            self._warn(f"the run is not committed yet: {error}")


def _in_event_loop() -> bool:
    """Whether this is an asynchronous task: others in its thread must not be led by it."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


def _end(frame: FrameType, exhausted: bool) -> str:
    if exhausted:
        return "exhausted"
    return "left" if left_by_code(frame) else "raised"
