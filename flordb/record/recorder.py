"""A run that is being recorded: what is behind `flor.log` and the others in a training script.

The hot paths are `log` and the iteration of nested loops; everything else happens at the ends of
loops, or behind the training. Nothing here raises because of what the user logs, and no failure of
flor's own ends the training.
"""

from __future__ import annotations

import sys
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
from flordb.record.context import START, Context, end_of, enter_of, exit_of, root
from flordb.record.frames import Uses, left_by_code, uses_of_loop
from flordb.record.iterables import describe
from flordb.record.reach import Reach, reach
from flordb.record.snapshotter import Saved, Snapshotter, cores_short
from flordb.record.values import freeze
from flordb.record.versioning import Versioning
from flordb.record.writer import RunWriter
from flordb.settings import Settings
from flordb.store.objects import ObjectStore
from flordb.store.project import Project
from flordb.store.snapshots import SnapshotStore

T = TypeVar("T")

_PLAIN = frozenset((type(None), bool, int, float, str))


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
        self._versioning = versioning
        self._context = root()
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
            settings.max_variable_bytes,
            settings.snapshot_memory_bytes,
        )
        self._loops_ended: float | None = None
        self._loops_began: float | None = None
        self._error: str | None = None
        self._snapshotter.take(START, Reach(), {})

    # What scripts call.

    def log(self, name: str, value: T) -> T:
        self._append((self._context, name, value if type(value) in _PLAIN else freeze(value)))
        return value

    def arg(self, name: str, default: T) -> T:
        value, how = default, "default"
        if name in kwargs.given:
            value, how = kwargs.convert(name, kwargs.given[name], default), "given"
        fields = {"k": "log", "n": name, **_encoded(value), "a": how}
        self._append((self._context, fields))
        return value

    def loop(self, name: str, iterable: Iterable[T]) -> Iterator[T]:
        return self._loop(str(name), iterable, sys._getframe(2))

    @contextmanager
    def iteration(self, name: str, index: int | None, value: Any) -> Iterator[None]:
        outer = self._context
        number = outer.enter(name) if index is None else index
        context = self._context = Context(outer, name, number, value, 0)
        self._append((context, {}))
        began = time.perf_counter()
        try:
            yield
        finally:
            self._context = outer
            seconds = round(time.perf_counter() - began, 6)
            self._append((context, {"k": "time", "w": "iteration", "s": seconds}))

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
        self._append((None, {"k": "read", "runs": runs}))

    # Loops.

    def _loop(self, name: str, iterable: Iterable[T], frame: FrameType) -> Iterator[T]:
        outer = self._context
        if outer.parent is None:
            yield from self._top_loop(name, iterable, frame, outer)
        elif outer is self._top:
            yield from self._nested_loop(name, iterable, frame, outer)
        else:
            yield from self._inner_loop(name, iterable, outer)

    def _inner_loop(self, name: str, iterable: Iterable[T], outer: Context) -> Iterator[T]:
        entry = outer.enter(name)
        try:
            for index, value in enumerate(iterable):
                self._context = Context(outer, name, index, value, entry)
                yield value
        finally:
            self._context = outer

    def _nested_loop(
        self, name: str, iterable: Iterable[T], frame: FrameType, outer: Context
    ) -> Iterator[T]:
        entry = (outer.entries or {}).get(name, 0)
        began = time.perf_counter()
        uses = uses_of_loop(frame)
        count = 0
        exhausted = False
        try:
            for value in self._inner_loop(name, iterable, outer):
                count += 1
                yield value
            exhausted = True
        finally:
            seconds = time.perf_counter() - began
            self._context = outer
            end = _end(frame, exhausted)
            if end != "raised" and self._worth(outer):
                self._snapshot(exit_of(outer.path, name, entry), frame, uses, outer, {})
            self._loop_line(outer, name, entry, count, seconds, end)

    def _top_loop(
        self, name: str, iterable: Iterable[T], frame: FrameType, outer: Context
    ) -> Iterator[T]:
        entry = outer.enter(name)
        uses = uses_of_loop(frame)
        self._reached_loops()
        info = describe(iterable)
        held = self._snapshot(enter_of("", name, entry), frame, uses, outer, info)
        self._adaptive.resembles(held)
        began = time.perf_counter()
        count = 0
        exhausted = False
        try:
            for index, value in enumerate(iterable):
                context = self._context = Context(outer, name, index, value, entry)
                self._top = context
                self._append((context, {}))
                started = time.perf_counter()
                yield value
                self._context = context
                if self._worth(context):
                    self._snapshot(end_of(context.path), frame, uses, context, {})
                seconds = round(time.perf_counter() - started, 6)
                self._append((context, {"k": "time", "w": "iteration", "s": seconds}))
                count += 1
            exhausted = True
        finally:
            seconds = time.perf_counter() - began
            self._context = outer
            self._loops_ended = time.perf_counter()
            end = _end(frame, exhausted)
            if end != "raised":
                self._snapshot(exit_of("", name, entry), frame, uses, outer, info)
            self._loop_line(outer, name, entry, count, seconds, end)

    def _loop_line(
        self, outer: Context, name: str, entry: int, count: int, seconds: float, end: str
    ) -> None:
        line = {"k": "loop", "l": name, "e": entry, "n": count, "s": round(seconds, 6), "end": end}
        self._append((outer, line))

    def _reached_loops(self) -> None:
        if self._loops_began is None:
            self._loops_began = time.perf_counter()
            line = {"k": "time", "w": "setup", "s": round(self._writer.elapsed(), 6)}
            self._append((None, line))

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
    ) -> float:
        """Take a snapshot; returns the seconds that it held up the training."""
        if self.ended:
            return 0.0
        began = time.perf_counter()
        try:
            found = reach(frame, uses, self._checkpoint, self._is_project)
            self._snapshotter.take(boundary, found, info)
        except Exception as error:  # flor must not end the training
            self._warn(f"no snapshot at {boundary}: {type(error).__name__}: {error}")
            return 0.0
        seconds = time.perf_counter() - began
        if context.parent is not None:
            self._adaptive.held_up(seconds)
        self._append((context, {"k": "snap", "at": boundary, "s": round(seconds, 6)}))
        return seconds

    def _saved(self, saved: Saved) -> None:
        if cores_short():
            self._adaptive.took_behind(saved.cpu)
        line: dict[str, Any] = {"k": "time", "w": "snapshot", "at": saved.boundary}
        line |= {"s": round(saved.seconds, 6), "cpu": round(saved.cpu, 6), "bytes": saved.bytes}
        self._append((None, line))

    def _warn(self, what: str) -> None:
        key = what.split(":")[0]
        if key not in self._warned:
            self._warned.add(key)
            warn_in_training(f"{what}. Training goes on.")

    # The end.

    def failed(self, error: str) -> None:
        """Remember the exception that ends the script."""
        self._error = error

    def end(self, status: int) -> None:
        """Write the run's last lines and commit it; waits only as long as the settings allow."""
        if self.ended:
            return
        self.ended = True
        wait = self.settings.exit_wait_seconds
        if not self._snapshotter.close(self.settings.snapshot_wait_seconds):
            self._warn("the last snapshots were not written in time")
        self._versioning.wait(wait)
        last: list[Mapping[str, Any]] = []
        if self._loops_ended is not None:
            rest = time.perf_counter() - self._loops_ended
            last.append({"k": "time", "w": "rest", "s": round(rest, 6)})
        if self._error is not None:
            status = status or 1
        elapsed = round(self._writer.elapsed(), 6)
        last.append({"k": "exit", "t": elapsed, "status": status, "error": self._error})
        self._writer.close(last, wait)
        try:
            self._versioning.commit(self._writer.path, wait)
        except (GitError, OSError) as error:
            # The version is kept alive; the next sync commits the run.
            self._warn(f"the run is not committed yet: {error}")


def _end(frame: FrameType, exhausted: bool) -> str:
    if exhausted:
        return "exhausted"
    return "left" if left_by_code(frame) else "raised"


def _encoded(value: Any) -> dict[str, Any]:
    from flordb.store.runfile import encode_value

    return encode_value(freeze(value))
