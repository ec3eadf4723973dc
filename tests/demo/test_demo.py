"""The demo on real data: its answers are exact, and no more is computed for them than promised."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flordb.store.runfile import read_run
from tests.demo.conftest import Asked, Summer, demo, summer
from tests.demo.warm import Warm

pytestmark = pytest.mark.slow

STEPS = 20  # of an epoch of 2023-08-14: 320 pictures in batches of 16
EPOCHS = 5


def test_each_question_gets_all_of_its_rows(asked_summer: Summer) -> None:
    rows = {name: asked.answer.rows for name, asked in asked_summer.asked.items()}
    assert [len(found) for found in rows.values()] == [14, 4 * EPOCHS, 2 * STEPS]
    for name, found in rows.items():
        assert found[name].notna().all()


def test_the_eights_are_forgotten_and_the_score_hardly_tells(asked_summer: Summer) -> None:
    rows = asked_summer.asked["f1_eight"].answer.rows
    assert rows["f1_score"].min() > 0.8
    assert rows["f1_eight"].max() > 0.85
    assert rows["f1_eight"].iloc[-2:].max() < 0.2


@pytest.mark.parametrize("name", ["f1_eight", "recall_eight", "grad_norm"])
def test_replayed_values_equal_those_of_training_from_scratch_with_the_statement(
    name: str, asked_summer: Summer, from_scratch: dict[str, list[Any]]
) -> None:
    asked = asked_summer.asked[name]
    dates = [task.want.tstamp for task in asked.answer.plan.tasks]
    compared = 0
    for training in summer.SUMMER:
        if training.started not in dates:
            continue
        replayed = _values(asked_summer, training, name, replayed=True)
        expected = _values_of(from_scratch[training.version], name)
        if name == "grad_norm":
            expected = expected[2 * STEPS : 4 * STEPS]  # the epochs that were asked for
        assert [value.hex() for value in replayed] == [value.hex() for value in expected]
        compared += len(replayed)
    assert compared == len(asked.answer.rows)


@pytest.mark.parametrize("name", ["f1_eight", "recall_eight", "grad_norm"])
def test_the_answer_shows_exactly_the_replayed_values(name: str, asked_summer: Summer) -> None:
    rows = asked_summer.asked[name].answer.rows
    stored = [
        value
        for training in summer.SUMMER
        for value in _values(asked_summer, training, name, replayed=True)
    ]
    assert rows[name].tolist() == stored


def test_training_again_gives_what_the_runs_had_logged(
    asked_summer: Summer, from_scratch: dict[str, list[Any]]
) -> None:
    # Without this, equal values would say nothing about the runs of the summer.
    for training in summer.SUMMER:
        for name in ("loss", "accuracy", "f1_score"):
            recorded = _values(asked_summer, training, name, replayed=False)
            assert recorded == _values_of(from_scratch[training.version], name)


@pytest.mark.parametrize("name", ["f1_eight", "recall_eight", "grad_norm"])
def test_statements_land_where_a_person_would_put_them(name: str, asked_summer: Summer) -> None:
    asked = asked_summer.asked[name]
    for task in asked.answer.plan.tasks:
        training = next(t for t in summer.SUMMER if t.started == task.want.tstamp)
        folder = summer.VERSIONS / training.version
        assert task.patch.files == {"train.py": _by_hand(folder / "train.py", [asked])}


def test_the_suffix_scan_runs_no_training_step(asked_summer: Summer) -> None:
    asked = asked_summer.asked["f1_eight"]
    assert {task.scan for task in asked.answer.plan.tasks} == {"suffix"}
    assert len(asked.answer.plan.tasks) == 14
    assert asked.computed == {}


def test_the_validation_scan_runs_no_nested_loop(asked_summer: Summer) -> None:
    asked = asked_summer.asked["recall_eight"]
    assert {task.scan for task in asked.answer.plan.tasks} == {"validation"}
    assert asked.computed == {"evaluate": 4 * EPOCHS}


def test_the_range_scan_runs_two_epochs(asked_summer: Summer) -> None:
    asked = asked_summer.asked["grad_norm"]
    assert {task.scan for task in asked.answer.plan.tasks} == {"range"}
    assert asked.computed["loader"] == 2
    assert asked.computed["step"] == asked.computed["forward"] == 2 * STEPS
    assert asked.computed["evaluate"] <= 2


def test_a_second_select_replays_nothing(asked_summer: Summer) -> None:
    first, again = asked_summer.asked["f1_eight"], asked_summer.again
    assert again.answer.plan.tasks == again.answer.plan.refusals == ()
    assert again.computed == {}
    before, after = asked_summer.replay_files
    assert before == after
    assert again.answer.rows.equals(first.answer.rows)


@pytest.mark.parametrize("name", ["f1_eight", "recall_eight", "grad_norm"])
def test_asking_changes_nothing_of_the_users(name: str, asked_summer: Summer) -> None:
    asked = asked_summer.asked[name]
    assert asked.before == asked.after
    assert "stash@{0}" in str(asked.after["stash"])
    assert "staged.txt" in str(asked.after["status"])


def test_the_demo_shows_diff_query_plan_and_table(asked_summer: Summer) -> None:
    shown = asked_summer.shown
    for question in demo.QUESTIONS:
        assert f"+{_indented(question)}" in shown
        assert all(line in shown for line in question.sql.splitlines())
    assert "To acquire: 14 replays of 14 runs, about" in shown
    assert "Nothing to acquire." in shown
    assert "2023-08-14" in shown
    assert "40 rows" in shown


def test_the_picture_is_saved(asked_summer: Summer, tmp_path: Path) -> None:
    out = tmp_path / "new" / "forgetting.png"
    demo.draw(asked_summer.asked["f1_eight"].answer.rows, out)
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="session")
def from_scratch(
    asked_summer: Summer, warm: Warm, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Any]]:
    """What each version logs when it is trained with all statements in it, put there by hand."""
    running = []
    for training in summer.SUMMER:
        folder = tmp_path_factory.mktemp(training.version) / "digits"
        shutil.copytree(summer.VERSIONS / training.version, folder)
        for name in ("batches", "weights"):
            shutil.copytree(asked_summer.sandbox.root / name, folder / name)
        (folder / "weights" / f"{training.started:%Y-%m-%d}.pt").unlink()
        (folder / ".git").mkdir()  # no repository: these runs need no version
        asked = list(asked_summer.asked.values())
        (folder / "train.py").write_text(_by_hand(folder / "train.py", asked))
        running.append((training, folder, warm.start(folder, training)))
        if len(running) % 2 == 0:
            for _, _, process in running[-2:]:
                assert process.wait() == 0
    return {training.version: _lines(folder) for training, folder, _ in running}


def _by_hand(script: Path, asked: list[Asked]) -> str:
    """An old script with statements in it. Until July 5th the network was called ``model``."""
    lines = script.read_text().splitlines(keepends=True)
    old = any(line.startswith("model = ") for line in lines)
    for each in asked:
        statement = each.question.statement
        at = next(n for n, line in enumerate(lines) if line.strip() == statement.below)
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        text = statement.text.replace("net.parameters", "model.parameters")
        lines.insert(at + 1, f"{indent}{text if old else statement.text}\n")
    return "".join(lines)


def _lines(folder: Path) -> list[dict[str, Any]]:
    (path,) = (folder / ".flor" / "runs").glob("*.jsonl")
    return list(read_run(path).singly())


def _values_of(lines: list[dict[str, Any]], name: str) -> list[Any]:
    return [line["v"] for line in lines if line["k"] == "log" and line["n"] == name]


def _values(found: Summer, training: Any, name: str, replayed: bool) -> list[Any]:
    """What a run logged, or what replays of it did, in the order of the run."""
    start = f"{training.started:%Y%m%dT%H%M%S}"
    values: list[tuple[list[Any], Any]] = []
    for path in found.sandbox.project.runs.glob(f"{start}*.jsonl"):
        if (".replay-" in path.name) != replayed:
            continue
        lines = list(read_run(path).singly())
        contexts = {line["c"]: line for line in lines if line["k"] == "ctx"}
        for line in lines:
            if line["k"] == "log" and line["n"] == name:
                values.append((_place(contexts, line.get("c", 0)), line["v"]))
    return [value for _, value in sorted(values)]


def _place(contexts: dict[int, dict[str, Any]], number: int) -> list[int]:
    """The indexes of a context, from the outermost loop in."""
    if not number:
        return []
    context = contexts[number]
    return [*_place(contexts, context.get("p", 0)), context["i"]]


def _indented(question: demo.Question) -> str:
    lines = (summer.VERSIONS / summer.SUMMER[-1].version / "train.py").read_text().splitlines()
    line = next(line for line in lines if line.strip() == question.statement.below)
    return line.replace(question.statement.below, question.statement.text)
