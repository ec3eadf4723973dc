"""The README's tour does what it says: its blocks run in order, and print what is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Step:
    """A block to run or a file to write, with what the README shows after it, if anything."""

    line: int
    language: str
    target: str
    text: str
    shown: str | None


def steps() -> list[Step]:
    text = README.read_text()
    found: list[Step] = []
    for match in BLOCK.finditer(text):
        language, target, body = match.group(1), match.group(2) or "", match.group(3)
        if target == "norun":
            continue
        line = text.count("\n", 0, match.start()) + 1
        if language == "text":
            last = found.pop()
            found.append(Step(last.line, last.language, last.target, last.text, body))
        else:
            found.append(Step(line, language, target, body, None))
    return found


def test_the_tour_prints_what_the_readme_shows(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "lines"
    folder.mkdir()
    environment = {
        **{name: value for name, value in environment.items() if name != "FLORDB_EPSILON"},
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "COLUMNS": "300",
        **{f"GIT_{who}_NAME": "Ada" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "ada@example.org" for who in ("AUTHOR", "COMMITTER")},
    }
    shared = ["git", "init", "--quiet", "--bare", str(tmp_path / "shared.git")]
    subprocess.run(shared, check=True, env=environment)
    ran = 0
    for step in steps():
        if step.target:
            (folder / step.target).write_text(step.text)
            continue
        done = subprocess.run(
            _command(step),
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
        )
        where = f"README.md:{step.line}:\n{step.text}\nprinted\n{done.stdout}"
        assert done.returncode == 0, where
        assert _pattern(step.shown or "").fullmatch(_trimmed(done.stdout)), where
        ran += 1
    assert ran > 10


def _command(step: Step) -> list[str]:
    if step.language == "sh":
        return ["bash", "-euo", "pipefail", "-c", step.text]
    if step.language == "sql":
        return ["flordb", "sql", step.text]
    assert step.language == "python"
    return [sys.executable, "-c", step.text]


def _pattern(shown: str) -> re.Pattern[str]:
    """What may be printed: ``…`` stands for anything, and a line of it alone for any lines."""
    lines = (
        "(?s:.*?)" if line == "…" else re.escape(line).replace("…", ".*")
        for line in _trimmed(shown).split("\n")
    )
    return re.compile("\n".join(lines))


def _trimmed(text: str) -> str:
    """Without spaces at the ends of lines (tabs are columns), and the last newline."""
    return re.sub(r" +$", "", text, flags=re.MULTILINE).rstrip("\n")
