"""A client's socket: messages in, messages out, with limits on size and time.

The codec and the phases of the protocol are pygwire's, which does no input or output. What it
leaves to its caller is here: no message may be longer than it should, or come in too slowly; what
pygwire stumbles over is a violation of the protocol, whatever it raises.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct

from pygwire import messages
from pygwire.codec import FrontendMessageDecoder
from pygwire.exceptions import PygwireError
from pygwire.state_machine import BackendStateMachine

_STARTUP_BYTES = 10_000
_CHUNK = 1 << 16
_FLUSH_BYTES = 1 << 16


class ProtocolViolation(Exception):
    """The client sent what the protocol does not allow, or too much, or too slowly."""


class Wire:
    """The connection to one client. Used by one thread; `close` may be called by another."""

    def __init__(self, connection: socket.socket, patience_seconds: float, most_bytes: int) -> None:
        self._socket = connection
        self._decoder = FrontendMessageDecoder()
        self._phases = BackendStateMachine()
        self._patience = patience_seconds
        self._most_bytes = _STARTUP_BYTES
        self._most_bytes_later = most_bytes
        self._out = bytearray()
        connection.settimeout(patience_seconds)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @property
    def is_encrypted(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logged_in(self) -> None:
        """From now on, messages may be long, and the client may think between two of them."""
        self._most_bytes = self._most_bytes_later

    def encrypt(self, context: ssl.SSLContext) -> None:
        """Go on over TLS. Raises ProtocolViolation for bytes that came before it, or a failure."""
        if self._decoder.buffered:
            raise ProtocolViolation("bytes before the TLS handshake")
        try:
            self._socket = context.wrap_socket(self._socket, server_side=True)
        except (OSError, ValueError) as error:
            raise ProtocolViolation(f"no TLS: {error}") from error

    def read(self) -> messages.PGMessage | None:
        """The next message, or None where the client has gone. Raises ProtocolViolation."""
        while True:
            message = self._next()
            if message is not None:
                return message
            if self._decoder.buffered > self._most_bytes:
                raise ProtocolViolation(f"a message of more than {self._most_bytes} bytes")
            self.flush()
            waits = self._decoder.buffered > 0 or self._most_bytes == _STARTUP_BYTES
            self._socket.settimeout(self._patience if waits else None)
            try:
                data = self._socket.recv(_CHUNK)
            except TimeoutError:
                raise ProtocolViolation(f"no message within {self._patience:g} s") from None
            except OSError:
                return None
            finally:
                with contextlib.suppress(OSError):
                    self._socket.settimeout(self._patience)
            if not data:
                return None
            self._decoder.feed(data)

    def _next(self) -> messages.PGMessage | None:
        try:
            message = next(self._decoder, None)
            if message is not None:
                self._phases.receive(message)  # type: ignore[arg-type]
                self._decoder.phase = self._phases.phase
            return message
        except (PygwireError, struct.error, ValueError, IndexError, TypeError) as error:
            raise ProtocolViolation(f"not the protocol: {error}") from error

    def send(self, message: messages.PGMessage) -> None:
        """Write a message, sooner or later; see `flush`."""
        self._phases.send(message)  # type: ignore[arg-type]
        self._decoder.phase = self._phases.phase
        self.send_raw(message.to_wire())

    def send_raw(self, data: bytes) -> None:
        """Write messages that are bytes already."""
        self._out += data
        if len(self._out) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write all that waits. Raises OSError where the client has gone or does not read."""
        if self._out:
            data, self._out = self._out, bytearray()
            self._socket.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._socket.close()
