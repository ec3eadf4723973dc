"""Which runs, and which iterations of them, a statement wants values of that they lack.

DuckDB itself evaluates the conditions, on the runs and the iterations that were recorded. A
condition on a value that a run lacks says nothing about that run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flordb.analysis.statements import LogStatement
from flordb.query import facts
from flordb.query.facts import Columns, Run, Tables
from flordb.query.needs import Needs
from flordb.query.pivots import relation
from flordb.query.predicates import Parameters, Part, decidable, merged
from flordb.query.statement import Reference
from flordb.replay.lacking import Tried
from flordb.replay.want import Want

Iterations = frozenset[int] | None
"""Indexes of a top-level loop; None for all of the run."""


@dataclass(frozen=True)
class _Lack:
    """A run that lacks a name, but for the iterations in ``done``. ``why``: it is not tried again,
    because nothing came of it before."""

    run: Run
    name: str
    done: frozenset[int]
    why: str = ""


@dataclass(frozen=True)
class Found:
    """What a reference to ``flor`` lacks: what has to be acquired, a want a run and set of
    iterations, and what was tried in vain before."""

    wants: tuple[Want, ...] = ()
    tried: tuple[Tried, ...] = ()


def lacking(
    tables: Tables,
    reference: Reference,
    needs: Needs,
    columns: Columns,
    parameters: Parameters,
) -> Found:
    """What one reference to ``flor`` lacks in the runs that its conditions leave."""
    virtual = {name: columns.virtual[name] for name in needs.logged if name in columns.virtual}
    if not virtual:
        return Found()
    about = tuple(virtual.items())
    lacks = tables.once(("lacks", about), lambda: _lacks(tables, virtual))
    if not lacks:
        return Found()
    parts = decidable(reference, columns, parameters)

    def find() -> Found:
        fresh = [lack for lack in lacks if not lack.why]
        vain = [lack for lack in lacks if lack.why]
        wants = _wants(tables, virtual, fresh, parts) if fresh else ()
        return Found(tuple(wants), tuple(_tried(tables, virtual, vain, parts)) if vain else ())

    if not all(part.is_plain for part in parts):
        return find()
    return tables.once(("lacking", about, tuple(part.key() for part in parts)), find)


def _wants(
    tables: Tables,
    virtual: Mapping[str, Sequence[LogStatement]],
    lacks: Sequence[_Lack],
    parts: Sequence[Part],
) -> Iterator[Want]:
    loops = {name: _main_loop(statements) for name, statements in virtual.items()}
    decided = _decided(tables, lacks, parts, set(loops.values()))
    recorded = {
        loop: facts.iterations(tables, loop) for loop in set(loops.values()) if loop is not None
    }
    found: dict[tuple[int, Iterations], tuple[Run, list[str]]] = {}
    for lack in lacks:
        loop = loops[lack.name]
        chosen = decided[loop]
        if lack.run.run_id not in chosen:
            continue
        all_of_it = recorded[loop].get(lack.run.run_id, frozenset()) if loop else frozenset()
        wanted = _less(chosen[lack.run.run_id], lack.done, all_of_it)
        if wanted is None or wanted:
            found.setdefault((lack.run.run_id, wanted), (lack.run, []))[1].append(lack.name)
    return (_want(run, names, wanted) for (_, wanted), (run, names) in found.items())


def _tried(
    tables: Tables,
    virtual: Mapping[str, Sequence[LogStatement]],
    lacks: Sequence[_Lack],
    parts: Sequence[Part],
) -> Iterator[Tried]:
    loops = {name: _main_loop(statements) for name, statements in virtual.items()}
    decided = _decided(tables, lacks, parts, set(loops.values()))
    for lack in lacks:
        if lack.run.run_id in decided[loops[lack.name]]:
            yield Tried(_want(lack.run, [lack.name], None), (lack.name,), lack.why)


def _want(run: Run, names: list[str], wanted: Iterations) -> Want:
    identity = (run.run_id, run.projid, run.tstamp, run.filename, run.file, run.version)
    return Want(*identity, tuple(names), None if wanted is None else tuple(sorted(wanted)))


def _less(wanted: Iterations, done: frozenset[int], all_of_it: frozenset[int]) -> Iterations:
    """What is still to be done; all of a run is said so."""
    if not done:
        return None if wanted is None or wanted == all_of_it else wanted
    return (all_of_it if wanted is None else wanted) - done


def _main_loop(statements: Sequence[LogStatement]) -> str | None:
    """The top-level loop that all statements of a name stand in."""
    loops = {statement.nest[0] if statement.nest else None for statement in statements}
    return loops.pop() if len(loops) == 1 else None


def _lacks(tables: Tables, virtual: Mapping[str, Sequence[LogStatement]]) -> list[_Lack]:
    """The runs that lack a name, in the order of time, and that a statement of the code reaches.

    A run of which some iterations were tried in vain is there twice where others are lacking.
    """
    digests = {name: {s.digest for s in found} for name, found in virtual.items()}
    known = facts.attempts(tables, digests)
    found = []
    runs = facts.ended_runs(tables)
    for name, statements in virtual.items():
        scripts = {script for s in statements for script in (*s.scripts, s.file)}
        in_loop = _main_loop(statements) is not None
        for run in runs:
            attempt = known.get((run.run_id, name), facts.NOTHING)
            complete = attempt.whole or (not in_loop and attempt.iterations)
            if run.filename not in scripts:
                continue
            if not complete:
                found.append(_Lack(run, name, attempt.iterations))
            if attempt.why:
                found.append(_Lack(run, name, attempt.iterations, attempt.why))
    return found


def _decided(
    tables: Tables,
    lacks: Iterable[_Lack],
    parts: Sequence[Part],
    loops: Iterable[str | None],
) -> dict[str | None, dict[int, Iterations]]:
    """By loop and run_id, the iterations for which the decidable conditions can hold."""
    lacking: dict[int, set[str]] = {}
    for lack in lacks:
        lacking.setdefault(lack.run.run_id, set()).add(lack.name)
    groups: dict[frozenset[str], list[int]] = {}
    used = frozenset[str]().union(*(part.names for part in parts))
    for run_id, names in lacking.items():
        groups.setdefault(used & names, []).append(run_id)
    usable = {blocked: [part for part in parts if not part.names & blocked] for blocked in groups}
    return {
        loop: {
            run_id: iterations
            for blocked, run_ids in groups.items()
            for run_id, iterations in _holding(tables, usable[blocked], run_ids, loop).items()
        }
        for loop in loops
    }


def _holding(
    tables: Tables,
    parts: Sequence[Part],
    run_ids: Sequence[int],
    loop: str | None,
) -> dict[int, Iterations]:
    """The runs for which the parts hold together, each with the iterations for which they do."""
    condition, values = merged(parts)
    listed = list(dict.fromkeys(column for part in parts for column in part.columns))
    ids = ", ".join(map(str, run_ids))
    if not listed:
        sql = f"SELECT run_id FROM flordb.runs WHERE run_id IN ({ids}) AND {condition}"
        rows = tables.rows(sql, values)
        return {run_id: None for (run_id,) in rows}
    if loop is not None and loop.lower() not in (column.lower() for column in listed):
        listed.append(loop)
    pivot = relation(tables, listed)
    index = '"' + loop.replace('"', '""') + '"' if loop is not None else "NULL"
    rows = tables.rows(
        f"WITH chosen AS (SELECT projid, tstamp, filename, list(DISTINCT {index}) AS indexes, "
        f"count(*) > count({index}) AS outside FROM {pivot} WHERE {condition} "
        "GROUP BY ALL) SELECT DISTINCT run_id, indexes, outside FROM flordb.runs "
        f"JOIN chosen USING (projid, tstamp, filename) WHERE run_id IN ({ids})",
        values,
    )
    return {
        run_id: None if outside else frozenset(int(i) for i in indexes if i is not None)
        for run_id, indexes, outside in rows
    }
