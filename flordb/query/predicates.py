"""Which parts of a WHERE clause can be decided before anything is acquired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from flordb.query.facts import DIMENSIONS, Columns
from flordb.query.statement import Reference, conjuncts

Parameters = list[Any] | tuple[Any, ...] | dict[str, Any] | None


@dataclass(frozen=True)
class Condition:
    """A condition on stored columns and dimensions, as SQL, with the values of its parameters.

    ``stored``: the logged names that it reads; ``loops``: the loops whose columns it reads;
    ``alias``: the name of the relation that its columns may be qualified with.
    """

    sql: str
    parameters: list[Any] | dict[str, Any]
    stored: tuple[str, ...]
    loops: tuple[str, ...]
    alias: str


def decidable(
    reference: Reference, columns: Columns, wanted: frozenset[str], parameters: Parameters
) -> Condition:
    """The parts of the WHERE clause that do not depend on what is to be acquired.

    Parameters: ``wanted``, the names that may be acquired; ``parameters``, the statement's.
    A part with a subquery, a column of another relation or an unknown name is left out, which
    makes the condition weaker, never wrong.
    """
    select = reference.select
    where = select.args.get("where") if select is not None else None
    chosen = [
        part
        for part in (conjuncts(where.this) if where is not None else ())
        if _is_decidable(part, reference, columns, wanted)
    ]
    names = [c.name for part in chosen for c in part.find_all(exp.Column)]
    loops = tuple(dict.fromkeys(loop for n in names if (loop := columns.loop_of(n)) is not None))
    logged = [columns.logged(n) for n in names if columns.loop_of(n) is None]
    stored = tuple(dict.fromkeys(n for n in logged if n is not None))
    sql = " AND ".join(f"({part.sql(dialect='duckdb')})" for part in chosen) or "true"
    values = _values(chosen, reference, parameters)
    return Condition(sql, values, stored, loops, reference.alias)


def _is_decidable(
    part: exp.Expr, reference: Reference, columns: Columns, wanted: frozenset[str]
) -> bool:
    if part.find(exp.Query, exp.AggFunc, exp.Window) is not None or _is_numbered(part):
        return False
    if _placeholders(part) and _comes_first(reference):
        return False  # FROM flor SELECT …: the tree is not in the order of the text
    for column in part.find_all(exp.Column):
        if column.table and column.table.lower() != reference.alias.lower():
            return False
        if column.name.lower() in DIMENSIONS or columns.loop_of(column.name) is not None:
            continue
        logged = columns.logged(column.name)
        if logged is None or logged in wanted or logged not in columns.stored:
            return False
    return True


def _comes_first(reference: Reference) -> bool:
    """Whether the FROM clause stands before what is selected."""
    select = reference.select
    starts = [
        identifier.meta["start"]
        for item in (select.selects if select is not None else ())
        for identifier in item.find_all(exp.Identifier)
        if "start" in identifier.meta
    ]
    return bool(starts) and reference.start < min(starts)


def _values(
    parts: list[exp.Expr], reference: Reference, parameters: Parameters
) -> list[Any] | dict[str, Any]:
    """The parameters that the chosen parts use."""
    used = [node for part in parts for node in _placeholders(part)]
    if isinstance(parameters, dict):
        names = {node.name for node in used}
        return {name: value for name, value in parameters.items() if name in names}
    if not parameters:
        return []
    assert reference.select is not None
    # DuckDB numbers them in the order of the text, which is that of the tree, depth first.
    numbers = {id(node): n for n, node in enumerate(_placeholders(reference.select.root()))}
    return [parameters[numbers[id(node)]] for node in used]


def _placeholders(tree: exp.Expr) -> list[exp.Expr]:
    """The parameters of a tree, ``?`` and ``$name``, in the order of the text."""
    return [node for node in tree.walk(bfs=False) if isinstance(node, exp.Placeholder)]


def _is_numbered(part: exp.Expr) -> bool:
    return any(node.name.isdigit() for node in _placeholders(part))


def order_and_limit(reference: Reference) -> tuple[str, int] | None:
    """(ORDER BY on dimensions of runs, rows needed) where they decide which runs are needed.

    Only where each run's rows stand together in that order and nothing but them is counted: no
    grouping, no DISTINCT, no window, no join. None where that isn't so.
    """
    select = reference.select
    if select is None or select.parent is not None:
        return None
    for clause in ("group", "having", "qualify", "distinct", "joins", "laterals", "windows"):
        if select.args.get(clause):
            return None
    if any(item.find(exp.AggFunc, exp.Window, exp.Unnest) for item in select.selects):
        return None
    limit, order = select.args.get("limit"), select.args.get("order")
    if not isinstance(limit, exp.Limit) or not isinstance(order, exp.Order):
        return None
    if not isinstance(limit.expression, exp.Literal) or not limit.expression.is_int:
        return None
    offset = select.args.get("offset")
    skipped = 0
    if offset is not None:
        if not isinstance(offset.expression, exp.Literal) or not offset.expression.is_int:
            return None
        skipped = int(offset.expression.this)
    aliases = {item.alias.lower() for item in select.selects if item.alias}
    for term in order.expressions:
        column = term.this
        named = isinstance(column, exp.Column) and column.name.lower() in DIMENSIONS
        if not named or column.name.lower() in aliases:
            return None
    terms = ", ".join(
        f"{term.this.name} {'DESC' if term.args.get('desc') else 'ASC'}"
        for term in order.expressions
    )
    return terms, int(limit.expression.this) + skipped
