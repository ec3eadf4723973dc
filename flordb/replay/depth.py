"""How deep a replay must go: which scan gives a statement's value.

Decided by where the statement stands *and* by what it depends on. A stale value is never returned:
where a snapshot cannot give what the statement reads, the loop that computes it is run.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from flordb.analysis.program import Program
from flordb.analysis.slices import dependencies, names_read
from flordb.analysis.walk import Visit, walk
from flordb.errors import ReplayError
from flordb.record.context import end_of, exit_of
from flordb.replay.propagate import Insertion
from flordb.replay.recorded import Recorded
from flordb.replay.replayer import blocking_names
from flordb.replay.task import Steps

Missing = Callable[[str], Mapping[str, str] | None]
"""What a snapshot at a boundary misses (path to reason), None where there is no snapshot."""


def steps_for(
    program: Program,
    insertions: Sequence[Insertion],
    record: Recorded,
    iterations: tuple[int, ...] | None,
    missing: Missing,
) -> tuple[Steps, frozenset[str]]:
    """The parts of a patched script that must run, and the names that the statement needs.

    Parameters: ``insertions``, where the patch put the statement and its support; ``iterations``,
    the wanted indexes of the top-level loop (None: all); ``missing``, see `Missing`.
    Raises ReplayError where the run cannot give the value.
    """
    visits = list(walk(program))
    statements = [v for v in visits if _inside(v, insertions, "statement")]
    support = [v for v in visits if _inside(v, insertions, "support")]
    if not statements:
        raise ReplayError("the statement stands in code that the script does not reach")
    needed = dependencies(
        program, frozenset().union(*(names_read(v.statement) for v in statements))
    )
    if all(v.top_loop is None for v in (*statements, *support)):
        return _outside(statements, record, needed, missing), needed
    steps = _inside_loops(statements, support, record, iterations)
    return _deepen(steps, record, needed, missing), needed


def _inside(visit: Visit, insertions: Iterable[Insertion], kind: str) -> bool:
    line = visit.statement.lineno
    return any(
        i.kind == kind and i.file == visit.module.path and i.first <= line <= i.last
        for i in insertions
    )


def _outside(
    statements: Sequence[Visit], record: Recorded, needed: frozenset[str], missing: Missing
) -> Steps:
    """Before or after the top-level loops: a prefix or a suffix scan."""
    before = max((v.done for v in statements), key=len)
    if not before:
        return Steps("prefix")
    for name in before:
        loop = record.loops.get(name)
        if loop is None or not loop.ended:
            raise ReplayError(_never_came(record, name))
    kept = [missing(exit_of("", name, 0)) for name in before]
    if all(m is not None and not blocking_names(m, needed) for m in kept):
        return Steps("suffix", before=before)
    # Their state cannot be loaded, so the loops are run: a range scan over all of them, and on.
    return Steps("range", loops=before, from_start=True, go_on=True)


def _never_came(record: Recorded, name: str) -> str:
    how = f"with {record.error}" if record.error else "before it was done"
    return f"the run ended {how}, so the code after the loop {name!r} never ran"


def _inside_loops(
    statements: Sequence[Visit],
    support: Sequence[Visit],
    record: Recorded,
    iterations: tuple[int, ...] | None,
) -> Steps:
    inner = [v for v in (*statements, *support) if v.top_loop is not None]
    loops = tuple(dict.fromkeys(v.top_loop for v in inner if v.top_loop is not None))
    loops = tuple(name for name in loops if name in record.loops)
    if not loops:
        raise ReplayError(f"the run never entered the loop {inner[0].top_loop!r}")
    nested = tuple(sorted({v.inner_loops[0] for v in inner if v.inner_loops}))
    done = dict.fromkeys(name for v in statements for name in v.done)
    go_on = any(loops[-1] in v.done for v in statements)
    carries = _carries_over([v for v in support if v.top_loop is not None])
    return Steps(
        "range" if nested else "validation",
        before=tuple(name for name in done if name not in loops),
        loops=loops,
        iterations=None if go_on or carries or len(loops) > 1 else iterations,
        run_nested=nested,
        go_on=go_on,
        from_start=carries,
    )


def _carries_over(support: Sequence[Visit]) -> bool:
    """Whether new code in a loop builds on its own results of earlier iterations.

    Such code (``total += x``) has no snapshot, so all iterations from the first must run, unless
    it begins anew in each iteration.
    """
    grows: set[str] = set()
    begins: set[str] = set()
    for visit in support:
        written = {
            n.id
            for n in ast.walk(visit.statement)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        read = names_read(visit.statement)
        if isinstance(visit.statement, ast.AugAssign):
            grows |= written
        elif isinstance(visit.statement, ast.Expr):
            grows |= {n for n in read if not n.startswith(".")}
        else:
            grows |= written & read
            if not visit.inner_loops:
                begins |= written - read
    return bool(grows - begins)


def _deepen(steps: Steps, record: Recorded, needed: frozenset[str], missing: Missing) -> Steps:
    """Run nested loops whose snapshots cannot give what the statement needs."""
    run = set(steps.run_nested)
    resumable = True
    for loop in (record.loops[name] for name in steps.loops):
        for index in sorted(loop.iterations):
            path = f"{loop.name}={index}"
            for name in loop.nested.get(index, {}):
                kept = missing(exit_of(path, name, 0))
                if kept is not None and blocking_names(kept, needed):
                    run.add(name)
            kept = missing(end_of(path))
            if kept is not None and blocking_names(kept, needed):
                resumable = False
    return replace(
        steps,
        scan="range" if run else steps.scan,
        run_nested=tuple(sorted(run)),
        from_start=steps.from_start or not resumable,
    )
