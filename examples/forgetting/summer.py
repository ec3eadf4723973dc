"""A summer of trainings in a git repository of its own, which the demo and its tests query.

Every second Monday a batch of labelled digits arrives and the network goes on learning from it. On
the Wednesday after, a change to the code is tried on the same batch, from the same weights; the
next Monday's training starts from the result. Batch by batch there are fewer eights.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

VERSIONS = Path(__file__).parent / "versions"
COMMON = Path(__file__).parent / "project"
"""What all versions have in common: the settings, and what git ignores."""

# When a batch arrives: how many pictures it has, and how many of them are eights.
BATCHES = {
    "2023-06-19": (280, 28),
    "2023-07-03": (240, 20),
    "2023-07-17": (280, 14),
    "2023-07-31": (320, 8),
    "2023-08-14": (320, 3),
    "2023-08-28": (320, 2),
    "2023-09-11": (320, 0),
}


@dataclass(frozen=True)
class Training:
    """One run: the version of the code (a folder of `VERSIONS`), its start, its seed."""

    version: str
    started: datetime
    seed: int

    @property
    def command(self) -> tuple[str, ...]:
        """The command line, after ``python``."""
        return ("train.py", "--kwargs", f"seed={self.seed}")

    @property
    def environment(self) -> dict[str, str]:
        """What makes the run believe in its date."""
        return {"FLORDB_TSTAMP": self.started.isoformat()}


def _training(version: str, date: str, seed: int) -> Training:
    return Training(version, datetime.fromisoformat(f"{date}T09:00:00"), seed)


SUMMER = (
    _training("01-first-model", "2023-06-19", 81),
    _training("02-wider-layer", "2023-06-21", 63),
    _training("03-continue-from-weights", "2023-07-03", 157),
    _training("04-net-not-model", "2023-07-05", 42),
    _training("05-validate-function", "2023-07-17", 213),
    _training("06-augmentation", "2023-07-19", 12),
    _training("07-dropout", "2023-07-31", 333),
    _training("08-scheduler", "2023-08-02", 99),
    _training("09-weight-decay", "2023-08-14", 475),
    _training("10-split-in-files", "2023-08-16", 198),
    _training("11-adamw", "2023-08-28", 94),
    _training("12-main-function", "2023-08-30", 37),
    _training("13-clearer-names", "2023-09-11", 292),
    _training("14-mean-loss", "2023-09-13", 70),
)


class Running(Protocol):
    """A training under way."""

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""

    def wait(self) -> int:
        """Its exit status, when it has ended."""


Start = Callable[[Path, Training], Running]


def start_python(folder: Path, training: Training) -> Running:
    """Start a training as its user would: ``python train.py --kwargs seed=81``."""
    output = open(folder / ".git" / f"{training.version}.log", "wb")  # noqa: SIM115 (the child's)
    try:
        return subprocess.Popen(
            [sys.executable, *training.command],
            cwd=folder,
            env=os.environ | training.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    finally:
        output.close()


def build(folder: Path, start: Start = start_python) -> Iterator[Training]:
    """Make the project in an empty folder; yields each training when it has ended.

    The two trainings of a batch depend on the same weights, so they run side by side. Raises
    RuntimeError where one fails.
    """
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "Alice")
    git(folder, "config", "user.email", "alice@example.org")
    deliver_batches(folder)
    for monday, wednesday in zip(SUMMER[::2], SUMMER[1::2], strict=True):
        running = []
        for training in (monday, wednesday):
            commit_version(folder, training)
            running.append((training, start(folder, training)))
            _wait_for_version(folder, *running[-1])
        for training, process in running:
            if process.wait() != 0:
                raise _failure(folder, training)
            yield training


def deliver_batches(folder: Path) -> None:
    """Write which pictures each batch has: ``batches/<date>.txt``, one row number a line."""
    import numpy as np
    from sklearn.datasets import load_digits

    labels = load_digits().target
    rows = np.arange(len(labels))
    training = rows[rows % 4 != 0]  # every fourth picture is for the test
    eights = training[labels[training] == 8]
    others = training[labels[training] != 8]
    chance = np.random.default_rng(8)
    (folder / "batches").mkdir()
    for date, (size, of_eights) in BATCHES.items():
        chosen = [
            *chance.choice(eights, of_eights, replace=False),
            *chance.choice(others, size - of_eights, replace=False),
        ]
        chance.shuffle(chosen)
        np.savetxt(folder / "batches" / f"{date}.txt", chosen, fmt="%d")


def commit_version(folder: Path, training: Training) -> None:
    """Make the project's files those of a version, and commit them on its date."""
    for name in git(folder, "ls-files").splitlines():
        (folder / name).unlink()
    shutil.copytree(COMMON, folder, dirs_exist_ok=True)
    shutil.copytree(VERSIONS / training.version, folder, dirs_exist_ok=True)
    date = training.started.replace(hour=8).isoformat()
    git(folder, "add", "--all")
    message = training.version.partition("-")[2].replace("-", " ").capitalize()
    git(folder, "commit", "--quiet", "--message", message, date=date)


def git(folder: Path, *arguments: str, date: str | None = None) -> str:
    """Run git in the project; returns what it prints."""
    dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date} if date else {}
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | dates,
    ).stdout


def _wait_for_version(folder: Path, training: Training, process: Running) -> None:
    """Until the run's code is in git: from then on, editing the files does not change the run."""
    pattern = f"{training.started:%Y%m%dT%H%M%S}*.jsonl"
    while not any('"k":"version"' in path.read_text() for path in _runs(folder, pattern)):
        if process.poll() not in (None, 0):
            raise _failure(folder, training)
        time.sleep(0.02)


def _runs(folder: Path, pattern: str) -> list[Path]:
    return list((folder / ".flor" / "runs").glob(pattern))


def _failure(folder: Path, training: Training) -> RuntimeError:
    log = folder / ".git" / f"{training.version}.log"
    said = log.read_text() if log.exists() else ""
    return RuntimeError(f"the training {training.version} failed:\n{said}")
