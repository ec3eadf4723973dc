"""The run file's writer: `append` is all that the training thread pays.

One daemon thread turns what was appended into lines, every fraction of a second, and compresses the
file once it is long.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flordb.errors import warn_in_training
from flordb.record.context import Context
from flordb.record.encoder import WIDTH, Encoder, Event
from flordb.record.values import Held, store_array
from flordb.settings import Settings
from flordb.store.encoding import dump_line
from flordb.store.objects import ObjectStore
from flordb.store.runfile import compressed

_MOST_UNWRITTEN = 64_000_000
_SLICE = 2_048 * WIDTH
"""What is encoded at once: the interpreter can change threads in between."""
_MANY = 20_000 * WIDTH
_TOO_MANY = 100_000 * WIDTH
_MOST_HELD_BYTES = 256_000_000
_LONGEST_PAUSE_SECONDS = 1.0

Append = Callable[[Event], None]


class RunWriter:
    """Writes one run file, append-only.

    ``append`` takes an `Event`; `note` appends a line. Any thread may call them, and they do not
    block: only where values come faster than they can be written, the flusher has ``throttle``
    called with an ``append`` that waits a little, and with the quick one when it has caught up.
    """

    def __init__(
        self, path: Path, header: Mapping[str, Any], settings: Settings, objects: ObjectStore
    ) -> None:
        self.path = path
        self._began = time.monotonic()
        self._events: list[Any] = []
        self.append: Append = self._events.extend
        self.throttle: Callable[[Append], None] = lambda append: None
        self._throttled = False
        self._settings = settings
        self._objects = objects
        self._encoder = Encoder(settings.max_value_bytes, self.store, self._warn)
        self._compressor: Any = None
        self._size = 0
        self._unwritten = b""
        self._troubled = False
        self._written = self._began
        self._held = 0
        self._lock = threading.Lock()
        self._stopping = False
        self._wake = threading.Event()
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND
        self._file = os.open(path, flags, 0o644)
        self._write(dump_line(dict(header)).encode())
        self._thread = threading.Thread(target=self._run, name="flordb-flusher", daemon=True)
        self._thread.start()

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def note(self, context: Context | None, line: Mapping[str, Any]) -> None:
        """Append a line, to which the number of its context is added as ``c`` (None: it is not; an
        empty line only makes the context known)."""
        self._events.extend((context, 0, None, line))

    def hold(self, held: Held) -> None:
        """Account for a value that is read later. Waits (a second at most) where too many are."""
        self._held += held.nbytes
        deadline = time.monotonic() + _LONGEST_PAUSE_SECONDS
        while self._held > _MOST_HELD_BYTES and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.001)

    def _append_patiently(self, event: Event) -> None:
        self._events.extend(event)
        if len(self._events) > _TOO_MANY and threading.current_thread() != self._thread:
            deadline = time.monotonic() + _LONGEST_PAUSE_SECONDS
            while len(self._events) > _MANY and time.monotonic() < deadline:
                time.sleep(0.001)

    def _run(self) -> None:
        longest = self._settings.flush_seconds
        pause = longest / 10
        while not self._stopping:
            self._wake.wait(pause)
            self._wake.clear()
            count = self.flush()
            pause = longest if count < _MANY else max(0.001, longest * _MANY / count)

    def flush(self) -> int:
        """Write what was appended until now. Returns how much that was."""
        with self._lock:
            count = self._drain()
            idle = time.monotonic() - self._written
            if self._unwritten or (not count and idle > self._settings.heartbeat_seconds):
                beat = {"k": "beat", "t": round(self.elapsed(), 3)}
                self._put(dump_line(beat))
            return count

    def close(self, lines: list[Mapping[str, Any]], wait_seconds: float) -> None:
        """Write the rest and these last lines, and close. Waits for a busy flusher only so long."""
        self._stopping = True
        self._wake.set()
        for line in lines:
            self.note(None, line)
        if not self._lock.acquire(timeout=wait_seconds):
            self._warn(f"the flusher did not answer within {wait_seconds} s")
            return
        try:
            self._drain()
            if self._compressor is not None:
                self._write(self._compressor.flush())
            os.close(self._file)
        finally:
            self._lock.release()

    def _drain(self) -> int:
        events = self._events
        count = 0
        while events:
            taken = events[:_SLICE]
            del events[: len(taken)]
            count += len(taken)
            self._put(self._encoder.encode(taken))
            self._held -= sum(value.nbytes for value in taken[3::WIDTH] if type(value) is Held)
            too_many = len(events) > _TOO_MANY
            if too_many != self._throttled:
                self._throttled = too_many
                self.throttle(self._append_patiently if too_many else events.extend)
        return count

    def store(self, value: Any) -> str:
        """Keep a large array in the object store; the text of its reference."""
        return store_array(value, self._objects.put)

    # The file.

    def _put(self, text: str) -> None:
        if len(self._unwritten) > _MOST_UNWRITTEN:
            self._write(b"")  # a disk that stays full: new values are lost until it has room
            if self._unwritten:
                return
        data = text.encode(errors="replace")
        if self._compressor is None:
            self._write(data)
            if self._size > self._settings.compress_bytes:
                self._compress()
        else:
            packed = self._compressor.compress(data)
            self._write(packed + self._compressor.flush(zlib.Z_SYNC_FLUSH))

    def _compress(self) -> None:
        """Go on in a compressed file, which begins with what there is."""
        if self._unwritten:
            return
        target = compressed(self.path)
        part = target.with_name(target.name + ".part")
        compressor = _compressor()
        try:
            anew = os.open(part, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND, 0o644)
            _write_all(anew, compressor.compress(_read_all(self._file)))
            _write_all(anew, compressor.flush(zlib.Z_SYNC_FLUSH))
            os.replace(part, target)
        except OSError:
            self._size = 0  # no room, say: the plain file goes on, and this is tried again later
            return
        self.path.unlink(missing_ok=True)
        os.close(self._file)
        self._file, self.path, self._compressor = anew, target, compressor

    def _write(self, data: bytes) -> None:
        data = self._unwritten + data
        self._unwritten = b""
        self._size += len(data)
        try:
            if not self.path.exists():
                self._reopen()
            while data:
                data = data[os.write(self._file, data) :]
            self._written = time.monotonic()
        except OSError as error:
            # Kept and tried again: the disk may have room later.
            self._unwritten = data
            self._warn(f"the run file {self.path} cannot be written: {error}")

    def _reopen(self) -> None:
        """The file was deleted under us: what it held is still readable, so write it anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        anew = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
        _write_all(anew, _read_all(self._file))
        os.close(self._file)
        self._file = anew

    def _warn(self, what: str) -> None:
        if not self._troubled:
            self._troubled = True
            warn_in_training(f"{what}. Training goes on.")


def _compressor() -> Any:
    return zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)


def _read_all(file: int) -> bytes:
    parts = []
    position = 0
    while part := os.pread(file, 1 << 20, position):
        parts.append(part)
        position += len(part)
    return b"".join(parts)


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
