"""A wheel that is built from the sources works in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import TRAIN, make_sandbox

ROOT = Path(__file__).parents[1]
SOURCES = ("flordb", "sql", "udfs", "flor.py", "pyproject.toml", "README.md", "LICENSE")


@dataclass(frozen=True)
class Installed:
    """A wheel, and the folder of the commands of an environment where it is installed."""

    wheel: Path
    commands: Path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Everything else comes from the environment of the tests, so that no network is needed."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCES:
        path = ROOT / name
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, sources / name)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    built = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sources)
    subprocess.run([*pip, *built], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    place = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    subprocess.run(
        [*pip[:3], "--quiet", "--python", python, "install", "--no-deps", "--no-index", wheel],
        check=True,
        capture_output=True,
    )
    # A path in a .pth file is a folder to import from, but its own .pth files (the editable
    # flordb is one) are not read.
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(wheel, place / "bin")


def test_sql_and_udfs_and_types_are_in_the_wheel(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    for folder in ("sql", "udfs"):
        for path in (ROOT / folder).glob("*.*"):
            assert f"flordb/{folder}/{path.name}" in names
    for path in (ROOT / "flordb").rglob("*.py"):
        assert path.relative_to(ROOT).as_posix() in names
    assert {"flor.py", "flordb/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "bench", "examples", "sql"))]


@pytest.mark.slow
def test_an_installed_wheel_records_replays_and_answers(
    installed: Installed, tmp_path: Path
) -> None:
    place = make_sandbox(tmp_path)
    environment = {**place.environment, "PATH": f"{installed.commands}{os.pathsep}{os.defpath}"}
    environment.pop("PYTHONPATH", None)

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=place.root, env=environment, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    where = run("python", "-c", "import flor, flordb.sql, flordb.udfs as u; print(u.__file__)")
    assert Path(where.strip()).is_relative_to(installed.commands.parent)
    run("python", "train.py")
    place.write("train.py", TRAIN + 'flor.log("double", weight * 2)\n')
    for module in ("flor", "flordb"):
        command = ("python", "-m", module, "sql", "SELECT lr, double FROM flor")
        assert run(*command) == "lr\tdouble\n0.5\t10.0\n"
    code = "SELECT length(git_source(version, filename)) AS n FROM runs"
    assert run("flordb", "sql", code) == f"n\n{len(TRAIN)}\n"
    assert run("flor", "--version").startswith("flordb")
