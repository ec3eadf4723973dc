"""``flordb serve``: the project's history for DuckDB shells and BI tools."""

from __future__ import annotations

import json
import logging
import signal
import threading
from dataclasses import replace
from typing import Any

import click

from flordb.cli import options


@click.command()
@options.project
@options.acquire
@options.budget
@options.workers
@click.option("--host", "serve_host", help="The address to listen on (default: 127.0.0.1).")
@click.option("--quack-port", "serve_quack_port", type=int, help="Default 9494; -1: not at all.")
@click.option(
    "--postgres-port", "serve_postgres_port", type=int, help="Default 5433; -1: not at all."
)
@click.option("--tls-certificate", "serve_tls_certificate", help="A PEM file, for TLS.")
@click.option("--tls-key", "serve_tls_key", help="Its key, where it is in another file.")
@click.option(
    "--tls-self-signed", is_flag=True, help="TLS with a certificate made for the project."
)
@options.as_json
@click.option("--verbose", is_flag=True, help="Say what clients ask for.")
def command(
    project: str | None,
    acquire: str | None,
    budget: float | None,
    workers: int | None,
    tls_self_signed: bool,
    as_json: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Serve the project to DuckDB shells (Quack) and BI tools (PostgreSQL protocol).

    Clients can read and acquire, and nothing else. They need the token that the first start writes
    to .flor/serve.token. JSON is one object, printed once clients can connect.

    \b
    Example:
      flordb serve --postgres-port 5433
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="flordb: %(message)s",
    )
    from flordb.serve.server import Server
    from flordb.serve.tls import self_signed
    from flordb.serve.token import token_file
    from flordb.settings import load
    from flordb.store.project import find_project

    found = find_project(options.folder(project))
    settings = load(found.root, acquire=acquire, budget_seconds=budget, workers=workers, **given)
    if tls_self_signed:
        certificate, key = self_signed(found, settings.serve_host)
        settings = replace(settings, serve_tls_certificate=str(certificate), serve_tls_key=str(key))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Server(found, settings) as server:
        if as_json:
            document = {
                "project": str(found.root),
                "quack": server.quack,
                "no_quack": server.no_quack,
                "postgres": server.postgres,
                "token_file": str(token_file(found)),
            }
            click.echo(json.dumps(document))
        else:
            _show(server, str(token_file(found)))
        while not stop.wait(0.5):
            pass


def _show(server: Any, token_file: str) -> None:
    click.echo(f"flordb: serving {server.project.root}; the token is in {token_file}", err=True)
    if server.quack is not None:
        click.echo(
            f"  DuckDB 2:    CONNECT '{server.quack}' (TOKEN '…');\n"
            f"  DuckDB 1.5:  ATTACH '{server.quack}' AS f (TOKEN '…'); FROM f.query('…');",
            err=True,
        )
    elif server.no_quack is not None:
        click.echo(f"  no Quack: {server.no_quack}", err=True)
    if server.postgres is not None:
        host, port = server.postgres
        click.echo(f"  PostgreSQL:  host={host} port={port} user=flor dbname=flordb", err=True)
    click.echo("Ctrl-C ends it.", err=True)
