"""Listens for PostgreSQL's clients: TLS, login, a thread for each, cancel requests."""

from __future__ import annotations

import hmac
import logging
import secrets
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pygwire import messages
from pygwire.constants import StartupRequestCode

from flordb.serve.engine import Engine
from flordb.serve.errors import ServeError
from flordb.serve.pg.errors import SessionError, error_message
from flordb.serve.pg.scram import MECHANISM, Exchange, ScramError, Verifier
from flordb.serve.pg.session import Session
from flordb.serve.pg.variables import REPORTED, Variables
from flordb.serve.pg.wire import ProtocolViolation, Wire

_WATCH_SECONDS = 0.25
_STOP_SECONDS = 10.0

_log = logging.getLogger("flordb.serve")


@dataclass
class _Client:
    """A connection: ``session`` once its user has logged in."""

    wire: Wire
    number: int
    key: bytes
    session: Session | None = None


class Listener:
    """Serves the PostgreSQL protocol at ``address`` until `close`. Raises ServeError."""

    def __init__(self, engine: Engine, token: str, tls: ssl.SSLContext | None) -> None:
        self._engine = engine
        self._settings = engine.settings
        self._verifier = Verifier(token)
        self._tls = tls
        self._clients: dict[int, _Client] = {}
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._number = 0
        self._stopping = threading.Event()
        place = (self._settings.serve_host, self._settings.serve_postgres_port)
        family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        try:
            self._socket = socket.create_server(place, family=family, backlog=256)
        except OSError as error:
            raise ServeError(
                f"the PostgreSQL protocol cannot be served at {place[0]}:{place[1]}: {error}"
            ) from error
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._start(self._accept, "flordb-listener")
        self._start(self._watch, "flordb-watcher")

    def _start(self, target: Callable[[], None], name: str) -> None:
        threading.Thread(target=target, name=name, daemon=True).start()

    def close(self) -> None:
        """End all sessions."""
        self._stopping.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            clients, threads = list(self._clients.values()), list(self._threads)
        for client in clients:
            if client.session is not None:
                client.session.cancel()
            client.wire.close()
        for thread in threads:
            thread.join(_STOP_SECONDS)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                _log.warning("a client could not be accepted: %s", error)
                self._stopping.wait(0.1)
                continue
            patience = self._settings.serve_patience_seconds
            wire = Wire(connection, patience, self._settings.serve_max_message_bytes)
            thread = threading.Thread(target=self._serve, args=(wire,), daemon=True)
            with self._lock:
                self._threads.add(thread)
            thread.start()

    def _serve(self, wire: Wire) -> None:
        client: _Client | None = None
        try:
            client = self._log_in(wire)
            if client is not None and client.session is not None:
                client.session.run()
        except ProtocolViolation as error:
            _log.info("a client was sent away: %s", error)
            self._last_words(wire, SessionError("08P01", str(error)))
        except SessionError as error:
            self._last_words(wire, error)
        except OSError as error:
            _log.info("a client has gone: %s", error)
        except Exception as error:
            _log.exception("a session failed")
            self._last_words(wire, error)
        finally:
            with self._lock:
                if client is not None:
                    self._clients.pop(client.number, None)
                self._threads.discard(threading.current_thread())
            wire.close()

    def _last_words(self, wire: Wire, error: Exception) -> None:
        # Bytes rather than a message of a phase: the phase may be any.
        with suppress(OSError):
            wire.send_raw(error_message(error, fatal=True).to_wire())
            wire.flush()

    # Login.

    def _log_in(self, wire: Wire) -> _Client | None:
        """The client, once it has proved that it knows the token; None where it wanted less."""
        while True:
            message = wire.read()
            match message:
                case None:
                    return None
                case messages.SSLRequest():
                    self._answer_ssl(wire)
                case messages.GSSEncRequest():
                    wire.send(messages.GSSResponse(accepted=False))
                    wire.flush()
                case messages.CancelRequest():
                    self._cancel(message)
                    return None
                case messages.StartupMessage():
                    return self._start_session(wire, message)
                case _:
                    raise ProtocolViolation("no startup message")

    def _answer_ssl(self, wire: Wire) -> None:
        usable = self._tls is not None and not wire.is_encrypted
        wire.send(messages.SSLResponse(accepted=usable))
        wire.flush()
        if usable and self._tls is not None:
            wire.encrypt(self._tls)

    def _start_session(self, wire: Wire, start: messages.StartupMessage) -> _Client:
        if self._tls is not None and not wire.is_encrypted:
            raise SessionError("28000", "this server wants TLS: sslmode=require")
        if start.protocol_version != StartupRequestCode.V3_0:
            wire.send(messages.NegotiateProtocolVersion(newest_minor=StartupRequestCode.V3_0))
        self._authenticate(wire)
        client = self._enlist(wire)
        given = {key: value for key, value in start.params.items() if key not in _NO_SETTINGS}
        variables = Variables(self._settings, given)
        client.session = Session(wire, self._engine, variables)
        for name, value in REPORTED.items():
            shown = variables.values.get(name.lower(), value)
            wire.send(messages.ParameterStatus(name, shown))
        wire.send(messages.BackendKeyData(client.number, client.key))
        wire.logged_in()
        return client

    def _authenticate(self, wire: Wire) -> None:
        exchange = Exchange(self._verifier)
        wire.send(messages.AuthenticationSASL([MECHANISM]))
        try:
            first = wire.read()
            if not isinstance(first, messages.SASLInitialResponse) or first.mechanism != MECHANISM:
                raise ScramError("SCRAM-SHA-256 is the only way in")
            wire.send(messages.AuthenticationSASLContinue(exchange.first(first.data)))
            final = wire.read()
            if not isinstance(final, messages.SASLResponse):
                raise ScramError("no proof")
            wire.send(messages.AuthenticationSASLFinal(exchange.final(final.data)))
        except ScramError as error:
            raise SessionError(
                "28P01", f"authentication failed: {error}. The password is in .flor/serve.token"
            ) from error
        wire.send(messages.AuthenticationOk())

    def _enlist(self, wire: Wire) -> _Client:
        with self._lock:
            if len(self._clients) >= self._settings.serve_connections:
                raise SessionError(
                    "53300", f"{len(self._clients)} clients already (serve_connections)"
                )
            self._number += 1
            client = _Client(wire, self._number, secrets.token_bytes(4))
            self._clients[client.number] = client
            return client

    # Other threads' business.

    def _cancel(self, request: messages.CancelRequest) -> None:
        with self._lock:
            client = self._clients.get(request.process_id)
        if client is None or client.session is None:
            return
        if hmac.compare_digest(client.key, request.secret_key):
            client.session.cancel()

    def _watch(self) -> None:
        """Cancel what nobody waits for any more, because the client has gone, and what is late."""
        while not self._stopping.wait(_WATCH_SECONDS):
            with self._lock:
                busy = [c for c in self._clients.values() if c.session and c.session.is_busy]
            poll = select.poll()
            by_number = {}
            for client in busy:
                if client.session is not None and time.monotonic() > client.session.deadline:
                    client.session.cancel()
                number = client.wire.fileno()
                if number >= 0:
                    poll.register(number, _GONE)
                    by_number[number] = client
            with suppress(OSError):
                for number, events in poll.poll(0):
                    client = by_number[number]
                    if events & (_GONE | select.POLLERR | select.POLLHUP) and client.session:
                        client.session.cancel()


_NO_SETTINGS = frozenset({"user", "database", "replication", "options"})
_GONE = getattr(select, "POLLRDHUP", select.POLLHUP)
