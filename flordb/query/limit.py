"""ORDER BY tstamp DESC LIMIT 3 needs the newest runs only: cuts what a statement wants by that.

The statement's own rows, as far as they are known by now, say where the limit falls. Runs that lie
behind it cannot matter; of the others, as many are acquired as rows are asked for. Then the planner
looks again: where a run gave no rows, or a condition on a new value dropped them, the limit has
moved, and the next runs follow. Sound for whatever else the statement says, as long as its rows
are rows of ``flor`` (no aggregates, joins, windows), ordered by dimensions of runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from flordb.query.facts import DIMENSIONS, Tables
from flordb.query.predicates import Parameters, printed
from flordb.query.statement import Reference
from flordb.replay.want import Want

_OTHER_CLAUSES = ("group", "having", "qualify", "distinct", "joins", "laterals", "windows", "with_")


def within_limit(
    tables: Tables,
    reference: Reference,
    pivot: str,
    wants: Sequence[Want],
    parameters: Parameters,
) -> list[Want]:
    """The wants that can matter next; all of them where the statement is not of that form.

    Parameters: ``pivot``, the relation that stands for the reference.
    """
    select = reference.select
    count = _rows_asked(select) if select is not None else None
    keys = _keys(select) if select is not None else None
    if select is None or count is None or keys is None or not wants:
        return list(wants)
    where = select.args.get("where")
    condition, values = printed(where.this, parameters) if where is not None else ("true", {})
    if condition is None:
        return list(wants)
    chosen = _first_runs(tables, keys, count, (pivot, condition), values, wants)
    return [want for want in wants if want.run_id in chosen]


def _first_runs(
    tables: Tables,
    keys: Sequence[tuple[str, str]],
    count: int,
    known: tuple[str, str],
    values: dict[str, object],
    wants: Sequence[Want],
) -> set[int]:
    """The first ``count`` runs of those that do not lie behind the last row that is asked for."""
    pivot, condition = known
    columns = ", ".join(name for name, _ in keys)
    order = ", ".join(f"{name} {direction}" for name, direction in keys)
    ids = ", ".join(str(want.run_id) for want in wants)
    sql = (
        f"WITH last AS (SELECT {columns} FROM {pivot} WHERE {condition} "
        f"ORDER BY {order} LIMIT 1 OFFSET {count - 1}), "
        f"marked AS (SELECT run_id, {columns} FROM flordb.runs WHERE run_id IN ({ids}) "
        f"UNION ALL SELECT NULL, {columns} FROM last), "
        f"numbered AS (SELECT run_id, rank() OVER (ORDER BY {order}) AS place FROM marked) "
        "SELECT DISTINCT run_id, place FROM numbered WHERE run_id IS NOT NULL AND place <= coalesce"
        f"((SELECT place FROM numbered WHERE run_id IS NULL), place) ORDER BY place LIMIT {count}"
    )
    return {run_id for run_id, _ in tables.rows(sql, values)}


def _rows_asked(select: exp.Select) -> int | None:
    """How many rows of the ordered whole are read; None where that is not said in so many words."""
    if select.parent is not None and not isinstance(select.parent, (exp.Create, exp.Copy)):
        return None
    if any(select.args.get(clause) for clause in _OTHER_CLAUSES):
        return None
    if any(item.find(exp.AggFunc, exp.Window, exp.UDTF) for item in select.selects):
        return None
    if len(list(select.find_all(exp.Table))) != 1:
        return None
    limit, offset = select.args.get("limit"), select.args.get("offset")
    skipped = _integer(offset.expression) if isinstance(offset, exp.Offset) else 0
    asked = _integer(limit.expression) if isinstance(limit, exp.Limit) else None
    if not asked or skipped is None or (isinstance(limit, exp.Limit) and limit.expressions):
        return None
    return asked + skipped


def _integer(value: exp.Expr) -> int | None:
    return int(value.this) if isinstance(value, exp.Literal) and value.is_int else None


def _keys(select: exp.Select) -> list[tuple[str, str]] | None:
    """(dimension, direction) of ORDER BY; None where it orders by anything else."""
    order = select.args.get("order")
    aliases = {item.alias.lower() for item in select.selects if item.alias}
    where = select.args.get("where")
    read = {column.name.lower() for column in where.find_all(exp.Column)} if where else set()
    if not isinstance(order, exp.Order) or read & aliases:
        return None
    keys = []
    for term in order.expressions:
        column = term.this
        if not isinstance(column, exp.Column) or column.name.lower() in aliases:
            return None
        if column.name.lower() not in DIMENSIONS[:3]:
            return None
        keys.append((column.name, "DESC" if term.args.get("desc") else "ASC"))
    return keys
