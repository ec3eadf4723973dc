"""``flordb replay``: acquire columns after having shown the price."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from flordb.cli import OVER_BUDGET, options


@click.command()
@click.argument("names")
@click.argument("where", required=False)
@options.project
@options.budget
@options.workers
@click.option(
    "--on", type=click.Choice(["local", "ray"]), help="Where: on this machine, or on a Ray cluster."
)
@click.option(
    "--isolated", is_flag=True, help="Replay each run with the packages that it had (pip or uv)."
)
@click.option(
    "--at",
    metavar="FILE:LINE@VERSION",
    help="Where NAMES are logged in a version that lacks them; kept for next time.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(
    names: str,
    where: str | None,
    project: str | None,
    budget: float | None,
    workers: int | None,
    on: str | None,
    isolated: bool,
    at: str | None,
    yes: bool,
) -> None:
    """Replay the runs that lack NAMES (separated by commas) and for which WHERE holds.

    Shows the plan and asks before it begins. Where nobody can be asked it goes on within the
    budget, and otherwise ends with exit code 3.

    Where flor does not know where a statement belongs in an old version, it says so; --at is your
    own answer: the statement goes before the line's statement, or after the one above an empty
    line. It holds for all versions in which the file reads the same.

    \b
    Example:
      flordb replay --yes loss "tstamp >= '2023-06-23'"
    """
    from flordb.cli.stopping import stoppable
    from flordb.query.acquire import acquire
    from flordb.query.explain import describe
    from flordb.query.progress import progress_bar
    from flordb.replay.choices import keep_choice

    wanted = [name.strip() for name in names.split(",")]
    listed = ", ".join('"' + n.replace('"', '""') + '"' for n in wanted)
    query = f"SELECT {listed} FROM flor" + (f" WHERE {where}" if where else "")
    with stoppable(project, budget=budget, workers=workers) as connection:
        chosen = connection.settings
        isolated = isolated or chosen.isolated
        connection.settings = replace(chosen, on=on or chosen.on, isolated=isolated)
        if at is not None:
            keep_choice(connection.project, wanted, at)
        plan = connection.plan(query)
        click.echo(describe(plan), err=True)
        if not plan.tasks and not plan.refusals:
            return
        if not yes and not _agreed(plan.seconds, connection.settings.budget_seconds):
            raise click.exceptions.Exit(OVER_BUDGET)
        with progress_bar() as show:
            report = acquire(connection.project, plan, connection.settings, show)
    click.echo(f"{report.acquired} values acquired, {len(report.failures)} failures", err=True)
    if report.failures and not report.acquired:
        raise click.exceptions.Exit(1)


def _agreed(seconds: float, budget: float) -> bool:
    """Ask on a terminal; elsewhere the budget decides."""
    if sys.stdin.isatty():
        return click.confirm("Replay?", default=True, err=True)
    if seconds <= budget:
        return True
    click.echo(f"flordb: over the budget of {budget:g} s; pass --yes to replay anyway", err=True)
    return False
