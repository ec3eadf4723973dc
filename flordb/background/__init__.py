"""Slow logging behind the training: `submit` a callable and the tensors that it looks at.

    writer = flor.background.process(SummaryWriter, "events")
    flor.background.submit(log_histograms, writer, dict(model.named_parameters()), step)
    writer.add_scalar("loss", loss, step)

What may change later (tensors, arrays, and containers of them) is copied at the call; the callable
runs later, one after another, so that every logger sees its calls in order. With an object of
`process` among the arguments it runs in that object's process, else in a thread. It works with any
logger, and on its own: nothing is recorded because of it. Which way is best where is in
``docs/background.md``.

What is promised: memory stays bounded (`submit` waits where the copies would take more), an
exception in a callable is a warning, once a callable, and the interpreter's exit waits for what was
submitted, but not longer than ``FLORDB_EXIT_WAIT_SECONDS``.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from flordb.background.direct import Direct
from flordb.background.place import is_replay
from flordb.background.proxy import Home, Proxy, home_of
from flordb.background.thread import Thread
from flordb.errors import warn_in_training

__all__ = ["process", "submit", "wait"]

T = TypeVar("T")


def submit(call: Callable[..., Any], /, *arguments: Any, **named: Any) -> None:
    """Run ``call(*arguments, **named)`` behind the training, with the arguments as they are now.

    Tensors (which arrive in main memory, without gradients), arrays, and lists, tuples and dicts of
    them are copied. In a thread, anything else is passed on as it is; in a process, it is pickled,
    the callable too. `flor.log` inside the call logs where `submit` was called. In a replay the
    call is made at once. Waits while the copies that are still in use take more than
    ``FLORDB_BACKGROUND_BYTES``.
    """
    home = home_of(call) or home_of(arguments) or home_of(named)
    (home or (_direct if is_replay() else _thread)).put(call, arguments, named)


def process(make: Callable[..., T], /, *arguments: Any, **named: Any) -> T:
    """Make an object, ``make(*arguments, **named)``, in a process of its own; returns a proxy.

    The proxy has the object's methods: they run in that process, in the order of the calls, and
    return None; ``flush`` and ``close`` wait until they have run. `submit` with a proxy among its
    arguments runs the callable there, with the object in the proxy's place. The objects of a
    program share one process, a fresh interpreter that does not run the program's main module. At
    the end, those that have a ``close`` are closed. Where there is no such process (other systems
    than Linux), the thread of `submit` takes its place.
    """
    number = next(_numbers)
    home = _direct if is_replay() else _process_or_thread()
    home.put(make, arguments, named, number)
    # A stand-in: for type checkers it is what it stands for.
    return cast(T, Proxy(home, number, make))


def wait(seconds: float | None = None) -> bool:
    """Wait until all that was submitted has run; False where it has not within ``seconds``."""
    until = None if seconds is None else time.monotonic() + seconds
    done = _thread.wait(seconds)
    if _process is None or not done:
        return done
    return cast(bool, _process.wait(None if until is None else max(0.0, until - time.monotonic())))


def end() -> None:
    """Wait as at exit: ``FLORDB_EXIT_WAIT_SECONDS`` at most, and say what is left undone."""
    _thread.end()
    if _process is not None:
        _process.end()


_direct = Direct()
_thread = Thread()
_process: Any = None  # of the class Process, which is imported where it is needed
_starting = threading.Lock()
_numbers = itertools.count()


def _process_or_thread() -> Home:
    global _process
    if not hasattr(os, "memfd_create") or not sys.executable:
        return _thread
    with _starting:
        if _process is None or _process.over:
            from flordb.background.parent import Process

            try:
                _process = Process()
            except OSError as error:
                warn_in_training(f"no process for flordb.background, but a thread: {error}")
                return _thread
        return cast(Home, _process)


def _at_exit() -> None:
    _thread.close()
    end()
    if _process is not None:
        _process.close()


def _after_fork() -> None:
    global _process, _starting
    _starting = threading.Lock()
    _thread.forget()
    if _process is not None:
        _process.leave()
        _process = None


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
