"""``flordb plan``: what a query would replay, and what that costs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import click

from flordb.cli import options

if TYPE_CHECKING:
    from flordb.query.connection import Connection


@click.command()
@click.argument("query")
@options.project
@options.workers
@options.as_json
@click.option("--show-patches", is_flag=True, help="Show the change to each version's code.")
def command(
    query: str, project: str | None, workers: int | None, as_json: bool, show_patches: bool
) -> None:
    """Show what QUERY would replay, and the estimated time. Replays nothing.

    \b
    Example:
      flordb plan "SELECT tstamp, filename FROM flor"
    """
    from flordb.cli.patches import patches
    from flordb.query.connection import connect
    from flordb.query.explain import describe
    from flordb.replay.plan import as_json as plain

    with connect(project, workers=workers) as connection:
        text = options.read_query(query)
        plan = connection.plan(text)
        if as_json:
            click.echo(json.dumps(plain(plan), indent=2))
            return
        click.echo(describe(plan))
        if not plan.tasks and not plan.refusals and (vain := _tried_in_vain(connection, text)):
            click.echo(
                f"Tried in vain before, and not again: {', '.join(vain)}. Why: "
                "flordb sql \"SELECT * FROM acquisitions WHERE status <> 'acquired'\""
            )
        if show_patches:
            for text in patches(connection.project, plan):
                click.echo(text)


_IN_VAIN = """
SELECT DISTINCT value_name FROM acquisitions AS tried WHERE status <> 'acquired' AND NOT EXISTS (
    FROM acquisitions AS later WHERE later.run_id = tried.run_id
    AND later.value_name = tried.value_name AND later.status = 'acquired'
) ORDER BY value_name
"""


def _tried_in_vain(connection: Connection, query: str) -> list[str]:
    """The names in a query that replays have not given for some run."""
    names = [name for (name,) in connection.execute(_IN_VAIN).fetchall()]
    return [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", query)]
