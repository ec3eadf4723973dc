"""From a statement to what must be acquired for it, and to the text that DuckDB then runs.

The order is that of `prepare`: for each reference to ``flor``, collect the names that it needs,
find the runs that lack them, cut by LIMIT; then splice the pivots in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import duckdb
from sqlglot import exp

from flordb.analysis.statements import LogStatement
from flordb.query import pivots
from flordb.query.candidates import lacking
from flordb.query.errors import ProgrammingError
from flordb.query.facts import Columns, Memory, Tables, columns
from flordb.query.limit import within_limit
from flordb.query.needs import Needs, names_in, needs_of
from flordb.query.predicates import Parameters
from flordb.query.splice import alias_of, pivot_names, relation_of, spliced, widened
from flordb.query.statement import HEAD, Reference, Statement
from flordb.replay.lacking import Tried
from flordb.replay.want import Want


@dataclass(frozen=True)
class Prepared:
    """``sql``: what DuckDB is to run once the ``wants`` are acquired. ``tried``: what it lacks too,
    but was tried in vain before."""

    sql: str
    wants: tuple[Want, ...] = ()
    tried: tuple[Tried, ...] = ()


def prepare(
    connection: duckdb.DuckDBPyConnection,
    statement: Statement,
    statements: Sequence[LogStatement],
    parameters: Parameters,
    memory: Memory,
    named: Collection[str] = (),
) -> Prepared:
    """Plan a statement that mentions ``flor``.

    Parameters: ``connection``, with the project's tables attached; ``statements``, the log
    statements of the project's code; ``memory``, the connection's; ``named``, names in other
    statements that read what this one defines. Raises UnknownName.
    """
    tables = Tables(connection, memory)
    asked = names_in(statement.tree) if statement.tree is not None else ()
    known = columns(tables, statements, asked)

    def relation(names: Sequence[str], brief: bool = False) -> str:
        return relation_of(names) if statement.lasting else pivots.relation(tables, names, brief)

    def text(needs: _Needs) -> str:
        return spliced(statement.text, _changes(needs, known, relation), statement.dropped)

    def described(relation: exp.Expr) -> list[str]:
        return _described(tables, relation)

    needs = [
        (reference, needs_of(reference, known, named, described))
        for reference in statement.references
    ]
    if any(need.maybe for _, need in needs) and not statement.lasting:
        attempt = text(needs)
        settled = tables.once(
            ("bound", attempt), lambda: _bound(tables, needs, known, text, statement, parameters)
        )
        needs = list(zip(statement.references, settled, strict=True))
    wants: list[Want] = []
    tried: list[Tried] = []
    if not statement.probe:
        for reference, need in needs:
            found = lacking(tables, reference, need, known, parameters)
            if found.wants or found.tried:
                cut = (tables, reference, relation(pivot_names(need, known)))
                wants += within_limit(*cut, found.wants, parameters)
                read = within_limit(*cut, [each.want for each in found.tried], parameters)
                tried += [each for each in found.tried if each.want in read]
    return Prepared(text(needs), tuple(wants), tuple(tried))


def _described(tables: Tables, relation: exp.Expr) -> list[str]:
    """The columns of a relation. Raises ProgrammingError where they cannot be told."""
    text = relation.sql(dialect="duckdb")
    is_query = isinstance(relation, (exp.Select, exp.SetOperation))
    try:
        rows = tables.rows(f"DESCRIBE {text if is_query else f'FROM {text}'}")
    except duckdb.Error as error:
        raise ProgrammingError(
            f"NATURAL JOIN: which columns flor and {text} have in common cannot be told "
            f"({str(error).splitlines()[0]}): name them, as in JOIN … USING (lr)"
        ) from error
    return [row[0] for row in rows]


_Needs = list[tuple[Reference, Needs]]
_MISSING = re.compile(r'Referenced column "((?:[^"]|"")+)" not found')


def _bound(
    tables: Tables,
    needs: _Needs,
    known: Columns,
    text: Callable[[_Needs], str],
    statement: Statement,
    parameters: Parameters,
) -> tuple[Needs, ...]:
    """The needs with those of the names that are maybe flor's for which DuckDB finds no column."""
    head = HEAD.match(statement.text) if statement.explain else None
    begin = head.end() if head is not None else 0
    more: _Needs | None = needs
    while more is not None:
        needs, more = more, None
        try:
            # EXPLAIN binds, and does nothing (EXPLAIN ANALYZE does).
            tables.rows(f"EXPLAIN {text(needs)[begin:]}", parameters)
        except duckdb.BinderException as error:
            missing = _MISSING.search(str(error))
            if missing is not None:
                more = _with_name(needs, known, missing[1].replace('""', '"'))
        except duckdb.Error:
            pass  # whatever is wrong, the user is told when the statement runs
    return tuple(need for _, need in needs)


def _with_name(needs: _Needs, known: Columns, name: str) -> _Needs | None:
    """The needs where the first reference that may have a column of this name has it."""
    meant = {known.loop_of(name), known.logged(name)}
    for number, (reference, need) in enumerate(needs):
        if need.maybe & meant:
            loop = known.loop_of(name)
            if loop is not None:
                more = replace(need, loops=(*need.loops, loop))
            else:
                more = replace(need, logged=(*need.logged, str(known.logged(name))))
            more = replace(more, maybe=need.maybe - meant)
            return [*needs[:number], (reference, more), *needs[number + 1 :]]
    return None


def _changes(
    needs: Sequence[tuple[Reference, Needs]],
    known: Columns,
    relation: Callable[[Sequence[str], bool], str],
) -> list[tuple[Reference, str]]:
    changes = []
    for reference, need in needs:
        unlisted = [name for name in known.virtual if known.is_new(name)] if need.star else []
        if not need.star:
            text = relation(pivot_names(need, known), need.brief)
            changes.append((reference, text + alias_of(reference)))
        elif unlisted:
            changes.append((reference, widened(reference, unlisted)))
    return changes
