"""The change that a plan makes to each version's code, as a coloured diff."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import click

from flordb.replay.plan import Plan
from flordb.store import sources
from flordb.store.project import Project

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def patches(project: Project, plan: Plan) -> Iterator[str]:
    """A diff for each version and set of names, once."""
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for task in plan.tasks:
        version = task.want.version or ""
        if (version, task.names) in seen:
            continue
        seen.add((version, task.names))
        old = sources.read_sources(project.root, version)
        yield click.style(f"{task.want.tstamp} {', '.join(task.names)}", bold=True)
        for note in task.patch.notes:
            yield click.style(f"  {note}", dim=True)
        for path, text in sorted(task.patch.files.items()):
            before = old.get(path, "").splitlines()
            lines = difflib.unified_diff(before, text.splitlines(), path, path, lineterm="", n=2)
            yield "\n".join(click.style(line, fg=_COLOURS.get(line[:1])) for line in lines)
