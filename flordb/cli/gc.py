"""``flordb gc``: remove what no snapshot needs, and keep the store within its budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flordb.cli import options

if TYPE_CHECKING:
    from flordb.store.retention import Removal


@click.command()
@options.project
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--keep", type=click.IntRange(min=2), help="Thin each run to this many iterations.")
@options.as_json
def command(project: str | None, dry_run: bool, keep: int | None, as_json: bool) -> None:
    """Remove objects that no snapshot needs, and snapshots of runs that are gone.

    A store above its budget (snapshot_budget_bytes) is brought below it: the least recently used
    objects are spooled, if a place for them is set (spool), or runs are thinned to evenly
    spaced snapshots, never fewer than two a run. Values and code are never removed.

    \b
    Example:
      flordb gc --keep 5 --dry-run
    """
    from pathlib import Path

    from flordb import settings
    from flordb.cli.output import show_rows
    from flordb.store import retention
    from flordb.store.project import find_project

    found = find_project(Path(project) if project else None)
    report = retention.collect(found, settings.load(found.root), keep, dry_run)
    rows = [_row(removal) for removal in report.removals]
    show_rows(("what", "files", "bytes"), rows, as_json=as_json)
    verb = "would be freed" if dry_run else "freed"
    click.echo(f"{report.freed} bytes {verb}; {report.left} bytes are in the store", err=True)


def _row(removal: Removal) -> tuple[str, int, int]:
    return removal.what, len(removal.paths), removal.size
