"""``flordb plan``: what a query would replay, and what that costs."""

from __future__ import annotations

import json

import click

from flordb.cli import options


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
    from flordb.cli.stopping import stoppable
    from flordb.query.explain import describe
    from flordb.replay.plan import as_json as plain

    with stoppable(project, workers=workers) as connection:
        text = options.read_query(query)
        plan = connection.plan(text)
        if as_json:
            click.echo(json.dumps(plain(plan), indent=2))
            return
        click.echo(describe(plan))
        if show_patches:
            for text in patches(connection.project, plan):
                click.echo(text)
