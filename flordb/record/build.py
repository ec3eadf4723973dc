"""The build context: how and where a run was made, for the first line of its run file."""

from __future__ import annotations

import getpass
import os
import platform
import socket
import sys
from pathlib import Path
from typing import Any

from flordb import kwargs

# What build systems and schedulers say about themselves, and what decides how a run computes.
# Never the whole environment: it holds secrets.
_VARIABLES = (
    *("MAKEFLAGS", "MAKELEVEL", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"),
    *("PYTHONHASHSEED", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
    *("CUBLAS_WORKSPACE_CONFIG", "RANK", "LOCAL_RANK", "WORLD_SIZE", "CONDA_DEFAULT_ENV"),
)
_PREFIXES = ("AIRFLOW_CTX_", "SLURM_JOB", "SLURM_ARRAY", "SLURM_PROCID", "GITHUB_RUN", "DVC_")


def build_context(root: Path) -> dict[str, Any]:
    """argv, cwd, Python, packages, host, user, process, hardware, build system of this process.

    Only what is known without asking other programs: it must cost a training run next to nothing.
    """
    rank, world_size = ranks()
    return {
        "argv": list(kwargs.original_argv or getattr(sys, "argv", [])),
        **_module(),
        "cwd": os.path.relpath(os.getcwd(), root),
        **_import_path(root),
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": _packages(),
        "host": socket.gethostname(),
        "user": _user(),
        "pid": os.getpid(),
        "pid_start": process_start(os.getpid()),
        "hardware": {"machine": platform.machine(), "cpus": os.cpu_count()},
        "env": {name: value for name, value in sorted(os.environ.items()) if is_recorded(name)},
        "rank": rank,
        "world_size": world_size,
    }


def _module() -> dict[str, str]:
    """The name of the module that runs as the script, where it was started by ``python -m``."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return {"module": spec.name} if spec is not None else {}


def _import_path(root: Path) -> dict[str, list[str]]:
    """The folders in PYTHONPATH, where it is set; those in the project relative to its root."""
    folders = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    inside = os.path.join(root, "")
    found = [os.path.relpath(p, root) if f"{p}/".startswith(inside) else p for p in folders]
    return {"pythonpath": found} if found else {}


def is_recorded(variable: str) -> bool:
    """Whether a variable of the environment is part of a run's record."""
    return variable in _VARIABLES or variable.startswith(_PREFIXES)


def ranks() -> tuple[int, int]:
    """(rank, number of ranks) of this process in its job; (0, 1) where there is just one."""
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        try:
            return int(os.environ[rank]), int(os.environ[size])
        except (KeyError, ValueError):
            continue
    return 0, 1


def process_start(pid: int) -> int | None:
    """When a process of this host started, in clock ticks since boot; None where unknown.

    With the process number it tells a living run from another process that got its number.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, module in sorted(sys.modules.items()):
        version = getattr(module, "__version__", None)
        if "." not in name and isinstance(version, str):
            found[name] = version
    return found


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None  # a container without a user database
