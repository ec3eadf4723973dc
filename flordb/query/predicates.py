"""Which parts of a WHERE clause can be decided before anything is acquired.

A part is used only where that cannot change the answer. On dimensions anything goes: each row of a
run has the same. A part that reads loops or logged names must come out false or NULL where one of
them is NULL, because the rows that are still to be acquired may lack what others have.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError

from flordb.query.facts import DIMENSIONS, Columns
from flordb.query.statement import Reference, conjuncts

Parameters = Sequence[Any] | Mapping[str, Any] | None

_VOLATILE = frozenset({"random", "uuid", "gen_random_uuid", "uuidv4", "uuidv7", "nextval"})


@dataclass(frozen=True)
class Part:
    """A condition that must hold, as SQL over the columns of ``flor``, unqualified.

    ``columns``: the loops and logged names that it reads, as the pivot is asked for them;
    ``names``: the logged names among them. ``parameters``: by the names that they have in ``sql``.
    ``is_plain``: it is the same whenever it is asked, which functions such as now() are not.
    """

    sql: str
    columns: tuple[str, ...]
    names: frozenset[str]
    parameters: Mapping[str, Any]
    is_plain: bool

    def key(self) -> Hashable:
        """What tells parts apart that are plain."""
        values = (self.parameters[name] for name in sorted(self.parameters))
        return self.sql, tuple((type(value), value) for value in values)


def decidable(reference: Reference, columns: Columns, parameters: Parameters) -> tuple[Part, ...]:
    """The parts of the WHERE clause that stored values can decide, where there are any."""
    scope = reference.scope
    where = scope.args.get("where") if scope is not None else None
    if scope is None or where is None or reference.renamed:
        return ()
    select = reference.select
    if select is None and scope.find(exp.Join):
        return ()
    kinds = {str(join.args.get(key) or "") for join in _joins(scope) for key in _JOIN_KEYS}
    if not kinds <= {"", "INNER", "CROSS", "LEFT", "RIGHT", "FULL", "OUTER"}:
        return ()  # ASOF, POSITIONAL and the like: each row decides about its neighbours
    strict = bool(kinds - {"", "INNER", "CROSS"})
    parts = []
    for condition in conjuncts(where.this):
        part = _part(condition, reference, columns, parameters, strict)
        if part is not None:
            parts.append(part)
    return tuple(parts)


_JOIN_KEYS = ("side", "kind", "method")


def _joins(scope: exp.Expr) -> list[exp.Join]:
    return list(scope.args.get("joins") or ())


def _part(
    condition: exp.Expr,
    reference: Reference,
    columns: Columns,
    parameters: Parameters,
    strict: bool,
) -> Part | None:
    """A condition as a part, None where it cannot be one."""
    if condition.find(exp.Query, exp.AggFunc, exp.Window, exp.Star) or _is_volatile(condition):
        return None
    found: dict[str, None] = {}
    names: set[str] = set()
    # In an UPDATE, a name without qualifier is that of the table which changes.
    own = {reference.alias.lower(), *([""] if reference.select is not None else [])}
    for column in condition.find_all(exp.Column):
        if column.args.get("db") or column.table.lower() not in own:
            return None
        logged = columns.logged(column.name)
        if column.name.lower() in DIMENSIONS:
            if not strict:
                continue
        elif (loop := columns.loop_of(column.name)) is not None:
            # A recorded loop's name brings both of its columns.
            found[loop if loop in columns.loops else column.name] = None
        elif logged is not None:
            found[column.name] = None
            names.add(logged)
        else:
            return None
        if not rejects_null(condition, column.name):
            return None
    text, values = printed(condition, parameters)
    if text is None:
        return None
    plain = is_plain(condition) and all(type(v) in _PLAIN_VALUES for v in values.values())
    return Part(text, tuple(found), frozenset(names), values, plain)


# No functions at all: the user may have made one of that name.
_PLAIN = frozenset(
    {
        *(exp.And, exp.Or, exp.Not, exp.Paren, exp.Column, exp.Identifier, exp.Placeholder),
        *(exp.Literal, exp.Boolean, exp.Null, exp.Neg, exp.Between, exp.In, exp.Is),
        *(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Like, exp.ILike),
        *(exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.Tuple),
        *(exp.Cast, exp.DataType, exp.DataTypeParam, exp.Interval, exp.Var),
    }
)
_PLAIN_VALUES = frozenset({bool, int, float, str, bytes, date, datetime, Decimal, type(None)})


def is_plain(condition: exp.Expr) -> bool:
    """Whether a condition has nothing in it but columns, constants, operators and casts."""
    return all(type(node) in _PLAIN for node in condition.walk())


def _is_volatile(condition: exp.Expr) -> bool:
    calls = condition.find_all(exp.Func)
    return any(
        (call.name if isinstance(call, exp.Anonymous) else call.sql_name()).lower() in _VOLATILE
        or isinstance(call, (exp.Rand, exp.Uuid))
        for call in calls
    )


def printed(tree: exp.Expr, parameters: Parameters) -> tuple[str | None, dict[str, Any]]:
    """SQL for a part of a statement, without qualifiers, and the values of its parameters.

    None where sqlglot's text for it does not mean what it read, or a value is missing.
    """
    tree = tree.copy()
    for column in tree.find_all(exp.Column):
        column.set("table", None)
    values: dict[str, Any] = {}
    for node in list(tree.find_all(exp.Placeholder)):
        given = _value(node.name, parameters)
        if given is None:
            return None, {}
        name = f"p_{node.name}"
        values[name] = given[0]
        node.set("this", name)
    text = tree.sql(dialect="duckdb")
    try:
        if parse_one(text, read="duckdb") != tree:
            return None, {}
    except SqlglotError:
        return None, {}
    return text, values


def _value(name: str, parameters: Parameters) -> tuple[Any] | None:
    if isinstance(parameters, Mapping):
        return (parameters[name],) if name in parameters else None
    if not parameters or not name.isdigit() or int(name) > len(parameters):
        return None
    return (parameters[int(name) - 1],)


def rejects_null(condition: exp.Expr, name: str) -> bool:
    """Whether a condition cannot be true where the column is NULL."""
    if isinstance(condition, exp.Paren):
        return rejects_null(condition.this, name)
    if isinstance(condition, exp.And):
        return rejects_null(condition.left, name) or rejects_null(condition.right, name)
    if isinstance(condition, exp.Or):
        return rejects_null(condition.left, name) and rejects_null(condition.right, name)
    if isinstance(condition, exp.Not):
        inner = condition.this
        while isinstance(inner, exp.Paren):
            inner = inner.this
        if isinstance(inner, exp.Is) and isinstance(inner.expression, exp.Null):
            return _is_null(inner.this, name)
        return _is_null(inner, name)
    if isinstance(condition, exp.Between):
        return any(_is_null(part, name) for part in condition.iter_expressions())
    return _is_null(condition, name)


_STRICT = (exp.Paren, exp.Neg, exp.Cast, exp.Not)
_STRICT_PAIRS = (
    *(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Like, exp.ILike),
    *(exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod),
)


def _is_null(value: exp.Expr, name: str) -> bool:
    """Whether a value is NULL wherever the column is."""
    if isinstance(value, exp.Column):
        return value.name.lower() == name.lower()
    if isinstance(value, (*_STRICT, exp.Between)):
        return _is_null(value.this, name)
    if isinstance(value, exp.In):
        return bool(value.expressions) and _is_null(value.this, name)
    if isinstance(value, _STRICT_PAIRS):
        return _is_null(value.left, name) or _is_null(value.right, name)
    return False


def merged(parts: Iterable[Part]) -> tuple[str, dict[str, Any]]:
    """All parts as one condition."""
    found = list(parts)
    values = {name: value for part in found for name, value in part.parameters.items()}
    return " AND ".join(f"({part.sql})" for part in found) or "true", values
