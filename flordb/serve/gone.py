"""Clients of Quack that go away while they wait: DuckDB's extension does not tell us, Linux does.

The connection of a request that has just come in is the one that has read last. It is watched, by
a duplicate of its socket, until the request is answered. Elsewhere than on Linux, and where two
connections have read at the same millisecond, nothing is watched.
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
        """The connection that has read last."""
        found = sorted(self._connections(), key=lambda pair: pair[0])
        clear = len(found) == 1 or (len(found) > 1 and found[0][0] < found[1][0])
        for _, connection in found[1:] if clear else found:
            connection.close()
        return found[0][1] if clear else None

    def _connections(self) -> Iterator[tuple[int, socket.socket]]:
        """The connections, and how many milliseconds ago each has read."""
        if not hasattr(socket, "TCP_INFO") or not os.path.isdir("/proc/self/fd"):
            return
        for number in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                    continue
                connection = socket.socket(fileno=os.dup(int(number)))
                ago = self._read_ago(connection)
                if ago is None:
                    connection.close()
                else:
                    yield ago, connection

    def _read_ago(self, connection: socket.socket) -> int | None:
        """None for what is no connection to the port, or one that is being watched."""
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
