"""How deep a replay must go: which scan gives a statement's value.

Decided by where the statement stands *and* by what it depends on. A stale value is never returned:
where a snapshot cannot give what the statement reads, the loop that computes it is run.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from flordb.analysis.files import rereads
from flordb.analysis.hidden import hidden_changes
from flordb.analysis.program import Program
from flordb.analysis.shapes import Shape, shapes
from flordb.analysis.slices import dependencies, names_read
from flordb.analysis.unrepeatable import unrepeatable
from flordb.analysis.walk import Visit, walk
from flordb.errors import ReplayError
from flordb.record.context import end_of, exit_of
from flordb.replay.propagate import Insertion
from flordb.replay.propagate.names import changes
from flordb.replay.recorded import Recorded, TopLoop
from flordb.replay.replayer import blocking_names as blocking
from flordb.replay.task import Steps
from flordb.store.snapshots import Manifest

Snapshots = Callable[[str], Manifest | None]
"""The snapshot at a boundary, None where there is none."""


def steps_for(
    program: Program,
    insertions: Sequence[Insertion],
    record: Recorded,
    iterations: tuple[int, ...] | None,
    snapshots: Snapshots,
) -> Depth:
    """The parts of a patched script that must run to give a statement's values.

    Parameters: ``insertions``, where the patch put the statement and its support; ``iterations``,
    the wanted indexes of the top-level loop (None: all). Raises ReplayError where the run cannot
    give the values.
    """
    visits = list(walk(program, libraries=True))
    statements = [v for v in visits if _inside(v, insertions, "statement", "opening")]
    support = [v for v in visits if _inside(v, insertions, "support")]
    if not statements:
        raise ReplayError("the statement stands in code that the script does not reach")
    fixed = str((record.header.get("env") or {}).get("PYTHONHASHSEED", "random")).isdigit()
    source = unrepeatable(program, [(v.module, v.statement) for v in statements], fixed)
    if source is not None:
        raise ReplayError(f"the value depends on what differs each time: {source}")
    read = frozenset[str]().union(*(names_read(v.statement) for v in statements))
    needed = dependencies(program, read)
    own = [visit for visit in visits if not visit.by_library]
    deepener = _Deepener(program, own, record, needed, snapshots)
    if any(v.by_library for v in (*statements, *support)):
        steps = deepener.anywhere()
    elif all(v.top_loop is None for v in (*statements, *support)):
        steps = deepener.outside(statements)
    else:
        steps = deepener.inside(statements, support, iterations)
    return Depth(steps, needed, tuple(deepener.why))


@dataclass(frozen=True)
class Depth:
    """``needed``: the names that the statement depends on; ``why``: why the replay goes deeper
    than where the statement stands."""

    steps: Steps
    needed: frozenset[str]
    why: tuple[str, ...]


def _inside(visit: Visit, insertions: Iterable[Insertion], *kinds: str) -> bool:
    line = visit.statement.lineno
    return any(
        i.kind in kinds and i.file == visit.module.path and i.first <= line <= i.last
        for i in insertions
    )


class _Deepener:
    """Finds the steps for a statement, deeper where a snapshot cannot give what it reads."""

    def __init__(
        self,
        program: Program,
        visits: Sequence[Visit],
        record: Recorded,
        needed: frozenset[str],
        snapshots: Snapshots,
    ) -> None:
        self.visits = visits
        self.record = record
        self.needed = needed
        self.snapshots = snapshots
        self.shapes = shapes(program)
        self.hidden = hidden_changes(program, visits)
        self.why: list[str] = []

    def outside(self, statements: Sequence[Visit]) -> Steps:
        """Before or after the top-level loops: a prefix or a suffix scan."""
        before = self.entered(max((v.done for v in statements), key=len))
        unseen = self.unseen()
        if unseen:
            self.why.append(f"{unseen[0]!r} is in code that names do not lead to")
            return self.all_of_it()
        if any(v.function is not None for v in statements):
            before = (*before, *self.entered_again(before))
        if not before:
            return Steps("prefix")
        if not self.rereads(after_loops=True) and all(self.skippable(name) for name in before):
            return Steps("suffix", before=before, finish=self.finish(before))
        # Their state cannot be loaded, so the loops are run: a range scan over all of them, and on.
        return Steps("range", loops=before, from_start=True, go_on=True)

    def anywhere(self) -> Steps:
        """For what a library calls, who knows where: all of the run."""
        self.why.append("a library calls it, at any time, so all of the run is repeated")
        return self.all_of_it()

    def all_of_it(self) -> Steps:
        tops = tuple(dict.fromkeys(name for name, _ in self.record.loops))
        if not tops:
            return Steps("prefix")
        return Steps("range", loops=tops, go_on=True).wholly()

    def unseen(self) -> list[str]:
        """The top-level loops of the run that the walk did not meet."""
        met = {visit.top_loop for visit in self.visits}
        return [name for name, _ in self.record.loops if name not in met]

    def entered_again(self, known: Sequence[str]) -> list[str]:
        """Other top-level loops that the run entered more than once. What a function does before
        one may come again after it: who calls functions how often is not known (a sweep's
        library, say)."""
        again = [name for name, entry in self.record.loops if entry == 1]
        return [name for name in again if name not in known]

    def entered(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the loops that the run entered. Raises ReplayError where it did not get past."""
        for name in names:
            entries = self.record.entries(name)
            if not self.came_past(entries[-1] if entries else None):
                raise ReplayError(_never_came(self.record, name))
        return tuple(name for name in names if self.record.entries(name))

    def came_past(self, loop: TopLoop | None) -> bool:
        if loop is None or loop.end == "raised":
            # Passed by, or left by an exception that the script caught.
            return self.record.ended and not self.record.error
        return loop.ended

    def inside(
        self,
        statements: Sequence[Visit],
        support: Sequence[Visit],
        iterations: tuple[int, ...] | None,
    ) -> Steps:
        inner = [v for v in (*statements, *support) if v.top_loop is not None]
        loops = tuple(dict.fromkeys(v.top_loop for v in inner if v.top_loop is not None))
        loops = tuple(name for name in loops if self.record.entries(name))
        if not loops:
            return self.handed_on(inner[0].top_loop or "")
        nested = {v.inner_loops[0] for v in inner if v.inner_loops}
        done = dict.fromkeys(name for v in statements for name in v.done)
        before = tuple(n for n in done if n not in loops and self.record.entries(n))
        go_on = any(v.top_loop is None and loops[-1] in v.done for v in statements)
        carries = _carries_over(support)
        if carries:
            self.why.append("new code adds up its own results over iterations")
        nested |= self.nested_to_run(loops)
        steps = Steps(
            "range" if nested else "validation",
            before=before,
            loops=loops,
            iterations=None if go_on or carries or len(loops) > 1 else iterations,
            run_nested=tuple(sorted(nested)),
            go_on=go_on,
            finish=self.finish((*before, *loops)),
        )
        if (before and self.rereads(True)) or not all(self.skippable(n) for n in before):
            return replace(
                steps, scan="range", before=(), loops=(*before, *loops), iterations=None
            ).wholly()
        if carries or self.rereads(go_on) or not all(self.resumable(name) for name in loops):
            return steps.wholly()
        return steps

    def handed_on(self, name: str) -> Steps:
        """For a loop that no other seems to be around, but was: a generator hands on that one's
        items. All of it is run."""
        around = {
            top.name
            for top in self.record.loops.values()
            if any(loop.name == name for nested in top.nested.values() for loop in nested)
        }
        if not around:
            raise ReplayError(f"the run never entered the loop {name!r}")
        tops = list(dict.fromkeys(top for top, _ in self.record.loops))
        last = max(tops.index(top) for top in around)
        self.why.append(f"{name!r} is in the loop {tops[last]!r}, whose items a generator hands on")
        return Steps("range", loops=tuple(tops[: last + 1]), run_nested=(name,)).wholly()

    def finish(self, names: Sequence[str]) -> tuple[str, ...]:
        """The loops that the code left in a way that matters, so that it must leave them again."""
        found = []
        for name in names:
            shape = self.shapes.get(name, Shape())
            for loop in self.record.entries(name):
                caught = loop.end == "raised" and self.came_past(loop)
                if name not in found and (caught or (loop.end == "left" and shape.to_its_end)):
                    found.append(name)
                    why = "it was left by an exception" if caught else shape.to_its_end
                    self.why.append(f"the end of {name!r} is run: {why}")
        return tuple(found)

    def rereads(self, after_loops: bool) -> bool:
        """Whether the script reads files again that its loops have written."""
        what = rereads(self.visits, after_loops)
        if what is not None:
            self.why.append(f"the loops write a file that is read again ({what})")
        return what is not None

    def skippable(self, name: str) -> bool:
        """Whether a top-level loop's effects can be loaded instead of being computed."""
        shape = self.shapes.get(name, Shape())
        if shape.wholly:
            self.why.append(f"{name!r} is run: {shape.wholly}")
            return False
        for loop in self.record.entries(name):
            if loop.end in ("raised", None):
                continue
            if not self.gives(name, exit_of("", name, loop.entry)):
                return False
        return True

    def resumable(self, name: str) -> bool:
        """Whether the replay can begin with a later iteration of a top-level loop."""
        shape = self.shapes.get(name, Shape())
        if shape.wholly:
            self.why.append(f"{name!r} is run from its beginning: {shape.wholly}")
            return False
        if shape.counted and (not shape.counts or shape.counts & self.needed):
            self.why.append(f"{name!r} is run from its beginning: {shape.counted} counts its items")
            return False
        for loop in self.record.entries(name):
            for index in sorted(loop.begun):
                if not self.gives(name, end_of(loop.path(index)), absent=True):
                    return False
        return True

    def nested_to_run(self, loops: Sequence[str]) -> set[str]:
        """Nested loops that are run because they cannot be passed over for this statement."""
        run: dict[str, None] = {}
        for top in (loop for name in loops for loop in self.record.entries(name)):
            for index, nested in sorted(top.nested.items()):
                for loop in nested:
                    shape = self.shapes.get(loop.name, Shape())
                    why = shape.wholly or (loop.end == "left" and shape.to_its_end)
                    if loop.name in run:
                        continue
                    if why:
                        self.why.append(f"{loop.name!r} is run: {why}")
                        run[loop.name] = None
                        continue
                    boundary = exit_of(top.path(index), loop.name, loop.entry)
                    if not self.gives(loop.name, boundary, absent=True):
                        run[loop.name] = None
        return set(run)

    def gives(self, loop: str, boundary: str, absent: bool = False) -> bool:
        """Whether the snapshot at a boundary gives all that the statement needs.

        Parameters: ``loop``, the one that it belongs to; ``absent``, the answer where there is
        no snapshot.
        """
        snapshot = self.snapshots(boundary)
        if snapshot is None:
            if not absent:
                self.why.append(f"there is no snapshot at {boundary}")
            return absent
        lost = {path: snapshot.missing[path] for path in blocking(snapshot.missing, self.needed)}
        lost |= self.hidden.lost(loop, self.needed, snapshot.names)
        if lost:
            name, why = next(iter(lost.items()))
            self.why.append(f"no snapshot holds `{name}`, on which it depends: {why}")
        return not lost


def _never_came(record: Recorded, name: str) -> str:
    how = f"with {record.error}" if record.error else "before it was done"
    return f"the run ended {how}, so the code after the loop {name!r} never ran"


def _carries_over(support: Sequence[Visit]) -> bool:
    """Whether new code in a loop builds on its own results of earlier iterations.

    Such code (``total += x``) has no snapshot, so all iterations from the first must run, unless
    it begins anew in each iteration.
    """
    brought = {visit.statement for visit in support}
    grows: set[str] = set()
    begins: set[str] = set()
    for visit in support:
        if visit.top_loop is None:
            continue
        written = {
            n.id
            for n in ast.walk(visit.statement)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        read = names_read(visit.statement)
        if visit.function is not None and visit.function in brought:
            # A function that is called anew each time begins anew; what it changes outside of
            # itself is refused before.
            continue
        if isinstance(visit.statement, ast.AugAssign):
            grows |= written
        elif isinstance(visit.statement, ast.Expr):
            grows |= changes(visit.statement) - set(visit.module.imports)
        else:
            grows |= written & read
            if not visit.inner_loops:
                begins |= written - read
    return bool(grows - begins)
