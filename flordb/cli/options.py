"""Options that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path

import click

project = click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False),
    help="The project's folder (default: the one around the working folder).",
)
as_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
budget = click.option(
    "--budget", type=click.FloatRange(min=0), help="Seconds that replays may take."
)
workers = click.option(
    "--workers", type=click.IntRange(min=0), help="Replays at the same time (default: cores)."
)
acquire = click.option(
    "--acquire",
    type=click.Choice(["auto", "always", "never"]),
    help="Replay what is lacking: within the budget, at any price, or not at all.",
)


def folder(project: str | None) -> Path | None:
    """Where to look for the project; None: the working folder."""
    return Path(project) if project is not None else None


def read_query(query: str) -> str:
    """The query's text; ``-`` reads it from stdin."""
    return sys.stdin.read() if query == "-" else query
