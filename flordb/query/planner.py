"""From a statement to what must be acquired for it, and to the text that DuckDB then runs.

The order is that of `prepare`: parse, find the references to ``flor``, collect the names that each
needs, find what is lacking, plan its replay; and splice the pivots in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from flordb.analysis.statements import LogStatement
from flordb.query.candidates import wants_of
from flordb.query.facts import Columns, columns
from flordb.query.needs import Needs, needs_of
from flordb.query.predicates import Parameters
from flordb.query.splice import pivot_names, pivot_of, spliced
from flordb.query.statement import Reference, Statement
from flordb.replay.plan import Want


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
) -> Prepared:
    """Plan a statement that mentions ``flor``.

    Parameters: ``connection``, with the project's tables attached; ``statements``, the log
    statements of the project's code. Raises UnknownName.
    """
    known = columns(connection, statements)
    needs = [(reference, needs_of(reference, known)) for reference in statement.references]
    wants: list[Want] = []
    if not statement.probe:
        for reference, need in needs:
            wants.extend(wants_of(connection, reference, need, known, parameters))
    return Prepared(spliced(statement.text, _changes(needs, known)), tuple(wants))


def _changes(
    needs: Sequence[tuple[Reference, Needs]], known: Columns
) -> list[tuple[Reference, str]]:
    changes = []
    for reference, need in needs:
        if not need.star:
            changes.append((reference, pivot_of(reference, pivot_names(need, known))))
        elif any(name not in known.stored for name in need.logged):
            # All columns, and one that has no value anywhere yet.
            names = [*known.stored, *(n for n in need.logged if n not in known.stored)]
            changes.append((reference, pivot_of(reference, names)))
    return changes
