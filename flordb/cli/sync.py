"""``flordb sync``: bring the database up to date with the run files."""

from __future__ import annotations

import click

from flordb.cli import options


@click.command()
@options.project
def command(project: str | None) -> None:
    """Take new run files into the database, also those that came with git.

    Queries do this themselves. A deleted database is built anew.

    \b
    Example:
      flordb sync
    """
    from pathlib import Path

    from flordb import settings
    from flordb.store import catalog
    from flordb.store.project import find_project

    found = find_project(Path(project) if project else None)
    report = catalog.sync(found, settings.load(found.root))
    click.echo(f"{report.files} files, {report.rows} rows taken in", err=True)
    for problem in report.problems:
        click.echo(f"flordb: {problem}", err=True)
    if report.locked:
        after = "queries are answered from the run files until it can be brought up to date"
        click.echo(f"flordb: {report.locked}; {after}", err=True)
        raise click.exceptions.Exit(1)
