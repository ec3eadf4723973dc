"""``flordb sql``: run a query, acquiring what it lacks."""

from __future__ import annotations

import click

from flordb.cli import options
from flordb.cli.output import show_rows


@click.command()
@click.argument("query")
@options.project
@options.acquire
@options.budget
@options.workers
@options.as_json
@click.option("--csv", "as_csv", is_flag=True, help="CSV instead of a table.")
def command(
    query: str,
    project: str | None,
    acquire: str | None,
    budget: float | None,
    workers: int | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Run QUERY (- reads it from stdin) and print its rows.

    Columns that a run lacks but that a flor.log statement of the code gives are replayed. JSON is
    one object a line.

    \b
    Example:
      flordb sql "SELECT tstamp, filename FROM flor ORDER BY tstamp DESC LIMIT 3"
    """
    from flordb.cli.stopping import stoppable

    with stoppable(project, acquire=acquire, budget=budget, workers=workers) as connection:
        cursor = connection.execute(options.read_query(query))
        if cursor.description is None:
            return
        names = [column[0] for column in cursor.description]
        show_rows(names, cursor.fetchall(), as_json=as_json, as_csv=as_csv)
