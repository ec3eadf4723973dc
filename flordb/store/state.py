"""What became of a run: derived, never stored by the run itself, which may have died.

``finished`` and ``failed`` are what its last line says. A run without one is ``running`` while its
process lives or while its run file still changes, ``killed`` when its process on this host is
gone, and ``lost`` when nothing has been heard of it from another host, or its file came from git.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

RUNNING, FINISHED, FAILED, KILLED, LOST = "running", "finished", "failed", "killed", "lost"

_MISSED_BEATS = 3
_LEAST_SILENCE_SECONDS = 15.0


@dataclass(frozen=True)
class Signs:
    """What is known of a run's life.

    ``status`` and ``error`` are its exit line's, ``ended`` whether there is one; ``last_seen`` is
    in seconds since 1970, the last change of its file or the time of its last line.
    """

    ended: bool
    status: int | None
    error: str | None
    host: str | None
    pid: int | None
    pid_start: str | None
    last_seen: float | None


def derive(signs: Signs, heartbeat_seconds: float, now: float | None = None) -> str:
    """The state of a run (see the module's docstring)."""
    if signs.ended:
        return FAILED if signs.status or signs.error else FINISHED
    if signs.host == socket.gethostname() and signs.pid is not None:
        return RUNNING if _lives(signs.pid, signs.pid_start) else KILLED
    silence = (time.time() if now is None else now) - (signs.last_seen or 0.0)
    allowed = max(_MISSED_BEATS * heartbeat_seconds, _LEAST_SILENCE_SECONDS)
    return RUNNING if silence <= allowed else LOST


def _lives(pid: int, pid_start: str | None) -> bool:
    """Whether the process exists and is the one that the run was, not another one of its number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it exists, and is not ours
    started, state = _stat(pid)
    if state == "Z":
        return False
    return pid_start is None or started is None or pid_start == started


def _stat(pid: int) -> tuple[str | None, str | None]:
    """(start time in clock ticks since boot, state) of a process on Linux, else (None, None)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None, None
    # The second field is the command in parentheses and may hold blanks and parentheses itself.
    fields = text.rpartition(")")[2].split()
    return (fields[19], fields[0]) if len(fields) > 19 else (None, None)
