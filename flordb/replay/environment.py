"""The packages that a run had, beside those that there are now; and interpreters that have the
run's again, each in a virtual environment that is built once a set of packages and kept; and the
variables that a replay has of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata as metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from flordb.errors import ReplayError
from flordb.record.build import is_recorded
from flordb.replay.task import DEVICES
from flordb.replay.workspace import cache_folder, remove_tree
from flordb.settings import Settings

# What a worker itself imports.
_NEEDED = ("cloudpickle", "xxhash")
_OURS = ("flordb", "flor")
_INSTALL_SECONDS = 3600
# Modules that are named otherwise than their distribution, of those that training scripts import.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}


def drift(header: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs now from a run's environment, for the plan: ``torch 2.4.0, now 2.13.0``."""
    found = []
    then, now = str(header.get("python") or ""), platform.python_version()
    if then and then != now:
        found.append(f"Python {then}, now {now}")
    for module, version in sorted(_recorded(header).items()):
        installed = _installed(_DISTRIBUTIONS.get(module, module))
        if installed is not None and installed != version:
            found.append(f"{module} {version}, now {installed}")
    return tuple(found)


def interpreter(header: Mapping[str, Any], settings: Settings) -> str:
    """The path of the interpreter that replays a run with this header; may have to be built.

    Raises ReplayError where the packages cannot be had.
    """
    if not settings.isolated or not drift(header):
        return sys.executable
    then, now = str(header.get("python") or ""), platform.python_version()
    if then.split(".")[:2] != now.split(".")[:2]:
        raise ReplayError(
            f"the run had Python {then}, and this is {now}: call flordb with an interpreter of "
            "that version, or replay without isolated"
        )
    return str(_environment(_requirements(header)))


def variables(header: Mapping[str, Any]) -> dict[str, str]:
    """The recorded variables that a replay has, too: devices are this machine's, if any is used."""
    found = {str(k): str(v) for k, v in (header.get("env") or {}).items()}
    if found.get(DEVICES) not in (None, "", "-1"):
        del found[DEVICES]
    return found


def server_variables(header: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The environment of a server that imports for a run with this header."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name == DEVICES or not is_recorded(name)
    }
    env |= {name: value for name, value in variables(header).items() if not _is_job(name)}
    return tuple(sorted(env.items()))


def _is_job(variable: str) -> bool:
    """Whether a recorded variable only says which job a run was; no library reads it on import."""
    return variable.startswith(("AIRFLOW_", "SLURM_", "GITHUB_", "DVC_", "MLFLOW_", "MAKE"))


def _recorded(header: Mapping[str, Any]) -> dict[str, str]:
    """Versions by module, without those of the standard library and flordb itself."""
    packages = header.get("packages") or {}
    known = {*sys.stdlib_module_names, *_OURS}
    return {str(m): str(v) for m, v in packages.items() if m not in known and not m.startswith("_")}


@cache
def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _requirements(header: Mapping[str, Any]) -> tuple[str, ...]:
    """What to install. Of a module that no installed distribution has, the distribution's name is
    unknown; it is left out, because a guessed name may be anybody's package."""
    names = metadata.packages_distributions()
    found: dict[str, str] = {}
    for module, version in _recorded(header).items():
        distributions = names.get(module) or ([module] if _installed(module) else [])
        if distributions:
            found[distributions[0]] = version
    for name in _NEEDED:
        installed = _installed(name)
        if name not in found and installed is not None:
            found[name] = installed
    return tuple(f"{name}=={version}" for name, version in sorted(found.items()))


def _environment(requirements: tuple[str, ...]) -> Path:
    """The interpreter of an environment with these packages. Raises ReplayError."""
    here = str(Path(__file__).parent.parent)
    text = json.dumps([platform.python_version(), sys.base_prefix, here, requirements])
    base = cache_folder() / "environments"
    folder = base / hashlib.sha256(text.encode()).hexdigest()[:16]
    python = folder / "bin" / "python"
    base.mkdir(parents=True, exist_ok=True)
    with open(base / f"{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            if folder.exists():
                remove_tree(folder)  # left half built
            _build(folder, python, requirements)
            (folder / "complete").write_text("\n".join(requirements))
    return python


def _build(folder: Path, python: Path, requirements: tuple[str, ...]) -> None:
    uv = shutil.which("uv")
    if uv is not None:
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
        _run(uv, "pip", "install", "--quiet", "--python", str(python), *requirements)
    else:
        _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
        pip = (sys.executable, "-m", "pip", "--python", str(python), "install")
        _run(*pip, "--quiet", "--disable-pip-version-check", *requirements)
    # This flordb, by links, because the others of its folder are not the run's.
    ours = folder / "flordb"
    ours.mkdir()
    package = Path(__file__).parent.parent
    (ours / "flordb").symlink_to(package)
    (ours / "flor.py").write_text("import sys\n\nimport flordb\n\nsys.modules[__name__] = flordb\n")
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "flordb.pth").write_text(f"{ours}\n")


def _run(*command: str) -> None:
    # The caller's PYTHONPATH and pip's own settings for a target would lead elsewhere.
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_TARGET")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, env=env, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReplayError(f"no environment with the run's packages: {error}") from error
    if done.returncode != 0:
        said = "\n  ".join(done.stderr.strip().splitlines()[-5:])
        raise ReplayError(f"no environment with the run's packages:\n  {said}")
