"""From a statement to what must be acquired for it, and to the text that DuckDB then runs.

The order is that of `prepare`: for each reference to ``flor``, collect the names that it needs,
find the runs that lack them, cut by LIMIT; then splice the pivots in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import duckdb

from flordb.analysis.statements import LogStatement
from flordb.query import pivots
from flordb.query.candidates import wants_of
from flordb.query.facts import Columns, Memory, Tables, columns
from flordb.query.limit import within_limit
from flordb.query.needs import Needs, needs_of
from flordb.query.predicates import Parameters
from flordb.query.splice import alias_of, pivot_names, relation_of, spliced, widened
from flordb.query.statement import Reference, Statement
from flordb.replay.want import Want


@dataclass(frozen=True)
class Prepared:
    """``sql``: what DuckDB is to run once the ``wants`` are acquired."""

    sql: str
    wants: tuple[Want, ...]


def prepare(
    connection: duckdb.DuckDBPyConnection,
    statement: Statement,
    statements: Sequence[LogStatement],
    parameters: Parameters,
    memory: Memory,
) -> Prepared:
    """Plan a statement that mentions ``flor``.

    Parameters: ``connection``, with the project's tables attached; ``statements``, the log
    statements of the project's code; ``memory``, the connection's. Raises UnknownName.
    """
    tables = Tables(connection, memory)
    known = columns(tables, statements)

    def relation(names: Sequence[str]) -> str:
        return relation_of(names) if statement.lasting else pivots.relation(tables, names)

    needs = [(reference, needs_of(reference, known)) for reference in statement.references]
    wants: list[Want] = []
    if not statement.probe:
        for reference, need in needs:
            found = wants_of(tables, reference, need, known, parameters)
            pivot = relation(pivot_names(need, known)) if found else ""
            wants.extend(within_limit(tables, reference, pivot, found, parameters))
    sql = spliced(statement.text, _changes(needs, known, relation), statement.dropped)
    return Prepared(sql, tuple(wants))


def _changes(
    needs: Sequence[tuple[Reference, Needs]],
    known: Columns,
    relation: Callable[[Sequence[str]], str] = relation_of,
) -> list[tuple[Reference, str]]:
    changes = []
    for reference, need in needs:
        unlisted = [name for name in known.virtual if known.is_new(name)] if need.star else []
        if not need.star:
            changes.append((reference, relation(pivot_names(need, known)) + alias_of(reference)))
        elif unlisted:
            changes.append((reference, widened(reference, unlisted)))
    return changes
