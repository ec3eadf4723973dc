"""Projects that several tests share, because recording and replaying take time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Sandbox

TRAIN = """\
import flordb as flor

lr = flor.arg("lr", 0.5)
weight = 1.0
for epoch in flor.loop("epoch", range(4)):
    for step in flor.loop("step", range(2)):
        weight += lr
        flor.log("loss", 1 / weight)
    flor.log("acc", weight)
flor.log("end", weight)
"""
HINDSIGHT = {
    '        flor.log("loss", 1 / weight)\n': '        flor.log("square", weight * weight)\n',
    '    flor.log("acc", weight)\n': '    flor.log("half", weight / 2)\n'
    '    flor.log("third", weight / 3)\n',
    'flor.log("end", weight)\n': 'flor.log("double", weight * 2)\n',
}
"""After each of these lines, the statements that log what nobody logged."""


def make_sandbox(folder: Path) -> Sandbox:
    """A project in a git repository with one commit, outside the user's own settings."""
    home, root = folder / "home", folder / "proj"
    home.mkdir(parents=True)
    root.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLORDB_", "GIT_"))}
    places = {"HOME": home, "XDG_CONFIG_HOME": home / "config", "XDG_CACHE_HOME": home / "cache"}
    environment = kept | {name: str(place) for name, place in places.items()}
    sandbox = Sandbox(root, environment | {"FLORDB_EPSILON": "1000"})
    sandbox.git("init", "--quiet", "--initial-branch=main")
    sandbox.git("config", "user.name", "Ada")
    sandbox.git("config", "user.email", "ada@example.org")
    sandbox.write("train.py", TRAIN)
    sandbox.commit("begin")
    return sandbox


def look_back(text: str = TRAIN) -> str:
    """The script with the hindsight statements in it."""
    for line, more in HINDSIGHT.items():
        assert text.count(line) == 1
        text = text.replace(line, line + more)
    return text


def trained(folder: Path, rates: tuple[float, ...] = (0.5, 1.0, 2.0)) -> Sandbox:
    """A project with a run a learning rate, and then hindsight statements in its script."""
    sandbox = make_sandbox(folder)
    for rate in rates:
        sandbox.run("train.py", "--kwargs", f"lr={rate}")
    sandbox.write("train.py", look_back())
    return sandbox


def copied(source: Sandbox, folder: Path) -> Sandbox:
    """The same project elsewhere, to be changed by one test."""
    import shutil

    root = folder / source.root.name
    shutil.copytree(source.root, root, symlinks=True)
    return Sandbox(root, source.environment)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system of its own in a folder."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no tmpfs here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
