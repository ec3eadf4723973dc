"""``flordb dataframe``: logged values as a table."""

from __future__ import annotations

import click

from flordb.cli import options
from flordb.cli.output import show_rows


@click.command()
@click.argument("names", nargs=-1, required=True)
@options.project
@options.as_json
@click.option("--csv", "as_csv", is_flag=True, help="CSV instead of a table.")
def command(names: tuple[str, ...], project: str | None, as_json: bool, as_csv: bool) -> None:
    """Print what was logged under NAMES, with its dimension columns. Replays nothing.

    \b
    Example:
      flordb dataframe loss
    """
    from flordb.cli.stopping import stoppable
    from flordb.query.dataframe import dataframe_of

    with stoppable(project, acquire="never") as connection:
        frame = dataframe_of(connection, names)
    rows = frame.astype(object).where(frame.notna(), None).values.tolist()
    show_rows(list(frame.columns), rows, as_json=as_json, as_csv=as_csv)
