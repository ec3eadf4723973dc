"""The columns that a statement needs of ``flor``: what each name in it means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp

from flordb.query.errors import UnknownName
from flordb.query.facts import DIMENSIONS, Columns
from flordb.query.statement import Reference


@dataclass(frozen=True)
class Needs:
    """What a statement needs of one reference to ``flor``.

    ``logged``: names of logged columns, stored or virtual, as in the text; ``loops``: loops whose
    columns are named; ``star``: all columns are asked for.
    """

    logged: tuple[str, ...]
    loops: tuple[str, ...]
    star: bool


def needs_of(reference: Reference, columns: Columns) -> Needs:
    """Collect and classify the names. Raises UnknownName for one that nothing could be."""
    select = reference.select
    if select is None:
        return Needs((), (), True)
    alone = _is_alone(select)
    aliases = {item.alias.lower() for item in select.selects if item.alias}
    logged: dict[str, None] = {}
    loops: dict[str, None] = {}
    for name, qualified in _names(select, reference):
        found = columns.logged(name)
        loop = columns.loop_of(name)
        if name.lower() in DIMENSIONS:
            continue
        if loop is not None:
            loops[loop] = None
        elif found is not None:
            logged[found] = None
        elif qualified or (alone and name.lower() not in aliases):
            raise UnknownName(name, columns.all_names())
    star = any(_is_star(item, reference) for item in select.selects) or not select.selects
    return Needs(tuple(logged), tuple(loops), star)


def _is_alone(select: exp.Select) -> bool:
    """Whether ``flor`` is all that the SELECT reads, so that each name must be a column of it."""
    outer = select.find_ancestor(exp.Select)
    return not select.args.get("joins") and not select.args.get("laterals") and outer is None


def _names(select: exp.Select, reference: Reference) -> Iterator[tuple[str, bool]]:
    """(name, whether it is qualified with the reference) of the columns that may be flor's."""
    alias = reference.alias.lower()
    for column in select.find_all(exp.Column):
        if isinstance(column.this, exp.Star) or _is_lambda_parameter(column):
            continue
        qualifier = column.table.lower()
        own = column.find_ancestor(exp.Select) is select
        if qualifier == alias:
            yield column.name, True
        elif not qualifier and (own or not _reads_flor(column, select)):
            yield column.name, False
    for join in select.args.get("joins") or ():
        for identifier in join.args.get("using") or ():
            yield identifier.name, False


def _reads_flor(column: exp.Column, select: exp.Select) -> bool:
    """Whether the column is in an inner SELECT that has a ``flor`` of its own."""
    inner = column.find_ancestor(exp.Select)
    while inner is not None and inner is not select:
        if any(table.name.lower() == "flor" for table in inner.find_all(exp.Table)):
            return True
        inner = inner.find_ancestor(exp.Select)
    return False


def _is_lambda_parameter(column: exp.Column) -> bool:
    function = column.find_ancestor(exp.Lambda)
    while function is not None:
        if any(column.name == parameter.name for parameter in function.expressions):
            return True
        function = function.find_ancestor(exp.Lambda)
    return False


def _is_star(item: exp.Expr, reference: Reference) -> bool:
    if isinstance(item, exp.Star):
        return True
    if isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
        return item.table.lower() in ("", reference.alias.lower())
    return any(isinstance(node, exp.Columns) for node in item.walk())
