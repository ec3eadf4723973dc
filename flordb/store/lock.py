"""Who may hold the database file now: many readers or one writer, among threads and processes.

DuckDB's own lock is one of the whole process, and is gone as soon as the process closes the file
anywhere. So flordb takes a lock on a file beside the database first, which belongs to the open file
and keeps the threads of one process apart as well. DuckDB's lock then only has to keep out
other programs.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system: DuckDB's own lock has to do
    fcntl = None  # type: ignore[assignment]

_POLL_SECONDS = 0.01


class Lock:
    """A lock that is held until `release`, or until nobody refers to it any more."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()


def acquire(path: Path, exclusive: bool, wait_seconds: float) -> Lock | None:
    """Lock ``path``, for one writer or for a reader among many.

    Returns None where others still hold it after ``wait_seconds``. On a file system without locks,
    or one that cannot be written, the lock is one that keeps out nobody.
    """
    if fcntl is None:
        return Lock(None)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return Lock(None)
    kind = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, kind)
            return Lock(descriptor)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(_POLL_SECONDS)
        except OSError:
            os.close(descriptor)
            return Lock(None)


def holders(path: Path) -> str:
    """Who holds the lock, for a message: process ids where the system tells them (Linux)."""
    try:
        inode = path.stat().st_ino
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return "another process"
    pids = sorted(
        {int(row[4]) for row in rows if row[1] == "FLOCK" and row[5].endswith(f":{inode}")}
    )
    if not pids:
        return "another process"
    named = ", ".join(f"{pid} (this process)" if pid == os.getpid() else str(pid) for pid in pids)
    return f"PID {named}"
