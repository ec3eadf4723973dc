"""The background thread: copies at the call, and then one call after another."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from flordb import settings
from flordb.background.copies import Copies, in_main_memory
from flordb.background.failures import Failures, name_of
from flordb.background.place import here
from flordb.background.proxy import MissingObject, Objects
from flordb.errors import warn_in_training

CALL_BYTES = 1_000
"""What a call that waits takes besides its copies, about: many small ones are bounded, too."""

_SWITCH_SECONDS = 0.0005

_PARENTS = "The object belongs to the parent process; a child can make objects of its own."


@dataclass
class _Task:
    """A call that was submitted. ``keep``: the number of the object that it makes, if it is to be
    kept; ``ready``: events of devices on which copies are being made."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    keep: int | None
    context: Context
    nbytes: int
    ready: list[Any]


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


class Thread:
    """The calls that wait, and the thread that makes them; it starts with the first one."""

    def __init__(self) -> None:
        self._begin()
        self._is_forked = False

    def forget(self) -> None:
        """Begin anew, in a forked child: the thread, the calls and objects are the parent's."""
        self._begin()
        self._is_forked = True

    def _begin(self) -> None:
        self._objects = Objects()
        self._tasks: deque[_Task] = deque()
        self._nbytes = 0
        self._given = 0
        self._given_up = 0
        self._made = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._failures = Failures("the background")
        self._settings = settings.Settings()

    def put(
        self,
        call: Callable[..., Any],
        arguments: tuple[Any, ...],
        named: dict[str, Any],
        keep: int | None = None,
    ) -> int:
        copies = Copies()
        taken = copies.of(arguments), copies.of(named)
        task = _Task(call, *taken, keep, here(), copies.nbytes + CALL_BYTES, copies.ready)
        with self._changed:
            if self._thread is None:
                self._start()
            limit = self._settings.background_bytes
            # Called from within a call: waiting for oneself would never end.
            if threading.current_thread() is not self._thread:
                self._changed.wait_for(
                    lambda: self._given == self._made or self._nbytes + task.nbytes <= limit
                )
            self._tasks.append(task)
            self._nbytes += task.nbytes
            self._given += 1
            self._changed.notify_all()
            return self._given

    def _start(self) -> None:
        self._settings = settings.load()
        self._thread = threading.Thread(target=self._run, name="flordb-background", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._tasks))
                task = self._tasks.popleft()
            try:
                self._make(task)
            except BaseException as error:
                self._failures.say(name_of(task.call), error)
            nbytes = task.nbytes
            del task
            with self._changed:
                self._nbytes -= nbytes
                self._made += 1
                self._changed.notify_all()

    def _make(self, task: _Task) -> None:
        for event in task.ready:
            event.synchronize()
        try:
            call = self._objects.real(task.call)
            arguments = self._objects.real(in_main_memory(task.arguments))
            named = self._objects.real(in_main_memory(task.named))
        except MissingObject:
            if self._is_forked:
                self._failures.say(name_of(task.call), _PARENTS)
            return
        with _Switching():
            result = task.context.run(call, *arguments, **named)
        if task.keep is not None:
            self._objects[task.keep] = result

    def wait(self, seconds: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._given == self._made, seconds)

    def wait_for(self, ticket: int | None) -> None:
        if threading.current_thread() is not self._thread:
            with self._changed:
                self._changed.wait_for(lambda: ticket is None or self._made >= ticket)

    def close(self) -> None:
        """At exit: `end`, and close the objects; waits a while for both."""
        self.end()
        if self._objects and self._given == self._made:
            self.put(self._close_objects, (), {})
            self.end()

    def _close_objects(self) -> None:
        for name, error in self._objects.close():
            self._failures.say(name, error)

    def end(self) -> None:
        """At exit: wait a while, and say what was left undone."""
        if self._thread is threading.current_thread() or self._given == self._given_up:
            return
        limit = self._settings.exit_wait_seconds
        began = time.monotonic()
        if not self.wait(limit):
            left, self._given_up = self._given - self._made, self._given
            warn_in_training(
                f"{not_run(left, time.monotonic() - began)} and are dropped; "
                "FLORDB_EXIT_WAIT_SECONDS sets how long to wait."
            )


def not_run(calls: int, seconds: float) -> str:
    """The beginning of what is said of calls that had not run in time."""
    return (
        f"{calls} calls that were submitted to flordb.background had not run {seconds:.0f} s "
        "after the script's end"
    )
