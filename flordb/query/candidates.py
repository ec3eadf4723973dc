"""Which runs, and which iterations of them, a statement wants values of that they lack.

DuckDB itself evaluates the conditions, on the runs and the iterations that were recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import duckdb
from sqlglot import exp

from flordb.query.facts import Columns, lacking
from flordb.query.needs import Needs
from flordb.query.predicates import Condition, Parameters, decidable, order_and_limit
from flordb.query.statement import Reference
from flordb.replay.plan import Want


@dataclass(frozen=True)
class _Run:
    run_id: int
    projid: str
    tstamp: Any
    filename: str
    file: str
    version: str | None
    state: str


def wants_of(
    connection: duckdb.DuckDBPyConnection,
    reference: Reference,
    needs: Needs,
    columns: Columns,
    parameters: Parameters,
) -> list[Want]:
    """What has to be acquired for one reference to ``flor``: a want a run and set of iterations."""
    virtual = [name for name in needs.logged if name in columns.virtual]
    if not virtual:
        return []
    condition = decidable(reference, columns, frozenset(virtual), parameters)
    ordered = order_and_limit(reference) if _all_decided(reference, columns, virtual) else None
    found: dict[tuple[int, tuple[int, ...] | None], tuple[_Run, list[str]]] = {}
    for name in virtual:
        for run, iterations in _lacking_runs(connection, name, columns, condition, ordered):
            found.setdefault((run.run_id, iterations), (run, []))[1].append(name)
    return [
        Want(
            *(run.run_id, run.projid, run.tstamp, run.filename, run.file, run.version),
            tuple(names),
            iterations,
        )
        for (_, iterations), (run, names) in found.items()
    ]


def _all_decided(reference: Reference, columns: Columns, virtual: list[str]) -> bool:
    """Whether no condition waits for acquired values, so that LIMIT may choose the runs."""
    select = reference.select
    where = select.args.get("where") if select is not None else None
    if where is None:
        return True
    names = [columns.logged(column.name) for column in where.find_all(exp.Column)]
    return not any(name in virtual for name in names)


def _lacking_runs(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    columns: Columns,
    condition: Condition,
    ordered: tuple[str, int] | None,
) -> Iterable[tuple[_Run, tuple[int, ...] | None]]:
    statements = columns.virtual[name]
    scripts = {script for statement in statements for script in statement.scripts}
    known = lacking(connection, name, [statement.digest for statement in statements])
    loops = {statement.nest[0] for statement in statements if statement.nest}
    loop = loops.pop() if len(loops) == 1 and all(s.nest for s in statements) else None
    rows = 0
    for run, iterations in _candidates(connection, columns, condition, loop, ordered):
        if ordered is not None and rows >= ordered[1]:
            return
        fact = known.get(run.run_id)
        if fact is not None and (fact.has_value or fact.all_done):
            # A run that was tried in vain has no row, so it takes no place under the LIMIT.
            rows += int(fact.has_value or _has_values(connection, run.run_id, name))
            continue
        rows += 1
        if run.state == "running" or run.filename not in scripts:
            continue
        if iterations is not None and fact is not None:
            iterations = tuple(i for i in iterations if i not in fact.done)
            if not iterations:
                continue
        yield run, iterations


def _has_values(connection: duckdb.DuckDBPyConnection, run_id: int, name: str) -> bool:
    sql = "SELECT 1 FROM flordb.logs WHERE run_id = ? AND value_name = ? LIMIT 1"
    return bool(connection.execute(sql, [run_id, name]).fetchall())


def _candidates(
    connection: duckdb.DuckDBPyConnection,
    columns: Columns,
    condition: Condition,
    loop: str | None,
    ordered: tuple[str, int] | None,
) -> list[tuple[_Run, tuple[int, ...] | None]]:
    """Runs for which the condition can hold, with the iterations of ``loop`` for which it can."""
    if any(other not in columns.loops for other in condition.loops):
        # A loop that no run has recorded: nothing can be decided by it.
        condition = Condition("true", [], (), (), condition.alias)
    restricts = loop in condition.loops
    loops = [other for other in condition.loops if other != loop]
    names = [*condition.stored, *loops, *((loop,) if restricts and loop else ())]
    index = f'"{loop}"' if restricts else "NULL::BIGINT"
    sql = (
        f"WITH chosen AS (SELECT projid, tstamp, filename, list(DISTINCT {index}) AS indexes "
        f'FROM ({_recorded(names)}) AS "{condition.alias}" WHERE {condition.sql} GROUP BY ALL) '
        "SELECT run_id, projid, tstamp, filename, file, version, state, indexes "
        "FROM flordb.runs JOIN chosen USING (projid, tstamp, filename) "
        f"WHERE coalesce(rank, 0) = 0 ORDER BY {ordered[0] if ordered else 'tstamp, filename'}"
    )
    found: list[tuple[_Run, tuple[int, ...] | None]] = []
    for *fields, indexes in connection.execute(sql, condition.parameters).fetchall():
        if not restricts:
            found.append((_Run(*fields), None))
            continue
        iterations = tuple(sorted(int(i) for i in indexes if i is not None))
        if iterations:
            found.append((_Run(*fields), iterations))
    return found


def _recorded(names: list[str]) -> str:
    """The runs, each with its rows of the pivot of these names, or with NULLs where it has none."""
    runs = "SELECT DISTINCT projid, tstamp, filename FROM flordb.runs"
    if not names:
        return runs
    listed = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
    pivot = f"FROM flor_pivot([{listed}])"
    return f"SELECT * FROM ({runs}) LEFT JOIN ({pivot}) USING (projid, tstamp, filename)"
