"""Shared by all tests: real projects in real git repositories, scripts run by real interpreters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flordb.store.project import Project
from flordb.store.runfile import read_run

# Where the tests were started in the background, a shell has it ignored, and all children, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Sandbox:
    """A project in a temporary folder."""

    root: Path
    environment: dict[str, str]

    @property
    def project(self) -> Project:
        return Project(self.root, has_git=(self.root / ".git").exists())

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def commit(self, message: str = "a change") -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def start(self, script: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, script, *arguments]
        return subprocess.Popen(
            command,
            cwd=self.root,
            env={**self.environment, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, script: str, *arguments: str, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of the project to its end, in the project's folder."""
        process = self.start(script, *arguments, **env)
        out, err = process.communicate(timeout=300)
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        if check and process.returncode:
            raise AssertionError(f"{script} ended with {process.returncode}:\n{out}\n{err}")
        return done

    def run_files(self) -> list[Path]:
        paths = sorted(self.project.runs.glob("*.jsonl*"))
        return [path for path in paths if ".replay-" not in path.name]

    def lines(self, number: int = -1) -> list[dict[str, Any]]:
        """The lines of a run file, a value and a context each; the last run's by default."""
        run = read_run(self.run_files()[number])
        assert not run.problems
        return [run.header, *run.singly()]

    def logged(self, name: str, number: int = -1) -> list[Any]:
        return [
            line["v"] for line in self.lines(number) if line["k"] == "log" and line["n"] == name
        ]

    def everything_of_the_users(self) -> dict[str, bytes | str]:
        """All that flor must leave as it is: files, HEAD, index, stash, status, branches."""
        found: dict[str, bytes | str] = {}
        for path in sorted(self.root.rglob("*")):
            relative = path.relative_to(self.root)
            if relative.parts[0] not in (".git", ".flor") and path.is_file():
                found[str(relative)] = path.read_bytes() + str(path.stat().st_mtime_ns).encode()
        for name in ("HEAD", "index", "ORIG_HEAD", "MERGE_HEAD"):
            path = self.root / ".git" / name
            found[f".git/{name}"] = path.read_bytes() if path.exists() else b""
        found["status"] = self.git("--no-optional-locks", "status", "--porcelain=v2", "--branch")
        found["stash"] = self.git("stash", "list")
        branches = self.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads")
        found["branches"] = "\n".join(b for b in branches.splitlines() if "/flor/" not in b)
        return found


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of scripts and commands: the user's own settings and caches stay out."""
    home = tmp_path_factory.mktemp("home")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLORDB_", "GIT_"))}
    return kept | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        # Snapshots at every boundary, whatever the machine's speed.
        "FLORDB_EPSILON": "1000",
    }


@pytest.fixture(autouse=True)
def _own_environment(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests call in their own process sees the same environment."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "FLORDB_EPSILON"):
        monkeypatch.setenv(name, environment[name])


@pytest.fixture
def folder(tmp_path: Path, environment: dict[str, str]) -> Sandbox:
    """A project's folder without git."""
    root = tmp_path / "proj"
    root.mkdir()
    return Sandbox(root, environment)


@pytest.fixture
def sandbox(folder: Sandbox) -> Sandbox:
    """A project in a git repository with one commit."""
    folder.git("init", "--quiet", "--initial-branch=main")
    folder.git("config", "user.name", "Ada")
    folder.git("config", "user.email", "ada@example.org")
    folder.write("README", "a project\n")
    folder.commit("begin")
    return folder
