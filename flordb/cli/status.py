"""``flordb status``: the project's runs, their states, and what the store takes on disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from flordb.cli import options
from flordb.cli.output import plain, show_rows


@click.command()
@options.project
@options.as_json
@click.option("--verbose", is_flag=True, help="Also the settings in force.")
def command(project: str | None, as_json: bool, verbose: bool) -> None:
    """Show the newest runs with their states, and the sizes of the store.

    \b
    Example:
      flordb status --json
    """
    from flordb.cli.stopping import stoppable
    from flordb.settings import load

    with stoppable(project, acquire="never") as connection:
        runs = connection.execute(
            "SELECT tstamp, filename, state, status, error, version FROM runs "
            "ORDER BY tstamp DESC LIMIT 20"
        )
        names = [column[0] for column in runs.description or ()]
        rows = runs.fetchall()
        counts = dict(
            connection.execute("SELECT state, count(*) FROM runs GROUP BY state").fetchall()
        )
        found = connection.project
    settings = asdict(load(found.root))
    sizes = {
        name: _bytes(getattr(found, name)) for name in ("runs", "objects", "snapshots", "database")
    }
    if as_json:
        document: dict[str, Any] = {
            "project": str(found.root),
            "states": counts,
            "bytes": sizes,
            "runs": [dict(zip(names, map(plain, row), strict=True)) for row in rows],
        }
        click.echo(json.dumps(document | ({"settings": settings} if verbose else {}), indent=2))
        return
    show_rows(names, rows, as_json=False)
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    click.echo(f"{found.root}: {states or 'no runs'}", err=True)
    stored = ", ".join(f"{name} {_size(size)}" for name, size in sizes.items())
    click.echo(stored, err=True)
    if verbose:
        for name, value in settings.items():
            click.echo(f"{name} = {value}", err=True)


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
