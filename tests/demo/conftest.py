"""The demo's project, built once and asked once; the tests look at what came of it."""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from tests.conftest import Sandbox

EXAMPLE = Path(__file__).parents[2] / "examples" / "forgetting"
sys.path.insert(0, str(EXAMPLE))

import demo  # noqa: E402
import summer  # noqa: E402

from tests.demo.warm import Warm  # noqa: E402


@dataclass(frozen=True)
class Asked:
    """A question of the demo: the answer, what was computed for it, and the user's things."""

    question: demo.Question
    answer: demo.Answer
    computed: Counter[str]
    before: dict[str, bytes | str]
    after: dict[str, bytes | str]


@dataclass(frozen=True)
class Summer:
    """The demo's project after its questions. ``again``: the first of them, asked once more."""

    sandbox: Sandbox
    asked: dict[str, Asked]
    again: Asked
    replay_files: tuple[list[Path], list[Path]]
    shown: str


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    with Warm() as server:
        yield server


@pytest.fixture(scope="session")
def asked_summer(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Summer]:
    folder = tmp_path_factory.mktemp("summer") / "digits"
    folder.mkdir()
    counts = tmp_path_factory.mktemp("counts") / "events"
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        assert len(list(summer.build(folder, warm.start))) == len(summer.SUMMER)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "counting"), prepend=os.pathsep)
        patch.setenv("COUNT_FILE", str(counts))
        sandbox = Sandbox(folder, dict(os.environ))
        _leave_work_lying_around(sandbox)
        console = Console(file=io.StringIO(), width=200)
        asked = {}
        for question in demo.QUESTIONS:
            demo.add_statement(folder, question, console)
            asked[question.statement.name] = _ask(sandbox, question, counts, console)
        files = _replay_files(sandbox)
        again = _ask(sandbox, demo.FORGETTING, counts, console)
        shown = console.file.getvalue()
        yield Summer(sandbox, asked, again, (files, _replay_files(sandbox)), shown)


def _leave_work_lying_around(sandbox: Sandbox) -> None:
    """A stash, a staged file and an untracked one: flor must not touch any."""
    sandbox.write("notes.txt", "an idea\n")
    sandbox.git("add", "notes.txt")
    sandbox.git("stash")
    sandbox.write("staged.txt", "for the next commit\n")
    sandbox.git("add", "staged.txt")
    sandbox.write("untracked.txt", "not yet\n")


def _ask(sandbox: Sandbox, question: demo.Question, counts: Path, console: Console) -> Asked:
    before = sandbox.everything_of_the_users()
    counts.write_text("")
    answer = demo.ask(sandbox.root, question, console)
    computed = Counter(counts.read_text().split())
    return Asked(question, answer, computed, before, sandbox.everything_of_the_users())


def _replay_files(sandbox: Sandbox) -> list[Path]:
    return sorted(sandbox.project.runs.glob("*.replay-*"))
