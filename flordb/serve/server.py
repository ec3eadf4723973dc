"""One process, one database, both protocols."""

from __future__ import annotations

import ipaddress

import duckdb

from flordb.serve.database import Database
from flordb.serve.engine import Engine
from flordb.serve.errors import ServeError
from flordb.serve.pg.listener import Listener
from flordb.serve.quack import Quack
from flordb.serve.tls import context
from flordb.serve.token import token_of
from flordb.settings import Settings
from flordb.store.project import Project


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_host(settings: Settings) -> None:
    if settings.serve_postgres_port < 0 or is_loopback(settings.serve_host):
        return
    if not settings.serve_tls_certificate:
        raise ServeError(
            f"{settings.serve_host} can be reached from other machines, so it wants TLS: "
            "--tls-self-signed, or --tls-certificate FILE and --tls-key FILE"
        )


class Server:
    """Serves a project from its construction to `close`; used in a ``with`` block.

    ``quack``: the address for DuckDB's shell, None where Quack is not served, and ``no_quack`` says
    why. ``postgres``: host and port of the PostgreSQL protocol, None where it is off. Raises
    ServeError where nothing can be served, OSError where the store can't be used.
    """

    def __init__(self, project: Project, settings: Settings) -> None:
        self.project = project
        self.settings = settings
        self._tls = context(settings)
        _check_host(settings)
        self.token = token_of(project)
        self.quack: str | None = None
        self.no_quack: str | None = None
        self.postgres: tuple[str, int] | None = None
        self._quack: Quack | None = None
        self._listener: Listener | None = None
        self.database = Database(project, settings)
        try:
            self.engine = Engine(project, settings, self.database)
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        if self.settings.serve_quack_port >= 0:
            self._load_quack()
        self.database.lock_down()
        if self._quack is not None:
            self.quack = self._quack.start(
                self.settings.serve_host, self.settings.serve_quack_port, self.token
            )
        if self.settings.serve_postgres_port >= 0:
            self._listener = Listener(self.engine, self.token, self._tls)
            self.postgres = self._listener.address
        if self.quack is None and self.postgres is None:
            raise ServeError(f"nothing to serve: {self.no_quack or 'both protocols are off'}")

    def _load_quack(self) -> None:
        if not is_loopback(self.settings.serve_host) and duckdb.__version__.startswith("1."):
            self.no_quack = "Quack of DuckDB 1 has no TLS, so it is served on loopback alone"
            return
        quack = Quack(self.database, self.engine)
        try:
            quack.load()
        except ServeError as error:
            self.no_quack = str(error)
            return
        self._quack = quack

    def close(self) -> None:
        """Stop serving: replays end, clients are told, the copy of the database is removed."""
        if self._listener is not None:
            self._listener.close()
        if self._quack is not None:
            self._quack.stop()
        self.database.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
