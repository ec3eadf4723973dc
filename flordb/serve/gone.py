"""Clients of Quack that go away while they wait: DuckDB's extension does not tell us, Linux does.

The connection of a request that has just come in is the only one that has read lately. It is
watched, by a duplicate of its socket, until the request is answered. Where several have read
lately it is not clear which it is, and none is watched; nor is any elsewhere than on Linux.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_WATCH_SECONDS = 0.25
_LATELY_MS = 2_000
_ESTABLISHED = 1
_TCP_INFO_BYTES = 104
_LAST_DATA_RECEIVED = 8 + 11 * 4  # tcpi_last_data_recv of struct tcp_info, in milliseconds
_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Callers:
    """The clients connected to a port of this process."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._watched: dict[socket.socket, threading.Event] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        threading.Thread(target=self._watch, name="flordb-quack-watcher", daemon=True).start()

    @contextmanager
    def watched(self, gone: threading.Event) -> Iterator[None]:
        """Within the block, ``gone`` is set when the client goes that has just sent a request."""
        caller = None
        with suppress(OSError):  # one that goes just now
            caller = self._caller()
        if caller is None:
            yield
            return
        with self._lock:
            self._watched[caller] = gone
        try:
            yield
        finally:
            with self._lock:
                del self._watched[caller]
            caller.close()

    def stop(self) -> None:
        """Stop watching; all who wait are told that their client has gone."""
        self._stopping.set()
        with self._lock:
            for gone in self._watched.values():
                gone.set()

    def _caller(self) -> socket.socket | None:
        """The connection that has read lately, if it is the only one."""
        found: dict[object, socket.socket] = {}
        for connection in self._readers():
            # A duplicate may have got a number that is listed, and be met again.
            if connection.getpeername() in found:
                connection.close()
            else:
                found[connection.getpeername()] = connection
        if len(found) == 1:
            return next(iter(found.values()))
        for connection in found.values():
            connection.close()
        return None

    def _readers(self) -> Iterator[socket.socket]:
        """The connections that have read lately."""
        if not hasattr(socket, "TCP_INFO") or not os.path.isdir("/proc/self/fd"):
            return
        for number in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                    continue
                connection = socket.socket(fileno=os.dup(int(number)))
                ago = self._read_ago(connection)
                if ago is not None and ago < _LATELY_MS:
                    yield connection
                else:
                    connection.close()

    def _read_ago(self, connection: socket.socket) -> int | None:
        """How many milliseconds ago a connection has read; None for what is no connection to the
        port, or one that is being watched."""
        try:
            place, peer = connection.getsockname(), connection.getpeername()
            if len(place) < 2 or place[1] != self._port:
                return None
            with self._lock:
                if any(peer == other.getpeername() for other in self._watched):
                    return None
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return None
        if info[0] != _ESTABLISHED:
            return None
        found: int = struct.unpack_from("=I", info, _LAST_DATA_RECEIVED)[0]
        return found

    def _watch(self) -> None:
        while not self._stopping.wait(_WATCH_SECONDS):
            poll = select.poll()
            with self._lock:
                by_number = {caller.fileno(): gone for caller, gone in self._watched.items()}
                for number in by_number:
                    poll.register(number, _GONE)
                for number, events in poll.poll(0):
                    if events & _GONE:
                        by_number[number].set()
