"""Slow logging behind the training: `submit` a callable and the tensors that it looks at.

    writer = SummaryWriter()
    flor.background.submit(writer.add_histogram, "weights", model.weight, step)

What may change later (tensors, arrays, and containers of them) is copied at the call; the callable
runs in one thread of its own, one after another, so that every logger sees its calls in order. It
works with any logger, and on its own: nothing is recorded because of it. How it compares with a
process is in ``docs/background.md``.

What is promised: memory stays bounded (`submit` waits where the copies would take more), an
exception in a callable is a warning, once a callable, and the interpreter's exit waits for what was
submitted, but not longer than ``FLORDB_EXIT_WAIT_SECONDS``.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any

from flordb import session, settings
from flordb.errors import warn_in_training

__all__ = ["submit", "wait"]

_SWITCH_SECONDS = 0.0005


@dataclass
class _Task:
    """A call that was submitted. ``ready``: events of devices on which copies are being made."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    context: Context
    nbytes: int
    ready: list[Any]


def submit(call: Callable[..., Any], /, *arguments: Any, **named: Any) -> None:
    """Run ``call(*arguments, **named)`` behind the training, with the arguments as they are now.

    Tensors (which arrive in main memory, without gradients), arrays, and lists, tuples and dicts of
    them are copied; anything else is passed on as it is. `flor.log` inside the call logs where
    `submit` was called. In a replay the call is made at once. Waits while the copies that are still
    in use take more than ``FLORDB_BACKGROUND_BYTES``.
    """
    current = session.peek()
    if getattr(current, "is_replay", False):
        call(*arguments, **named)
        return
    place = getattr(current, "place", copy_context)
    copies = _Copies()
    taken = copies.of(arguments), copies.of(named)
    _queue.put(_Task(call, *taken, place(), copies.nbytes, copies.ready))


def wait(seconds: float | None = None) -> bool:
    """Wait until all that was submitted has run; False where it has not within ``seconds``."""
    return _queue.wait(seconds)


def end() -> None:
    """Wait as at exit: ``FLORDB_EXIT_WAIT_SECONDS`` at most, and say what is left undone."""
    _queue.end()


class _Copies:
    """Copies arguments; counts their bytes."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.ready: list[Any] = []

    def of(self, value: Any) -> Any:
        """``value`` with copies of what may change in it."""
        kind = type(value)
        if kind in (int, float, str, bool, type(None)):
            return value
        if kind is dict:
            return {key: self.of(item) for key, item in value.items()}
        if kind in (list, tuple):
            return kind(self.of(item) for item in value)
        numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor(value, torch)
        if numpy is not None and isinstance(value, numpy.ndarray):
            self.nbytes += value.nbytes
            return numpy.array(value)
        return value

    def _tensor(self, value: Any, torch: Any) -> Any:
        copy = value.detach().clone()
        self.nbytes += copy.nbytes
        if copy.is_cuda:
            self.ready.append(torch.cuda.current_stream(copy.device).record_event())
        return copy


def _in_main_memory(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _in_main_memory(item) for key, item in value.items()}
    if kind in (list, tuple):
        return kind(_in_main_memory(item) for item in value)
    torch = sys.modules.get("torch")
    return value.cpu() if torch is not None and isinstance(value, torch.Tensor) else value


class _Switching:
    """While a call runs, threads change more often: the training waits for Python code of a logger
    for as long as the interpreter leaves it the lock, 5 ms otherwise."""

    def __enter__(self) -> None:
        self._before = sys.getswitchinterval()
        sys.setswitchinterval(min(self._before, _SWITCH_SECONDS))
        self._set = sys.getswitchinterval()

    def __exit__(self, *error: object) -> None:
        if sys.getswitchinterval() == self._set:  # nobody else has set it meanwhile
            sys.setswitchinterval(self._before)


class _Queue:
    """The calls that wait, and the thread that makes them; it starts with the first one."""

    def __init__(self) -> None:
        self._tasks: deque[_Task] = deque()
        self._nbytes = 0
        self._open = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._failed: dict[str, int] = {}
        self._settings = settings.Settings()

    def put(self, task: _Task) -> None:
        with self._changed:
            if self._thread is None:
                self._start()
            limit = self._settings.background_bytes
            # Called from within a call: waiting for oneself would never end.
            if threading.current_thread() is not self._thread:
                self._changed.wait_for(
                    lambda: not self._open or self._nbytes + task.nbytes <= limit
                )
            self._tasks.append(task)
            self._nbytes += task.nbytes
            self._open += 1
            self._changed.notify_all()

    def _start(self) -> None:
        self._settings = settings.load()
        self._thread = threading.Thread(target=self._run, name="flordb-background", daemon=True)
        self._thread.start()
        atexit.register(end)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._tasks))
                task = self._tasks.popleft()
            try:
                for event in task.ready:
                    event.synchronize()
                arguments = _in_main_memory(task.arguments), _in_main_memory(task.named)
                with _Switching():
                    task.context.run(task.call, *arguments[0], **arguments[1])
            except BaseException as error:
                self._report(task.call, error)
            nbytes = task.nbytes
            del task, arguments
            with self._changed:
                self._nbytes -= nbytes
                self._open -= 1
                self._changed.notify_all()

    def _report(self, call: Callable[..., Any], error: BaseException) -> None:
        name = getattr(call, "__qualname__", None) or repr(call)
        self._failed[name] = self._failed.get(name, 0) + 1
        if self._failed[name] == 1:
            lines = "".join(traceback.format_exception(error)).strip()
            warn_in_training(
                f"{name} failed in the background; it is said once, and training goes on.\n{lines}"
            )

    def wait(self, seconds: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, seconds)

    def end(self) -> None:
        """At exit: wait a while, and say what was left undone."""
        if self._thread is None or self._thread is threading.current_thread():
            return
        limit = self._settings.exit_wait_seconds
        began = time.monotonic()
        if not self.wait(limit):
            warn_in_training(
                f"{self._open} calls that were submitted to flordb.background had not run "
                f"{time.monotonic() - began:.0f} s after the script's end and are dropped; "
                "FLORDB_EXIT_WAIT_SECONDS sets how long to wait."
            )


_queue = _Queue()


def _after_fork() -> None:
    """A child has neither the thread nor a use for the calls: they are the parent's."""
    global _queue
    _queue = _Queue()


os.register_at_fork(after_in_child=_after_fork)
