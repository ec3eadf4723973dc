"""What nobody has to wait for: done behind the program, one after the other, before it ends.

The values of a replay are stored when its file is written; that git has them, too, is worth no
part of a query's time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

_turn = threading.Lock()
_threads: set[threading.Thread] = set()


def afterwards(work: Callable[[], None]) -> None:
    """Do some work soon. The interpreter waits for it when it ends."""

    def run() -> None:
        try:
            with _turn:
                work()
        finally:
            _threads.discard(thread)

    thread = threading.Thread(target=run, name="flordb-afterwards")
    _threads.add(thread)
    thread.start()


def wait() -> None:
    """Until all of that is done."""
    for thread in tuple(_threads):
        thread.join()


def _after_fork() -> None:
    global _turn
    _turn = threading.Lock()
    _threads.clear()


os.register_at_fork(after_in_child=_after_fork)
