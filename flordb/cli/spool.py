"""``flordb spool``: move snapshots to object storage; replays fetch what they need."""

from __future__ import annotations

import click

from flordb.cli import options


@click.command()
@click.argument("url")
@options.project
@click.option(
    "--keep-bytes",
    type=click.IntRange(min=0),
    default=0,
    help="Leave the most recently used objects here, up to this size.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be moved, and move nothing.")
def command(url: str, project: str | None, keep_bytes: int, dry_run: bool) -> None:
    """Move the objects of snapshots to URL, the least recently used first.

    URL is a folder of any storage that pyarrow.fs knows (s3://…, gs://…, file:///…). Keys come from
    the environment; options stand behind a question mark, as in
    's3://bucket/flor?scheme=http&endpoint_override=localhost:9000'.

    \b
    Example:
      flordb spool s3://bucket/flor --keep-bytes 10000000000
    """
    from pathlib import Path

    from flordb.store import retention
    from flordb.store.project import find_project

    found = find_project(Path(project) if project else None)
    moved = retention.move(found, url, keep_bytes, dry_run)
    count, size = (len(moved.paths), moved.size) if moved is not None else (0, 0)
    verb = "would be moved" if dry_run else "moved"
    click.echo(f"{count} objects, {size} bytes {verb} to {url}", err=True)
