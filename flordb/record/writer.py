"""The run file's writer: `append` is all that the training thread pays.

One daemon thread turns what was appended into lines, every fraction of a second.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flordb.errors import warn_in_training
from flordb.record.context import Context
from flordb.record.values import Deferred, Repr
from flordb.store.runfile import dump_line, encode_value

_MOST_PENDING = 64_000_000

LogEvent = tuple[Context, str, Any]
LineEvent = tuple[Context | None, Mapping[str, Any]]


class RunWriter:
    """Writes one run file, append-only.

    ``append`` takes ``(context, name, value)`` for a logged value, or ``(context, line)`` for any
    other line, to which the context's number is added as ``c`` (None: not added; an empty line only
    makes the context known). It may be called from any thread and never blocks.
    """

    def __init__(
        self,
        path: Path,
        header: Mapping[str, Any],
        flush_seconds: float,
        heartbeat_seconds: float,
        max_value_bytes: int,
    ) -> None:
        self.path = path
        self._began = time.monotonic()
        self._events: deque[LogEvent | LineEvent] = deque()
        self.append = self._events.append
        self._flush_seconds = flush_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._max_value_bytes = max_value_bytes
        self._contexts = 0
        self._names: dict[str, str] = {}
        self._pending = b""
        self._troubled = False
        self._written = self._began
        self._lock = threading.Lock()
        self._stop = threading.Event()
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND
        self._file = os.open(path, flags, 0o644)
        self._write(dump_line(dict(header)).encode())
        self._thread = threading.Thread(target=self._run, name="flordb-flusher", daemon=True)
        self._thread.start()

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def _run(self) -> None:
        while not self._stop.wait(self._flush_seconds):
            self.flush()

    def flush(self) -> None:
        """Write what was appended until now."""
        with self._lock:
            text = self._drain()
            if not text and time.monotonic() - self._written > self._heartbeat_seconds:
                text = dump_line({"k": "beat", "t": round(self.elapsed(), 3)})
            if text or self._pending:
                self._write(text.encode(errors="replace"))

    def close(self, lines: list[Mapping[str, Any]], wait_seconds: float) -> None:
        """Write the rest and these last lines, and close. Waits for a busy flusher only so long."""
        self._stop.set()
        for line in lines:
            self.append((None, line))
        if not self._lock.acquire(timeout=wait_seconds):
            self._warn(f"the flusher did not answer within {wait_seconds} s")
            return
        try:
            self._write(self._drain().encode(errors="replace"))
            os.close(self._file)
        finally:
            self._lock.release()

    def _drain(self) -> str:
        parts: list[str] = []
        events = self._events
        while True:
            try:
                event = events.popleft()
            except IndexError:
                return "".join(parts)
            try:
                self._encode(event, parts)
            except Exception as error:  # nothing that was logged may stop the flusher
                self._warn(f"a record could not be written: {type(error).__name__}: {error}")

    def _encode(self, event: LogEvent | LineEvent, parts: list[str]) -> None:
        if len(event) == 3:
            self._encode_log(event, parts)
            return
        context, line = event
        if context is not None:
            line = {**line, "c": self._number(context, parts)}
        if len(line) > 1:
            parts.append(dump_line(dict(line)))

    def _encode_log(self, event: LogEvent, parts: list[str]) -> None:
        context, name, value = event
        number = context.number
        if number is None:
            number = self._number(context, parts)
        quoted = self._names.get(name) if type(name) is str else None
        if quoted is None:
            name = str(name)
            quoted = self._names[name] = json.dumps(name)
        if type(value) is float and math.isfinite(value):
            parts.append(f'{{"k":"log","c":{number},"n":{quoted},"v":{value!r}}}\n')
            return
        line = {"k": "log", "c": number, "n": name, **self._value(value)}
        parts.append(dump_line(line))

    def _value(self, value: Any) -> dict[str, Any]:
        if type(value) is Deferred:
            value = value.tensor.item()
        if type(value) is Repr:
            fields: dict[str, Any] = {"v": str(value), "y": "repr"}
        else:
            fields = encode_value(value)
        text = fields["v"]
        if isinstance(text, (str, list, dict)):
            size = len(text) if isinstance(text, str) else len(json.dumps(text))
            if size > self._max_value_bytes:
                kind = type(value).__name__
                self._warn(f"a logged {kind} of {size} bytes was cut to its beginning")
                return {"v": str(text)[:1000] + "…", "y": "repr"}
        return fields

    def _number(self, context: Context, parts: list[str]) -> int:
        """The context's number in the file; writes its line, and its parents', before first use."""
        if context.number is None:
            assert context.parent is not None
            parent = self._number(context.parent, parts)
            self._contexts += 1
            context.number = self._contexts
            line: dict[str, Any] = {"k": "ctx", "c": context.number, "p": parent}
            line |= {"l": context.loop, "i": context.index}
            if context.value is not None:
                line |= encode_value(context.value)
            if context.entry:
                line["e"] = context.entry
            parts.append(dump_line(line))
        return context.number

    def _write(self, data: bytes) -> None:
        data = self._pending + data
        self._pending = b""
        try:
            if not self.path.exists():
                self._reopen()
            while data:
                data = data[os.write(self._file, data) :]
            self._written = time.monotonic()
        except OSError as error:
            # Kept and tried again: the disk may have room later.
            self._pending = data[:_MOST_PENDING]
            self._warn(f"the run file {self.path} cannot be written: {error}")

    def _reopen(self) -> None:
        """The file was deleted under us: what it held is still readable, so write it anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_CREAT | os.O_RDWR | os.O_APPEND
        anew = os.open(self.path, flags, 0o644)
        position = 0
        while part := os.pread(self._file, 1 << 20, position):
            os.write(anew, part)
            position += len(part)
        os.close(self._file)
        self._file = anew

    def _warn(self, what: str) -> None:
        if not self._troubled:
            self._troubled = True
            warn_in_training(f"{what}. Training goes on.")
