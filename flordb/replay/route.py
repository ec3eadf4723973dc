"""Which iterations of its top-level loops a replay runs, and from which snapshot it can go on."""

from __future__ import annotations

from collections.abc import Iterator

from flordb.record.context import Context, end_of, enter_of, exit_of
from flordb.replay.recorded import Recorded, TopLoop
from flordb.replay.task import Steps


class Route:
    """The steps of a replay, through a run as it was.

    Parameters: ``boundaries``, where the run has snapshots.
    """

    def __init__(self, steps: Steps, record: Recorded, boundaries: set[str]) -> None:
        self.steps = steps
        self.record = record
        self.boundaries = boundaries

    def entry(self, name: str, number: int) -> TopLoop:
        """An entry of a top-level loop as it was; without iterations where there was none."""
        return self.record.loops.get((name, number), TopLoop(name, number))

    def passes(self, name: str) -> bool:
        """Whether the replay has to do with a top-level loop at all."""
        return name in (*self.steps.loops, *self.steps.before)

    def wanted(self, loop: TopLoop) -> list[int]:
        """The iterations of an entry of a top-level loop whose values are wanted."""
        if loop.name not in self.steps.loops:
            return []
        if self.steps.iterations is None:
            return loop.reached
        return [index for index in loop.reached if index in self.steps.iterations]

    def is_last(self, loop: TopLoop) -> bool:
        """Whether nothing is wanted behind this entry of a loop, or the run ended in it."""
        raised = loop.end == "raised" and (self.record.error or not self.record.ended)
        if raised or (loop.end is None and loop.begun):
            return True
        if self.steps.go_on or loop.name not in self.steps.loops[-1:]:
            return False
        return not any(later.entry > loop.entry for later in self.record.entries(loop.name))

    def runs_to_its_end(self, loop: TopLoop) -> bool:
        """Whether the code has to leave the loop as it did in the run."""
        return loop.name in self.steps.finish and loop.end != "exhausted"

    def is_left_in(self, top: Context) -> bool:
        """Whether an iteration is run because the code left the loop in it."""
        loop = self.record.loops.get((top.loop, top.entry))
        return loop is not None and top.index == max(loop.begun) and top.loop in self.steps.finish

    def runs_out(self, loop: TopLoop) -> bool:
        """Whether the loop has to end by itself, and not by a snapshot."""
        return self.wholly(loop) or exit_of("", loop.name, loop.entry) not in self.boundaries

    def wholly(self, loop: TopLoop) -> bool:
        """Whether every iteration is run and nothing is loaded."""
        return self.steps.from_start and loop.name in self.steps.loops

    def has_end(self, loop: TopLoop, index: int) -> bool:
        """Whether there is a snapshot at the end of an iteration."""
        return end_of(loop.path(index)) in self.boundaries

    def resume_at(self, loop: TopLoop, index: int, position: int) -> int:
        """The latest iteration, at most ``index``, from which the replay can go on."""
        for start in range(index, position, -1):
            if self.has_end(loop, start - 1):
                return start
        return position

    def loads(self) -> Iterator[str]:
        """The boundaries whose snapshots the replay is likely to load, in order."""
        for loop in self.record.loops.values():
            if not self.passes(loop.name):
                return
            yield from filter(self.boundaries.__contains__, self._loads_of(loop))

    def _loads_of(self, loop: TopLoop) -> Iterator[str]:
        wanted, position = self.wanted(loop), 0
        if wanted:
            yield enter_of("", loop.name, loop.entry)
        if self.wholly(loop):
            return
        for index in wanted:
            start = self.resume_at(loop, index, position)
            if start > position or (start == index > 0 and self.has_end(loop, index - 1)):
                yield end_of(loop.path(start - 1))
            for inner in loop.nested.get(index, ()):
                if inner.name not in self.steps.run_nested:
                    yield exit_of(loop.path(index), inner.name, inner.entry)
            position = index + 1
        if not wanted or not self.is_last(loop):
            yield exit_of("", loop.name, loop.entry)
