"""``flordb shell``: a DuckDB shell on a server of its own."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from pathlib import Path

import click

from flordb.cli import options


@click.command(context_settings={"ignore_unknown_options": True})
@options.project
@options.acquire
@options.budget
@options.workers
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    project: str | None,
    acquire: str | None,
    budget: float | None,
    workers: int | None,
    arguments: tuple[str, ...],
) -> None:
    """Start a server and DuckDB's own shell on it; ARGUMENTS are the shell's.

    In the shell of DuckDB 2, type SQL. In that of 1.5, the server is the catalog f:
    FROM f.query('SELECT … FROM flor').

    \b
    Example:
      flordb shell -csv -c "FROM f.query('SELECT count(*) AS n FROM flor')"
    """
    from flordb.serve.server import Server
    from flordb.serve.shell import find_shell, start_file
    from flordb.settings import load
    from flordb.store.project import find_project

    found = find_project(options.folder(project))
    settings = load(
        found.root,
        acquire=acquire,
        budget_seconds=budget,
        workers=workers,
        serve_host="127.0.0.1",
        serve_quack_port=0,
        serve_postgres_port=-1,
    )
    shell = find_shell()
    with Server(found, settings) as server, tempfile.TemporaryDirectory() as folder:
        assert server.quack is not None
        start = start_file(Path(folder), server.quack, server.token)
        # Ctrl-C is the shell's, which stops a query with it and stays.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            done = subprocess.run([str(shell), "-init", str(start), *arguments], check=False)
        finally:
            signal.signal(signal.SIGINT, before)
    raise click.exceptions.Exit(done.returncode)
