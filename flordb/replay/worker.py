"""What a worker does with one job: becomes the old script's process, as far as the script can tell,
and writes what it logs to the replay file.
"""

from __future__ import annotations

import errno
import importlib
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from flordb import kwargs, session
from flordb.errors import ReplayError
from flordb.record.build import is_recorded
from flordb.record.passive import Passive
from flordb.replay.guard import enter_overlay, protect_links
from flordb.replay.importing import VersionFinder, is_installed
from flordb.replay.inputs import Inputs
from flordb.replay.memory import keep_freed_memory
from flordb.replay.observe import run_script
from flordb.replay.ranks import meet_nobody
from flordb.replay.recorded import recorded
from flordb.replay.replayer import Replayer
from flordb.replay.task import DEVICES, Job
from flordb.store.encoding import dump_line
from flordb.store.runfile import read_run

_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""Of the machine as it is now, not of the code: the same replay may succeed another time."""


def work(job_file: Path, done: int | None = None) -> NoReturn:
    """Carry out a job and end the process: 0 when it ran to where it should, 1 otherwise.

    Parameters: ``done``, a descriptor for that status, and the most bytes of memory that the
    process held, once all is written.
    """
    job = Job.load(job_file)
    out = open(job.out, "a", encoding="utf-8")  # noqa: SIM115 (closed by its end)
    began = time.perf_counter()

    def write(line: dict[str, Any]) -> None:
        out.write(dump_line(line))
        if line["k"] != "ctx":
            out.flush()  # what is there when the worker is killed has been acquired

    def leave() -> NoReturn:
        finish(None)

    def finish(error: str | None, passing: bool = False) -> NoReturn:
        seconds = round(time.perf_counter() - began, 6)
        end = {"k": "done", "s": seconds, "error": error, "anomalies": replayer.output.anomalies}
        used = {**replayer.used(), "changed": inputs.changed, "passing": passing}
        write({**end, "took": replayer.took(), **used})
        for stream in (out, sys.stdout, sys.stderr):
            stream.flush()
        if done is not None:
            os.write(done, f"{int(bool(error))} {_peak()}".encode())
        # The script's own exit handlers and finally blocks belong to the run, not to its replay.
        os._exit(1 if error else 0)

    record = recorded(read_run(Path(job.run_file)))
    replayer = Replayer(job, record, write, leave)
    keep_freed_memory()
    began_at = min(job.began, time.time())
    inputs = Inputs(job.at_work, began_at, job.workspace, job.older, _become(job), finish)
    sys.addaudithook(inputs)
    session.replace(replayer)
    path = os.path.join(job.workspace, job.script)
    try:
        # Some draw random numbers while they are imported. The run had that behind it when its
        # generators were noted.
        for name in job.imports:
            import_library(name)
        meet_nobody()
        replayer.prepare()
        text = Path(path).read_text()
        with _passing_exit():
            run_script(text, path, job.observed.get(job.script, ()), job.module)
        replayer.script_ended()
    except SystemExit as error:
        finish(f"SystemExit: {error.code}")
    except BaseException as error:
        traceback.print_exc()
        passing = isinstance(error, OSError) and error.errno in _PASSING
        finish(_describe(error, job.workspace), passing)
    finish(None)


@contextmanager
def _passing_exit() -> Iterator[None]:
    """The script may end itself, as one that has done its work."""
    try:
        yield
    except SystemExit as error:
        if error.code not in (None, 0):
            raise


def import_library(name: str) -> None:
    """Import what a script is going to. Where that fails, the script will meet the error."""
    try:
        importlib.import_module(name)
        if name == "torch":
            # The first optimizer imports it, which takes as long as torch itself.
            importlib.import_module("torch._dynamo")
    except ModuleNotFoundError as error:
        parent, _, attribute = name.rpartition(".")
        if not hasattr(sys.modules.get(parent), attribute):
            print(f"flordb: import {name}: {error}", file=sys.stderr)
    except BaseException as error:
        # The script may never get there, or catch it; if not, its replay fails with this error.
        print(f"flordb: import {name}: {type(error).__name__}: {error}", file=sys.stderr)


def _hide(paths: Iterable[Path]) -> None:
    """Remove what is there from this view of the files."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)


def _show(workspace: Path, names: Iterable[str]) -> None:
    """Let there be files of these names in this view of the files, for scripts that look for them;
    `Inputs` keeps them from being read. Names of folders have a slash at their end."""
    for name in names:
        path = workspace / name
        if os.path.lexists(path):
            continue
        with suppress(OSError):  # a file is where its folder was, say
            folder = path if name.endswith("/") else path.parent
            folder.mkdir(parents=True, exist_ok=True)
            if path != folder:
                path.touch()
                os.utime(path, (0, 0))


def _become(job: Job) -> Callable[[], bool]:
    """Environment, view of the files, argv, working folder, import path: as the run had them.

    Returns what tells whether a file is being copied into the workspace.
    """
    for name in [n for n in os.environ if is_recorded(n) and n != DEVICES]:
        del os.environ[name]
    os.environ.update(job.env)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    if job.layers is not None:
        copies = enter_overlay(job.layers)
    else:
        copies = protect_links(Path(job.workspace), Path(job.outer), Path(job.project))
    workspace = Path(job.workspace)
    _hide(workspace / name for name in job.absent)
    _show(workspace, job.older)
    os.chdir(workspace / job.cwd if (workspace / job.cwd).is_dir() else workspace)
    sys.argv[:] = job.argv or [job.script]
    kwargs.given.clear()
    kwargs.original_argv.clear()
    kwargs.take_from_argv()
    # `python -m` looks for modules where it was started, `python script.py` beside the script.
    first = Path.cwd() if job.module is not None else (workspace / job.script).parent
    own = [os.path.normpath(os.path.join(job.project, path)) for path in job.pythonpath]
    others = [p for p in sys.path if p not in ("", os.getcwd(), *own)]
    _forget_modules(os.path.join(os.path.realpath(job.project), ""))
    ranges = {
        os.path.realpath(workspace / name): lines
        for name, lines in job.observed.items()
        if name != job.script
    }
    finder = VersionFinder(ranges, job.project, job.workspace)
    sys.path[:] = [str(first), *map(finder.of_version, (*own, *others))]
    sys.meta_path.insert(0, finder)
    os.register_at_fork(after_in_child=_after_fork)
    return copies


def _peak() -> int:
    """The most bytes of memory that this process, or one that it has waited for, held."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return 1024 * max(resource.getrusage(one).ru_maxrss for one in who)


_modules: str | None = None


def note_modules() -> None:
    """Note where the modules come from, in one text: to look at thousands of them costs a process
    that was forked a copy of each page that they are on."""
    global _modules
    _modules = _files_of_modules()


def _files_of_modules() -> str:
    found = []
    for name, module in list(sys.modules.items()):
        file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if isinstance(file, str) and not name.startswith("flordb"):
            found.append(f"\n{file}\0{name}")
    return "".join(found)


def _forget_modules(project: str) -> None:
    """Forget modules of the project's own that a library has imported before: they are not the
    version's. An environment in the project's folder is none of its own code."""
    for folder in [f for f in sys.path_importer_cache if f.startswith(project.rstrip(os.sep))]:
        del sys.path_importer_cache[folder]
    files = _files_of_modules() if _modules is None else _modules
    at = -1
    while (at := files.find(f"\n{project}", at + 1)) >= 0:
        file, _, name = files[at + 1 :].partition("\n")[0].partition("\0")
        if not is_installed(file):
            sys.modules.pop(name, None)


def _after_fork() -> None:
    session.replace(Passive())


def _describe(error: BaseException, workspace: str) -> str:
    """An exception with the place in the user's code where it came from."""
    if isinstance(error, ReplayError):
        return str(error)
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(workspace):
            place = f" at {os.path.relpath(frame.filename, workspace)}:{frame.lineno}"
    hint = ""
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES):
        hint = " (a replay may not change what is outside its workspace)"
    return f"{type(error).__name__}{place}: {error}{hint}"


if __name__ == "__main__":
    work(Path(sys.argv[1]))
