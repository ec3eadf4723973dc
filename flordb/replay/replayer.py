"""A run that is being replayed: the session behind `flor.log` and the others in a worker.

It answers `flor.arg` from the record, skips the loops whose effects a snapshot holds, runs the
others, keeps the wanted values, and compares everything else that is logged with the record.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NamedTuple, NoReturn, TypeVar

from flordb.errors import ReplayError, SnapshotError
from flordb.record import context as contexts
from flordb.record import rng
from flordb.record.anchors import OF_TENSOR
from flordb.record.context import SCALARS, START, Context, end_of, enter_of, exit_of, root
from flordb.record.frames import left_by_code
from flordb.record.iterables import is_repeatable, range_of
from flordb.record.present import Present
from flordb.record.restore import generators_of, restore
from flordb.replay.output import Output, Write
from flordb.replay.recorded import Recorded, TopLoop
from flordb.replay.route import Route
from flordb.replay.seeds import Seeds
from flordb.replay.task import Job
from flordb.store.objects import ObjectStore
from flordb.store.snapshots import Manifest, SnapshotStore

T = TypeVar("T")


class Aside(NamedTuple):
    """Where a replay was when it stepped aside."""

    context: Context
    entries: dict[str, int] | None
    observing: bool


class Replayer:
    """The session of a replay.

    Parameters: ``job``; ``record``, the run as it was; ``write``, takes the lines of the replay
    file; ``leave``, ends the process when nothing that is wanted is left to run.
    """

    is_replay = True

    def __init__(
        self, job: Job, record: Recorded, write: Write, leave: Callable[[], NoReturn]
    ) -> None:
        self.job = job
        self.steps = job.steps
        self.record = record
        self.output = Output(job, record, self._send)
        self._write = write
        self._early: list[dict[str, Any]] = []
        self._leave = leave
        self._place: Context | contexts.Steps = root()
        self._top: Context | None = None
        self._collecting = True
        self._checkpoint: dict[str, Any] = {}
        self._args: dict[str, int] = {}
        self._snapshots = SnapshotStore(_path(job.snapshots))
        self._objects = ObjectStore(_path(job.objects), renews=False)
        self._present = Present()
        self._boundaries = self._snapshots.boundaries()
        self._route = Route(job.steps, record, self._boundaries)
        self._ahead = list(self._route.loads())
        self._coming: Manifest | None = None
        self._observing = False
        self._started = False
        self._first: dict[str, Any] | None = None
        self._seeds: Seeds | None = None
        self._begun: dict[str, Any] = {}
        self._clock = time.perf_counter()
        self._set_up: float | None = None
        self._restored = [0, 0.0, 0.0]
        self.unusable: set[str] = set()
        """The boundaries of snapshots of which something could not be read."""

    @property
    def _context(self) -> Context:
        """Where the script is."""
        return self._place.here()

    @_context.setter
    def _context(self, context: Context) -> None:
        self._place = context

    def took(self) -> dict[str, Any]:
        """Seconds since the script could begin: of set-up, of loading snapshots, of the rest."""
        whole = time.perf_counter() - self._clock
        setup = whole if self._set_up is None else self._set_up
        count, restored, held = self._restored
        return {
            "setup": setup,
            "restores": count,
            "restored": restored,
            "held": held,
            "computed": whole - setup - restored,
        }

    def used(self) -> dict[str, list[str]]:
        """The objects of the store that were read and that could not be, and `unusable`."""
        return {
            "objects": sorted(self._objects.read),
            "unread": sorted(self._objects.unread),
            "unusable": sorted(self.unusable),
        }

    def prepare(self) -> None:
        """Before the script begins: the generators of random numbers as the run's process had them.

        Those of Python and NumPy are unknown; `_start` finds out whether it matters.
        """
        self._clock = time.perf_counter()
        self._look_ahead()
        if START in self._boundaries:
            with self._reading(START):
                self._first = generators_of(self._snapshots.load(START), self._objects)
            rng.begin_as(self._first)
        else:
            self._seeds = Seeds()
        self._begun = rng.get_states()

    def _start(self) -> None:
        """At the script's first call the record knows all generators."""
        if self._started:
            return
        self._started = True
        if self._first is None:
            return
        now = rng.get_states()
        drawn = set(rng.differing(self._begun, now)) & set(rng.differing(self._first, now))
        if drawn:
            raise ReplayError(
                f"the script draws unseeded random numbers ({', '.join(sorted(drawn))}) before its "
                "first flor call, so its set-up cannot be repeated; seed them, or call flor.arg "
                "first"
            )
        rng.set_states(self._first)
        for line in self._early:
            self._write(line)

    def _send(self, line: dict[str, Any]) -> None:
        """Write a line, but none before it is known that the run's generators are there."""
        if self._started or self._first is None:
            self._write(line)
        else:
            self._early.append(line)

    def script_ended(self) -> None:
        """Nothing of the script is left to run."""
        self._start()

    def _refuse_unseeded(self) -> None:
        unseeded = self._seeds.unseeded() if self._seeds is not None else ()
        if unseeded:
            raise ReplayError(
                "the run has no snapshot of its start, and its script draws unseeded random "
                f"numbers ({', '.join(unseeded)}), which cannot come again"
            )

    # What scripts call.

    def log(self, name: str, value: T) -> T:
        if not self.output.is_wanted(name) and not self._observing:
            self._start()  # the run made this call, too
        if self.output.is_wanted(name):
            if self._collecting:
                self._refuse_unseeded()
                self.output.keep(self._context, name, value)
        elif not self._observing:
            self.output.compare(self._context, str(name), value)
        return value

    def arg(self, name: str, default: T) -> T:
        self._start()
        known = self.record.args.get(name)
        if not known:
            return default
        occurrence = self._args.get(name, 0)
        self._args[name] = occurrence + 1
        value = known[min(occurrence, len(known) - 1)]
        if type(default) is tuple and isinstance(value, list):
            return tuple(value)  # type: ignore[return-value]
        return value  # type: ignore[no-any-return]

    def loop(self, name: str, iterable: Iterable[T]) -> Iterator[T]:
        return self._loop(str(name), iterable, sys._getframe(2))

    @contextmanager
    def iteration(self, name: str, index: int | None, value: Any) -> Iterator[None]:
        self._start()
        outer = self._context
        number = outer.enter(name) if index is None else index
        self._context = Context(outer, name, number, value, 0)
        try:
            yield
        finally:
            self._context = outer

    @contextmanager
    def checkpointing(self, objects: Mapping[str, Any]) -> Iterator[None]:
        outer = self._checkpoint
        self._checkpoint = {**outer, **objects}
        try:
            yield
        finally:
            self._checkpoint = outer

    def read(self, runs: list[list[str]]) -> None:
        raise ReplayError(
            "the script reads the history of other runs (flor.dataframe), which has grown since; "
            "such a run cannot be replayed yet"
        )

    def step_aside(self) -> Aside:
        """A hindsight statement begins: loops that it enters are run, not skipped, and count for
        nothing; what it logs besides the wanted names is no part of the record."""
        context = self._context
        before = Aside(context, context.entries, self._observing)
        context.entries = dict(context.entries) if context.entries else None
        self._observing = True
        return before

    def step_back(self, before: Aside) -> None:
        """The hindsight statement has ended: all is where it was."""
        self._observing = before.observing
        self._context = before.context
        before.context.entries = before.entries

    def commit(self) -> None:
        # What follows belongs to another run.
        self._leave()

    # Loops.

    def _loop(self, name: str, iterable: Iterable[T], frame: FrameType) -> Iterator[T]:
        self._start()
        outer = self._context
        if self._observing:
            yield from self._inner_loop(name, iterable, outer)
        elif outer.parent is None:
            yield from self._top_loop(name, iterable, frame, outer)
        elif outer is self._top and not self._runs(name):
            yield from self._nested_loop(name, iterable, frame, outer)
        else:
            yield from self._inner_loop(name, iterable, outer)

    def _runs(self, nested: str) -> bool:
        if self._collecting and nested in self.steps.run_nested:
            return True
        if self.steps.from_start and self._top is not None and self._top.loop in self.steps.loops:
            return True
        # An iteration that is run for its end is run as it was.
        left = self._top is not None and self._route.is_left_in(self._top)
        return left and not self._collecting

    def _inner_loop(self, name: str, iterable: Iterable[T], outer: Context) -> Iterator[T]:
        entry = outer.enter(name)
        values = range_of(iterable)
        steps = contexts.Steps(outer, name, entry, values)
        try:
            for index, value in enumerate(iterable):
                if values is None and type(value) in SCALARS:
                    self._place = Context(outer, name, index, value, entry)
                else:
                    steps.index = index
                    self._place = steps
                yield value
        finally:
            self._place = outer

    def _nested_loop(
        self, name: str, iterable: Iterable[T], frame: FrameType, outer: Context
    ) -> Iterator[T]:
        """Skip a nested loop by its snapshot; run it where there is none."""
        entry = (outer.entries or {}).get(name, 0)
        boundary = exit_of(outer.path, name, entry)
        if boundary not in self._boundaries:
            yield from self._inner_loop(name, iterable, outer)
            return
        outer.enter(name)
        self._restore(boundary, frame)

    def _top_loop(
        self, name: str, iterable: Iterable[T], frame: FrameType, outer: Context
    ) -> Iterator[T]:
        if self._set_up is None:
            self._set_up = time.perf_counter() - self._clock
        route = self._route
        loop = route.entry(name, outer.enter(name))
        if not route.passes(name):
            self._leave()
        wanted = route.wanted(loop)
        go_on = not route.is_last(loop)
        to_its_end = route.runs_to_its_end(loop)
        indexes = sorted({*wanted, max(loop.begun)}) if to_its_end and go_on else wanted
        if not indexes and not go_on:
            self._leave()
        if indexes:
            yield from self._iterate(loop, iterable, indexes, wanted, frame, outer, go_on)
        if to_its_end and go_on:
            raise ReplayError(
                f"the loop {name!r} ended in another way than in the run: {loop.end} then"
            )
        boundary = exit_of("", name, loop.entry)
        if not route.wholly(loop) and boundary in self._boundaries:
            self._restore(boundary, frame)
        elif not indexes or loop.end != "exhausted":
            raise ReplayError(f"there is no snapshot at the end of the loop {name!r}")

    def _iterate(
        self,
        loop: TopLoop,
        iterable: Iterable[T],
        indexes: list[int],
        wanted: list[int],
        frame: FrameType,
        outer: Context,
        go_on: bool,
    ) -> Iterator[T]:
        """Run iterations of a top-level loop, each from the nearest snapshot before it."""
        enter = enter_of("", loop.name, loop.entry)
        if enter in self._boundaries:
            # Before the iterator is made: making a DataLoader's draws its order. What
            # the snapshot misses is as the set-up has just made it.
            self._restore(enter, frame, check=False)
        elif not self.job.exact_or_nothing:
            raise ReplayError(f"there is no snapshot at the beginning of the loop {loop.name!r}")
        items = enumerate(iterable)
        may_skip = is_repeatable(iterable) and not self._route.wholly(loop)
        position = 0
        finished = False
        try:
            for index in indexes:
                start = self._route.resume_at(loop, index, position) if may_skip else position
                if start > position or (start == index and self._route.has_end(loop, index - 1)):
                    for _ in range(start - position):
                        next(items, None)
                    if start > 0 and may_skip:
                        self._restore(end_of(loop.path(start - 1)), frame)
                for number, value in items:
                    self._collecting = number == index and index in wanted
                    context = self._context = Context(outer, loop.name, number, value, loop.entry)
                    self._top = context
                    yield value
                    self._context = context
                    if number == index:
                        break
                position = index + 1
            finished = True
        finally:
            self._context, self._top, self._collecting = outer, None, True
            if not go_on and (finished or left_by_code(frame)):
                self._leave()
        if go_on and self._route.runs_out(loop):
            for _ in items:  # a loop that ends by itself is at the end of its items
                raise ReplayError(
                    f"the loop {loop.name!r} would go on after its last recorded iteration"
                )

    def _restore(self, boundary: str, frame: FrameType, check: bool = True) -> None:
        began = time.perf_counter()
        with self._reading(boundary):
            manifest = self._manifest(boundary)
            unread = len(self._objects.unread)
            failed = restore(manifest, self._objects, frame, self._checkpoint, self._present)
            if not check and len(self._objects.unread) > unread:
                # What is missing is as the set-up has made it; what is lost may be otherwise.
                raise SnapshotError(
                    next(why for p, why in failed.items() if p not in manifest.missing)
                )
        if boundary in self._ahead:
            del self._ahead[: self._ahead.index(boundary) + 1]
            self._look_ahead()
        seconds = time.perf_counter() - began
        self._restored[0] += 1
        self._restored[1] += seconds
        self._restored[2] += manifest.held
        self.output.loaded(seconds, manifest.held)
        blocking = blocking_names(failed, self.job.needed) if check else ()
        if blocking:
            first = blocking[0]
            raise ReplayError(
                f"the snapshot at {boundary} does not hold `{first}`, on which the statement "
                f"depends: {failed[first]}"
            )

    @contextmanager
    def _reading(self, boundary: str) -> Iterator[None]:
        before = len(self._objects.unread)
        try:
            yield
        except SnapshotError as error:
            self.unusable.add(boundary)
            raise ReplayError(f"the snapshot at {boundary} cannot be used: {error}") from error
        if len(self._objects.unread) > before:
            self.unusable.add(boundary)

    def _manifest(self, boundary: str) -> Manifest:
        coming, self._coming = self._coming, None
        if coming is not None and coming.boundary == boundary:
            return coming
        return self._snapshots.load(boundary)

    def _look_ahead(self) -> None:
        """Let the next snapshot be read from the disk while the script computes."""
        if self._ahead:
            with suppress(SnapshotError):  # it will be said if it is asked for
                self._coming = self._snapshots.load(self._ahead[0])
                self._objects.expect(self._coming.objects)


_COMPUTED = frozenset(("getattr", "vars", ".__dict__", "attrgetter", ".attrgetter", "eval", "exec"))
"""With these, code reads attributes that it does not name."""


def blocking_names(missing: Mapping[str, str], needed: Iterable[str]) -> list[str]:
    """Which of the paths that a snapshot misses matter to a statement that needs these names."""
    names = frozenset(needed)
    computes = not names.isdisjoint(_COMPUTED)
    found = []
    for path in sorted(missing):
        base, _, attributes = path.partition("[")[0].partition(".")
        token = f".{attributes.rpartition('.')[2]}" if attributes else base
        if token in names or (computes and missing[path].startswith(OF_TENSOR)):
            found.append(path)
    return found


def _path(text: str) -> Any:
    from pathlib import Path

    return Path(text)
