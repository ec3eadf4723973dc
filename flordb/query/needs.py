"""The columns that a statement needs of ``flor``: what each name in it means.

DuckDB's own rules decide: in ORDER BY and HAVING an alias of the SELECT list comes before a column
of that name, everywhere else after it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from sqlglot import exp

from flordb.query.errors import UnknownName
from flordb.query.facts import DIMENSIONS, Columns
from flordb.query.statement import Reference


@dataclass(frozen=True)
class Needs:
    """What a statement needs of one reference to ``flor``.

    ``logged``: names of logged columns, stored or virtual; ``loops``: loops whose columns are
    named; ``star``: all columns are asked for. ``maybe``: names in the statement that may be its
    columns, or another relation's: DuckDB's binder decides. ``brief``: of the dimensions, nothing
    but tstamp can be meant.
    """

    logged: tuple[str, ...]
    loops: tuple[str, ...]
    star: bool
    maybe: frozenset[str] = frozenset()
    brief: bool = False


def needs_of(
    reference: Reference,
    columns: Columns,
    named: Collection[str] = (),
    described: Callable[[exp.Expr], Collection[str]] = lambda relation: (),
) -> Needs:
    """Collect and classify the names. Raises UnknownName for one that nothing could be.

    Parameters: ``named``, names in other statements that read what this one defines;
    ``described`` tells the columns of another relation, which NATURAL JOIN compares.
    """
    scope = reference.scope
    if reference.pivot is not None:
        return _named_in(reference.pivot, columns)
    star = (
        scope is None
        or len(reference.renamed) > _RUN_COLUMNS
        or _asks_for_all(scope, reference)
        or _is_read_whole(reference, columns)
    )
    logged: dict[str, None] = {}
    loops: dict[str, None] = {}
    if scope is not None:
        logged, loops = _named_by(scope, reference, columns, described)
    if star:
        # Whoever reads all columns further on may name some of them there.
        wished = (columns.logged(name) for name in {*names_in(reference.tree), *named})
        logged |= dict.fromkeys(sorted(name for name in wished if name is not None))
    maybe = frozenset() if star or scope is None else _maybe(scope, columns)
    brief = not star and scope is not None and _is_brief(scope, reference)
    return Needs(tuple(logged), tuple(loops), star, maybe - logged.keys() - loops.keys(), brief)


_RUN_COLUMNS = 3  # projid, tstamp, filename are the first columns whatever else is asked for


def _named_in(pivot: exp.Pivot, columns: Columns) -> Needs:
    """All that is named in a statement that reads nothing but ``flor``."""
    named = sorted(names_in(pivot))
    loops = dict.fromkeys(loop for name in named if (loop := columns.loop_of(name)) is not None)
    others = [name for name in named if columns.loop_of(name) is None]
    logged = dict.fromkeys(found for name in others if (found := columns.logged(name)) is not None)
    return Needs(tuple(logged), tuple(loops), star=False)


def _named_by(
    scope: exp.Expr,
    reference: Reference,
    columns: Columns,
    described: Callable[[exp.Expr], Collection[str]],
) -> tuple[dict[str, None], dict[str, None]]:
    """The logged names and the loops that the statement which reads ``flor`` names itself."""
    select = scope if isinstance(scope, exp.Select) else None
    alone = select is not None and _is_alone(select)
    aliases = _aliases(select) if select is not None else set()
    shared = select is not None and _is_natural(select)
    offered = [] if select is None else list(_offered(select, reference))
    provided = {name.lower() for other in offered for name in other.said if not shared}
    logged: dict[str, None] = {}
    loops: dict[str, None] = {}
    for name, qualified in _names(scope, reference, columns):
        known = name.lower() in DIMENSIONS or name.lower() in reference.renamed
        if not qualified:
            known |= name.lower() in provided or _is_row(name, reference, columns)
        if known:
            continue
        found = columns.logged(name)
        loop = columns.loop_of(name)
        if loop is not None:
            loops[loop] = None
        elif found is not None:
            logged[found] = None
        elif qualified or (alone and name.lower() not in aliases):
            raise UnknownName(name, columns.all_names())
    for other in offered if shared else ():
        if "*" in other.columns:
            other = replace(other, columns=tuple(described(other.relation)))
        for name in other.said:
            if (loop := columns.loop_of(name)) is not None:
                loops[loop] = None
            elif (found := columns.logged(name)) is not None:
                logged[found] = None
    return logged, loops


def _is_brief(scope: exp.Expr, reference: Reference) -> bool:
    """Whether projid and filename are named nowhere, nor meant without a name."""
    if reference.renamed or (isinstance(scope, exp.Select) and _is_natural(scope)):
        return False
    named = {identifier.name.lower() for identifier in reference.tree.find_all(exp.Identifier)}
    return named.isdisjoint(("projid", "filename"))


def _asks_for_all(scope: exp.Expr, reference: Reference) -> bool:
    if isinstance(scope, exp.Select):
        return not scope.selects or any(_is_star(item, reference) for item in scope.selects)
    actions = [when.args.get("then") for when in scope.find_all(exp.When)]
    return any(
        (isinstance(then, exp.Insert) and not then.args.get("expression"))  # …, *, BY NAME
        or (isinstance(then, exp.Update) and not then.args.get("expressions"))
        for then in actions
    )


def _is_row(name: str, reference: Reference, columns: Columns) -> bool:
    """Whether a name without qualifier is the relation's: a row of it as a struct."""
    is_column = columns.logged(name) is not None or columns.loop_of(name) is not None
    return name.lower() == reference.alias.lower() and not is_column


def _is_read_whole(reference: Reference, columns: Columns) -> bool:
    return any(
        not column.table and _is_row(column.name, reference, columns)
        for column in reference.tree.find_all(exp.Column)
        if not _is_no_column(column)
    )


def names_in(tree: exp.Expr) -> set[str]:
    """All names in a statement that may be columns."""
    found = {
        part.name
        for column in tree.find_all(exp.Column)
        if not _is_no_column(column)
        for part in column.parts
    }
    for field in tree.find_all(exp.Dot):  # (f).loss
        found.add(field.expression.name)
    for join in tree.find_all(exp.Join):
        found |= {identifier.name for identifier in join.args.get("using") or ()}
    for chosen in tree.find_all(exp.Columns):  # COLUMNS(['lr', 'loss'])
        found |= {text.this for text in chosen.find_all(exp.Literal) if text.is_string}
    return found


def _maybe(scope: exp.Expr, columns: Columns) -> frozenset[str]:
    """Names without qualifier in SELECTs within this one, or in an UPDATE: flor's if no nearer
    relation has such a column."""
    found = set()
    for column in scope.find_all(exp.Column):
        if column.table or isinstance(column.this, exp.Star) or _is_no_column(column):
            continue
        if isinstance(scope, exp.Select) and _reader(column) is scope:
            continue
        if isinstance(_part_of(scope, column), (exp.From, exp.With)):
            continue  # what is read there sees nothing of what reads it
        found |= {columns.logged(column.name), columns.loop_of(column.name)}
    return frozenset(name for name in found if name is not None)


def _part_of(scope: exp.Expr, node: exp.Expr) -> exp.Expr:
    """The part of a statement that a node stands in: its FROM, WHERE, …"""
    while node.parent is not None and node.parent is not scope:
        node = node.parent
    return node


def _is_alone(select: exp.Select) -> bool:
    """Whether ``flor`` is all that the SELECT reads, so that each name must be a column of it."""
    if select.args.get("joins") or select.args.get("laterals"):
        return False
    if isinstance(select.root(), exp.Create) and select.root().find(exp.UserDefinedFunction):
        return False  # a macro's parameters look like columns
    outer = select.find_ancestor(exp.Select)
    # A SELECT in FROM or WITH reads nothing of the one around it; any other may.
    return outer is None or isinstance(_holder(select), (exp.From, exp.With))


def _holder(select: exp.Select) -> exp.Expr | None:
    """What the SELECT, with its parentheses and set operations, stands in."""
    node = select.parent
    while isinstance(node, (exp.Subquery, exp.SetOperation, exp.CTE)):
        node = node.parent
    return node


def _aliases(select: exp.Select) -> set[str]:
    return {item.alias.lower() for item in select.selects if item.alias}


def _is_natural(select: exp.Select) -> bool:
    """Whether it joins on what its relations have in common."""
    return any(join.args.get("method") == "NATURAL" for join in select.args.get("joins") or ())


@dataclass(frozen=True)
class _Other:
    """Another relation of a SELECT: its columns as far as its text says them, ``*`` among them
    where there may be others. The first of them are called as ``renamed`` says."""

    relation: exp.Expr
    columns: tuple[str, ...] = ("*",)
    renamed: tuple[str, ...] = ()

    @property
    def said(self) -> list[str]:
        return [*self.renamed, *self.columns[len(self.renamed) :]]


def _offered(select: exp.Select, reference: Reference) -> Iterator[_Other]:
    ctes = {cte.alias.lower(): cte for cte in select.root().find_all(exp.CTE)}
    from_ = select.args.get("from_")
    for part in (from_, *(select.args.get("joins") or ())):
        relation = part.this if part is not None else None
        if relation is None or relation.alias_or_name.lower() == reference.alias.lower():
            continue
        renamed = tuple(relation.alias_column_names)
        cte = None if relation.args.get("db") else ctes.get(relation.name.lower())
        if isinstance(relation, exp.Table) and cte is not None and not renamed:
            relation, renamed = cte.this, tuple(cte.alias_column_names)
            yield _Other(relation, tuple(relation.named_selects), renamed)
        elif isinstance(relation, exp.Subquery) and not renamed:
            yield _Other(relation, tuple(relation.named_selects))
        else:
            yield _Other(relation)


def _names(scope: exp.Expr, reference: Reference, columns: Columns) -> Iterator[tuple[str, bool]]:
    """(name, whether it is qualified with the reference) of the columns that may be flor's."""
    alias = reference.alias.lower()
    select = scope if isinstance(scope, exp.Select) else None
    aliases = _aliases(select) if select is not None else set()
    for column in scope.find_all(exp.Column):
        if isinstance(column.this, exp.Star) or _is_no_column(column):
            continue
        first, *rest = [part.name for part in column.parts]
        while len(rest) > 1 and first.lower() in ("main", "flordb"):
            first, *rest = rest
        own = _reader(column) is select
        if rest and first.lower() == alias:
            if own or not _reads(column, scope, alias):
                yield rest[0], True
        elif (
            not own
            or select is None
            or (not rest and first.lower() in aliases and _prefers_alias(column, select))
        ):
            continue
        elif not rest:
            yield first, False
        elif columns.logged(first) is not None and first.lower() not in _relations(select):
            yield first, False  # a field of a value: params.lr
    if select is not None:
        yield from _joined_on(select, alias)


def _joined_on(select: exp.Select, alias: str) -> Iterator[tuple[str, bool]]:
    """The names in USING. Both sides must have them: what only flor stands for, flor must."""
    from_ = select.args.get("from_")
    left = [from_.this.alias_or_name.lower()] if from_ is not None else []
    for join in select.args.get("joins") or ():
        own = join.this.alias_or_name.lower()
        for identifier in join.args.get("using") or ():
            yield identifier.name, own == alias or left == [alias]
        left.append(own)


def _reader(column: exp.Column) -> exp.Select | None:
    """The innermost SELECT around the column that reads anything: a column must be of that."""
    found = column.find_ancestor(exp.Select)
    while found is not None and not found.args.get("from_"):
        found = found.find_ancestor(exp.Select)
    return found


def _relations(select: exp.Select) -> set[str]:
    parts = (select.args.get("from_"), *(select.args.get("joins") or ()))
    return {part.this.alias_or_name.lower() for part in parts if part is not None}


def _reads(column: exp.Column, scope: exp.Expr, alias: str) -> bool:
    """Whether an inner SELECT around the column has a relation of that name itself."""
    inner = column.find_ancestor(exp.Select)
    while inner is not None and inner is not scope:
        if alias in _relations(inner):
            return True
        inner = inner.find_ancestor(exp.Select)
    return False


def _is_no_column(column: exp.Column) -> bool:
    """Whether it only looks like one, as in ``* EXCLUDE (a)``, ORDER BY ALL, [x for x in …]."""
    parent = column.parent
    if isinstance(parent, exp.Star) and column.arg_key in ("except_", "rename"):
        return True
    if isinstance(parent, exp.PropertyEQ) and column.arg_key == "this":
        return True
    name = column.name.lower()
    if not column.table and name in ("rowid", "all") and not column.this.quoted:
        return True
    child: exp.Expr = column
    while child.parent is not None:
        child, inside = child.parent, child.arg_key
        bound: list[exp.Expr] = []
        if isinstance(child, exp.Lambda):
            bound = child.expressions
        elif isinstance(child, exp.Comprehension) and inside != "iterator":
            bound = [child.expression]
        if any(column.parts[0].name == variable.name for variable in bound):
            return True
    return False


def _prefers_alias(column: exp.Column, select: exp.Select) -> bool:
    ordered = column.parent
    if isinstance(ordered, exp.Ordered) and ordered.parent is select.args.get("order"):
        return True
    having = column.find_ancestor(exp.Having, exp.Select)
    return isinstance(having, exp.Having)


def _is_star(item: exp.Expr, reference: Reference) -> bool:
    if isinstance(item, exp.Star):
        return True
    if isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
        return item.table.lower() in ("", reference.alias.lower())
    return any(isinstance(node, exp.Columns) for node in item.walk())
