"""Which runs and iterations a query asks for, against real run files that lack the column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import flordb
from flordb.query.connection import Connection
from flordb.query.errors import UnknownName
from flordb.store.encoding import dump_line, encode_value
from flordb.store.project import Project

CODE = """\
import flordb as flor
lr = flor.log("lr", 1)
for epoch in flor.loop("epoch", range(4)):
    for step in flor.loop("step", range(2)):
        pass
    flor.log("acc", 0)
    flor.log("f1", 0)
flor.log("after", 0)
"""


def write_run(project: Project, day: int, lr: float | None, **fields: Any) -> None:
    """A run of four epochs with ``acc`` = day + epoch / 10; it logs neither f1 nor after."""
    header = {"k": "run", "flor": 1, "projid": "p", "filename": "train.py", "host": "elsewhere"}
    header |= {"tstamp": f"2023-06-{day:02}T10:00:00.000000Z", **fields}
    lines: list[dict[str, Any]] = [header]
    if lr is not None:
        lines.append({"k": "log", "c": 0, "n": "lr", **encode_value(lr)})
    for epoch in range(4):
        context = {"k": "ctx", "c": epoch + 1, "p": 0, "l": "epoch", "i": epoch}
        lines.append({**context, **encode_value(epoch)})
        value = encode_value(day + epoch / 10)
        lines.append({"k": "log", "c": epoch + 1, "n": "acc", **value})
    lines.append({"k": "exit", "t": 9.0, "status": 0, "error": None})
    text = "".join(map(dump_line, lines))
    (project.runs / f"run-{day:02}.jsonl").write_text(text)


def write_values(
    project: Project, day: int, name: str, epochs: dict[int, Any], status: str, **fields: str
) -> None:
    """What a replay of a run brought."""
    header = {"k": "replay", "flor": 1, "projid": "p", "filename": "train.py"}
    header |= {"tstamp": f"2023-06-{day:02}T10:00:00.000000Z", "names": [name], "scan": "range"}
    lines: list[dict[str, Any]] = [header]
    for epoch, value in epochs.items():
        lines.append({"k": "ctx", "c": epoch + 1, "p": 0, "l": "epoch", "i": epoch})
        lines.append({"k": "log", "c": epoch + 1, "n": name, **encode_value(value)})
    outcome = {"k": "outcome", "n": name, "status": status, "statement": digest(project, name)}
    lines.append({**outcome, "iterations": list(epochs) or None, **fields})
    text = "".join(map(dump_line, lines))
    (project.runs / f"run-{day:02}.replay-{name}{len(epochs)}.jsonl").write_text(text)


def digest(project: Project, name: str) -> str:
    from flordb.analysis.statements import log_statements

    return next(s.digest for s in log_statements(project.root) if s.name == name)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Five runs, of the first to the fifth of June; lr is 0.1 × day."""
    made = Project(tmp_path / "p", has_git=False)
    made.prepare()
    (made.root / "train.py").write_text(CODE)
    for day in range(1, 6):
        write_run(made, day, day / 10)
    return made


def asked(project: Project, sql: str, parameters: Any = None) -> dict[tuple[int, str], Any]:
    """(day, name) to the iterations that a query asks for."""
    with flordb.connect(project) as connection:
        return wants(connection, sql, parameters)


def wants(connection: Connection, sql: str, parameters: Any = None) -> dict[tuple[int, str], Any]:
    plan = connection.plan(sql, parameters)
    assert not plan.tasks  # these runs have no version, so all is refused: the wants can be seen
    return {
        (refused.want.tstamp.day, name): refused.want.iterations
        for refused in plan.refusals
        for name in refused.names
    }


def days(project: Project, sql: str, parameters: Any = None) -> list[int]:
    return sorted({day for day, _ in asked(project, sql, parameters)})


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT f1 FROM flor", [1, 2, 3, 4, 5]),
        ("SELECT f1 FROM flor WHERE tstamp >= '2023-06-04'", [4, 5]),
        ("SELECT f1 FROM flor WHERE lr > 0.35", [4, 5]),
        ("SELECT f1 FROM flor WHERE f1 > 0.5", [1, 2, 3, 4, 5]),
        ("SELECT f1 FROM flor WHERE f1 > 0.5 AND lr < 0.25", [1, 2]),
        ("SELECT f1 FROM flor WHERE lr > 9 OR f1 > 0", [1, 2, 3, 4, 5]),
        ("SELECT f1 FROM flor WHERE filename = 'other.py'", []),
        ("SELECT f1 FROM flor ORDER BY tstamp DESC LIMIT 2", [4, 5]),
        ("SELECT f1 FROM flor ORDER BY tstamp LIMIT 1 OFFSET 1", [1, 2]),
        ("SELECT f1 FROM flor WHERE tstamp < '2023-06-03' ORDER BY tstamp DESC LIMIT 1", [2]),
        ("SELECT max(f1) FROM flor ORDER BY max(tstamp) DESC LIMIT 1", [1, 2, 3, 4, 5]),
        ("SELECT tstamp FROM flor ORDER BY f1 LIMIT 1", [1, 2, 3, 4, 5]),
        ("WITH a AS (SELECT f1 FROM flor WHERE lr = 0.1) SELECT max(f1) FROM a", [1]),
        ("SELECT acc FROM flor", []),
        ("SELECT * FROM flor", []),
        ("SELECT f1 FROM flor LIMIT 0", []),
        ("SELECT f1 FROM flor WHERE 1 = 0", []),
        ("SELECT f1 FROM flor WHERE false", []),
        ("DESCRIBE SELECT f1 FROM flor", []),
        ("SELECT count(*) FROM flor", []),
    ],
)
def test_runs_that_a_query_asks_for(project: Project, sql: str, expected: list[int]) -> None:
    assert days(project, sql) == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("epoch BETWEEN 2 AND 3", (2, 3)),
        ("epoch = 2", (2,)),
        ("epoch IN (0, 3) AND epoch > 0", (3,)),
        ("epoch_value >= 2", (2, 3)),
        ("acc > 3.05 AND acc < 3.25", (1, 2)),
        ("epoch >= 0", None),
        ("epoch = 2 OR f1 > 0", None),
        ("lr > 0", None),
    ],
)
def test_iterations_that_a_query_asks_for(project: Project, where: str, expected: Any) -> None:
    found = asked(project, f"SELECT f1 FROM flor WHERE tstamp::DATE = '2023-06-03' AND ({where})")
    assert found == {(3, "f1"): expected}


def test_a_value_after_the_loop_is_asked_for_as_a_whole(project: Project) -> None:
    found = asked(project, "SELECT after FROM flor WHERE epoch = 2 AND lr = 0.2")
    assert found == {(2, "after"): None}


def test_parameters_take_part(project: Project) -> None:
    assert days(project, "SELECT f1, ? FROM flor WHERE lr > ? LIMIT ?", ["x", 0.35, 9]) == [4, 5]
    assert days(project, "SELECT f1 FROM flor WHERE lr > $low", {"low": 0.35}) == [4, 5]
    assert days(project, "FROM flor SELECT f1, ? WHERE lr > ?", ["x", 0.35]) == [4, 5]


def test_a_condition_says_nothing_of_a_run_that_lacks_its_value(project: Project) -> None:
    write_run(project, 6, None)  # its lr is a virtual value, too
    assert days(project, "SELECT f1 FROM flor WHERE lr > 0.35") == [4, 5, 6]


def test_iterations_that_were_acquired_are_not_asked_for_again(project: Project) -> None:
    write_values(project, 3, "f1", {1: 0.5, 2: 0.5}, "acquired")
    found = asked(project, "SELECT f1 FROM flor WHERE lr BETWEEN 0.25 AND 0.45")
    assert found == {(3, "f1"): (0, 3), (4, "f1"): None}
    assert asked(project, "SELECT f1 FROM flor WHERE epoch = 2 AND lr = 0.3") == {}


def test_what_was_refused_is_not_asked_for_again_until_the_statement_changes(
    project: Project,
) -> None:
    write_values(project, 3, "f1", {}, "refused")
    assert days(project, "SELECT f1 FROM flor") == [1, 2, 4, 5]
    script = project.root / "train.py"
    script.write_text(script.read_text().replace('"f1", 0', '"f1", 1'))
    assert days(project, "SELECT f1 FROM flor") == [1, 2, 3, 4, 5]


def test_what_failed_is_asked_again_by_another_version_of_flordb(project: Project) -> None:
    write_values(project, 2, "f1", {}, "failed", flordb=flordb.__version__)
    write_values(project, 3, "f1", {}, "refused", flordb="0.0.1")
    assert days(project, "SELECT f1 FROM flor") == [1, 3, 4, 5]


def test_a_limit_goes_on_past_runs_without_rows(project: Project) -> None:
    write_values(project, 5, "f1", {}, "no value")
    write_run(project, 6, 0.6, filename="eval.py")
    assert days(project, "SELECT f1 FROM flor ORDER BY tstamp DESC LIMIT 2") == [3, 4]


def test_a_limit_is_filled_by_what_is_there(project: Project) -> None:
    write_values(project, 5, "f1", {0: 1, 1: 1, 2: 1, 3: 1}, "acquired")
    assert days(project, "SELECT f1 FROM flor ORDER BY tstamp DESC LIMIT 3") == []
    assert days(project, "SELECT f1 FROM flor WHERE f1 > 1 ORDER BY tstamp DESC LIMIT 1") == [4]


def test_an_unfinished_run_is_left_alone(project: Project) -> None:
    path = project.runs / "run-05.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert days(project, "SELECT f1 FROM flor") == [1, 2, 3, 4]


def test_unknown_name(project: Project) -> None:
    with (
        flordb.connect(project) as connection,
        pytest.raises(UnknownName, match='Candidate bindings: "after"'),
    ):
        connection.execute("SELECT aftr FROM flor")


def test_what_failed_is_asked_again_once_the_code_round_its_statement_changes(
    project: Project,
) -> None:
    write_values(project, 3, "f1", {}, "failed")
    assert days(project, "SELECT f1 FROM flor") == [1, 2, 4, 5]
    (project.root / "train.py").write_text(CODE.replace("pass", "other = step"))
    assert days(project, "SELECT f1 FROM flor") == [1, 2, 3, 4, 5]
