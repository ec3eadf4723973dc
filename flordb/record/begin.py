"""The beginning of a run: which project, which session, and how its end will be noticed."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import secrets
import signal
import sys
import threading
import time
import traceback
from _sitebuiltins import Quitter
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from flordb import session, settings
from flordb.errors import warn_in_training
from flordb.record.build import build_context, process_start, ranks
from flordb.record.passive import Passive, in_child
from flordb.record.recorder import Recorder
from flordb.record.versioning import NoVersion, Versioning
from flordb.record.writer import RunWriter
from flordb.store.objects import ObjectStore
from flordb.store.project import Project, project_of_script
from flordb.store.runfile import FORMAT
from flordb.store.whole import write_whole

_RANKS_WAIT_SECONDS = 10.0
_INTERRUPTED = 128 + signal.SIGINT

_began_once = False
_exit_status: int | None = None


def begin(set_up_seconds: float) -> session.Session:
    """The session for this process. Never raises: where nothing can be recorded, nothing is.

    Parameters: ``set_up_seconds``, for which the script has been at work besides its imports.
    """
    if multiprocessing.parent_process() is not None:
        return in_child()
    script = _script()
    project = project_of_script(script, Path.cwd())
    chosen = settings.load(project.root)
    if chosen.disabled:
        return Passive()
    try:
        recorder = _record(project, script, chosen, set_up_seconds)
    except OSError as error:
        _warn(f"this run is not recorded: {error}")
        return Passive()
    _notice_the_end()
    return recorder


def _script() -> Path | None:
    """The script's absolute path; None in notebooks, shells and ``python -c``."""
    name = getattr(sys.modules.get("__main__"), "__file__", None)
    if not name or not os.path.exists(name):
        return None
    return Path(name).resolve()


def _record(
    project: Project, script: Path | None, chosen: settings.Settings, set_up_seconds: float
) -> Recorder:
    project.prepare()
    tstamp = _agreed(_now(), project)
    filename = _filename(project, script)
    header = {
        "k": "run",
        "flor": FORMAT,
        "projid": project.projid,
        "tstamp": f"{tstamp:%Y-%m-%dT%H:%M:%S.%f}Z",
        "filename": filename,
        **build_context(project.root),
    }
    rank, world_size = ranks()
    suffix = f".rank{rank}" if world_size > 1 else ""
    name = f"{tstamp:%Y%m%dT%H%M%S.%f}-{secrets.token_hex(3)}{suffix}.jsonl"
    writer = RunWriter(project.runs / name, header, chosen, ObjectStore(project.values))
    line = {"k": "time", "w": "start", "s": _since_process_start()}
    writer.note(None, {**line, "setup": round(set_up_seconds, 6)})
    versioning = _versioning(project, script, name, writer, rank, chosen)
    return Recorder(project, chosen, tstamp, writer, versioning)


def _versioning(
    project: Project,
    script: Path | None,
    name: str,
    writer: RunWriter,
    rank: int,
    chosen: settings.Settings,
) -> Versioning:
    def note(line: Any) -> None:
        writer.note(None, line)

    if rank > 0:
        return NoVersion("rank 0 writes the version", note)
    if not project.has_git:
        _warn(
            f"{project.root} is not in a git repository, so this run has no version: its values "
            "are recorded, but later log statements cannot be replayed for it. `git init` helps"
        )
        return NoVersion("not a git repository", note)
    if script is not None and not script.is_relative_to(project.root):
        _warn(
            f"{script} lies outside the repository {project.root}, so its code is not part of the "
            "version: its values are recorded, but it cannot be replayed. Move it into the "
            "repository"
        )
        return NoVersion(f"{script} lies outside the repository", note)
    return Versioning(project, name, note, chosen.max_untracked_bytes)


def _filename(project: Project, script: Path | None) -> str:
    if script is None:
        return "<interactive>"
    if script.is_relative_to(project.root):
        return script.relative_to(project.root).as_posix()
    return str(script)


def _now() -> datetime:
    """The start of the run; ``FLORDB_TSTAMP`` (ISO 8601) sets it for imports and simulations."""
    given = os.environ.get("FLORDB_TSTAMP")
    if given:
        try:
            moment = datetime.fromisoformat(given)
            return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
        except ValueError:
            _warn(f"FLORDB_TSTAMP={given!r} is no ISO 8601 time, so the clock is used")
    return datetime.now(UTC)


def _agreed(own: datetime, project: Project) -> datetime:
    """The start of the job, which its ranks share: rank 0's, through a file in the store."""
    rank, world_size = ranks()
    if world_size <= 1:
        return own
    path = project.temporary / f"job-{_job_key()}"
    if rank == 0:
        write_whole(path, own.isoformat().encode())
        atexit.register(path.unlink, missing_ok=True)
        return own
    deadline = time.monotonic() + _RANKS_WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            return datetime.fromisoformat(path.read_text())
        except FileNotFoundError:
            time.sleep(0.02)
    _warn(f"rank 0 has not begun within {_RANKS_WAIT_SECONDS} s; rank {rank} is a run of its own")
    return own


def _job_key() -> str:
    """What the ranks of one job have in common and other jobs have not."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
    found = [os.environ[name] for name in names if os.environ.get(name, "none") != "none"]
    if not found:
        # A launcher without a job number: its ranks are its children.
        found = [os.environ.get("MASTER_PORT", ""), str(os.getppid())]
    return "-".join("".join(c if c.isalnum() else "_" for c in text) for text in found)


def _since_process_start() -> float | None:
    """Seconds from the process's start to now: what the script's imports took."""
    ticks = process_start(os.getpid())
    if ticks is None:
        return None
    started = ticks / os.sysconf("SC_CLK_TCK")
    return round(max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started), 3)


def _notice_the_end() -> None:
    global _began_once
    if _began_once:
        return
    _began_once = True
    atexit.register(_at_exit)
    os.register_at_fork(
        before=_before_fork, after_in_parent=_unblock_sigterm, after_in_child=_after_fork
    )
    _wrap_excepthook()
    _wrap_exit()
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)


def _at_exit() -> None:
    recorder = session.peek()
    if isinstance(recorder, Recorder):
        recorder.end(_exit_status or 0)


class _Forking(threading.local):
    """``mask``: the signals that a forking thread had blocked before."""

    mask: set[Any] | None = None


_forking = _Forking()


def _before_fork() -> None:
    # What comes before the child has its own handler waits for that: Python forgets it otherwise.
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _unblock_sigterm() -> None:
    if _forking.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)
        _forking.mask = None


def _after_fork() -> None:
    # No thread and no lock of the parent's is usable here, and the run is the parent's.
    if isinstance(session.peek(), Recorder):
        session.replace(in_child())
    # A handler in Python runs only once the interpreter gets to it: a worker that begins to wait in
    # C for its next task would not see the SIGTERM of its pool's end.
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _unblock_sigterm()


def _wrap_excepthook() -> None:
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        recorder = session.peek()
        if isinstance(recorder, Recorder):
            what = "".join(traceback.format_exception_only(kind, error)).strip()
            recorder.failed(what, _INTERRUPTED if issubclass(kind, KeyboardInterrupt) else 1)
        previous(kind, error, trace)

    sys.excepthook = hook


def _wrap_exit() -> None:
    """Learn the status of ``sys.exit``, ``exit`` and ``quit``: what runs at exit is not told it.

    Nothing tells that of a ``raise SystemExit(2)``: its run ends with status 0.
    """
    previous = sys.exit

    def leave(status: Any = None, /) -> None:
        _leaves_with(status)
        previous(status)

    sys.exit = leave  # type: ignore[assignment]
    call = Quitter.__call__

    def leave_by_name(self: Quitter, code: Any = None) -> None:
        _leaves_with(code)
        call(self, code)

    Quitter.__call__ = leave_by_name  # type: ignore[assignment]


def _leaves_with(status: Any) -> None:
    global _exit_status
    _exit_status = status if isinstance(status, int) else int(status is not None)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    recorder = session.peek()
    if isinstance(recorder, Recorder):
        recorder.failed("SIGTERM", 128 + number)
        recorder.end(0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _warn(what: str) -> None:
    warn_in_training(f"{what}.")
