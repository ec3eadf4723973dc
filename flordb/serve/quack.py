"""Quack, DuckDB's own remote protocol: the unmodified DuckDB shell as a client.

DuckDB's extension does the serving. Before it runs a statement, it calls the function that
``quack_authorization_function`` names, which may return another statement to run: that function is
where ours comes in. It may block for as long as the replays take.
"""

from __future__ import annotations

import importlib.util
import logging
import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import duckdb

from flordb.errors import FlorError
from flordb.query.options import assigned, assignment
from flordb.replay.lacking import Key
from flordb.serve.database import READ_ONLY, Database
from flordb.serve.engine import Client, Engine, quoted
from flordb.serve.errors import ServeError
from flordb.serve.gone import Callers
from flordb.settings import Settings

AUTHORIZE = "flor_authorize"
EXTENSIONS = ("httpfs", "quack")

_log = logging.getLogger("flordb.serve")


class Quack:
    """The Quack server of a database. `load` before the database is locked down, then `start`."""

    def __init__(self, database: Database, engine: Engine) -> None:
        self._root = database.cursor()
        self._engine = engine
        self._begun: set[str] = set()
        self._settings: dict[str, Settings] = {}
        self._told: dict[str, set[Key]] = {}
        self._callers: Callers | None = None
        self._uri: str | None = None

    def load(self) -> None:
        """Load the extensions, and name our function. Raises ServeError where they can't be had."""
        for name in EXTENSIONS:
            load_extension(self._root, name)
        self._root.create_function(
            AUTHORIZE,
            self._authorize,
            ["VARCHAR", "VARCHAR"],
            "VARCHAR",
            side_effects=True,
        )
        self._root.execute(f"SET GLOBAL quack_authorization_function = '{AUTHORIZE}'")

    def start(self, host: str, port: int, token: str) -> str:
        """Serve. Returns the address for clients. Raises ServeError where the port is taken."""
        port = port or _free_port(host)
        uri = f"quack:{_name(host)}:{port}"
        other = "false" if _name(host) == "localhost" else "true"
        call = (
            f"CALL quack_serve({quoted(uri)}, token := {quoted(token)}, "
            f"allow_other_hostname := {other})"
        )
        try:
            self._root.execute(call).fetchall()
        except duckdb.Error as error:
            raise ServeError(f"Quack cannot be served at {uri}: {error}") from error
        self._uri = uri
        self._callers = Callers(port)
        return uri

    def stop(self) -> None:
        """Stop serving; who waits for a replay is told so."""
        if self._callers is not None:
            self._callers.stop()
        if self._uri is not None:
            self._root.execute(f"CALL quack_stop({quoted(self._uri)})").fetchall()
            self._uri = None
        self._root.close()

    def _authorize(self, session: str, sql: str) -> str:
        """The statements to run in place of a client's, in a read-only transaction."""
        _log.debug("Quack %s: %s", session, sql)
        again = session in self._begun
        self._begun.add(session)
        begin = f"ROLLBACK; {READ_ONLY}; " if again else f"{READ_ONLY}; "
        settings = self._settings.get(session, self._engine.settings)
        try:
            option = assignment(sql)
            if option is not None:
                self._settings[session] = assigned(settings, self._engine.settings, option)
                return begin + "SELECT true AS Success"
            gone = threading.Event()
            told = self._told.setdefault(session, set())
            client = Client(settings, gone, tell=_log.warning, told=told)
            with self._callers.watched(gone) if self._callers is not None else nullcontext():
                return begin + self._engine.prepared(sql, client)
        except (FlorError, duckdb.Error) as error:
            return begin + f"SELECT error({quoted(str(error))})"
        except Exception as error:
            _log.exception("a statement of a Quack client failed: %s", sql)
            return begin + f"SELECT error({quoted(f'{type(error).__name__}: {error}')})"


def _name(host: str) -> str:
    return "localhost" if host in ("127.0.0.1", "::1") else host


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def load_extension(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load an extension: one that is installed, one from PyPI, or from DuckDB's repository.

    Raises ServeError where none can be had for this version of DuckDB.
    """
    attempts: list[Callable[[], object]] = [lambda: connection.execute(f"LOAD {name}")]
    wheel = wheel_of(name)
    if wheel is not None:
        attempts.insert(0, lambda: connection.execute(f"LOAD {quoted(str(wheel))}"))
    attempts.append(lambda: connection.execute(f"INSTALL {name}; LOAD {name}"))
    said = ""
    for attempt in attempts:
        try:
            attempt()
            return
        except duckdb.Error as error:
            said = str(error).splitlines()[0]
    raise ServeError(
        f"DuckDB {duckdb.__version__} cannot load its extension {name!r} ({said}). It comes from "
        "DuckDB's repository where there is internet. From PyPI it comes with "
        "pip install 'flordb[quack]', which brings the DuckDB that it is made for"
    )


def wheel_of(name: str) -> Path | None:
    """An extension's file for this version of DuckDB, from the package of PyPI that carries it."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        version = f"v{duckdb.__version__}"
        path = Path(folder) / "extensions" / version / f"{name}.duckdb_extension"
        if path.exists():
            return path
    return None
