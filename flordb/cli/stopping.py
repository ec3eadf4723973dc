"""Ctrl-C and SIGTERM stop a query at once.

Python calls a signal's handler when the main thread is back from what it calls, and DuckDB may come
back from a query only when all of it is done. So another thread hears of signals, too, and has
DuckDB give up.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flordb.query.connecting import connect
from flordb.query.connection import Connection

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_AGAIN_SECONDS = 0.1


@contextmanager
def stoppable(project: str | None, **options: Any) -> Iterator[Connection]:
    """A connection (see `flordb.connect`) whose statements a signal stops."""
    ended = threading.Event()
    heard, told = socket.socketpair()
    with heard, told, _undisturbed(project, options) as connection:
        told.setblocking(False)
        before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        watching = threading.Thread(target=_watch, args=(heard, ended, connection), daemon=True)
        watching.start()
        try:
            yield connection
        finally:
            ended.set()
            signal.set_wakeup_fd(before)
            told.shutdown(socket.SHUT_WR)
            watching.join()


def _undisturbed(project: str | None, options: Mapping[str, Any]) -> Connection:
    """A new connection. Signals wait: what a handler raises while DuckDB calls Python for the types
    of functions would end the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        return connect(project, **options)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(heard: socket.socket, ended: threading.Event, connection: Connection) -> None:
    while said := heard.recv(64):
        if any(number in _STOPPING for number in said):
            # Again and again: a signal may come just before a query begins.
            while not ended.wait(_AGAIN_SECONDS):
                connection.interrupt()
