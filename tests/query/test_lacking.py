"""What a SELECT of a column that runs lack replays, and what it leaves alone: real replays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import flordb
from flordb.errors import FlorWarning
from flordb.query.errors import BudgetExceeded
from tests.conftest import Sandbox
from tests.support import TRAIN, copied, trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Three runs (lr 0.5, 1, 2), whose script now logs half, third, square and double as well."""
    return trained(tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def place(recorded: Sandbox, tmp_path: Path) -> Sandbox:
    return copied(recorded, tmp_path)


def replays(place: Sandbox) -> list[dict[str, Any]]:
    """The first lines of the replay files, oldest first."""
    files = sorted(place.project.runs.glob("*.replay-*.jsonl"), key=lambda p: p.stat().st_mtime_ns)
    return [json.loads(path.read_text().partition("\n")[0]) for path in files]


def ask(place: Sandbox, sql: str, parameters: Any = None, **options: Any) -> list[Any]:
    with flordb.connect(place.root, **options) as connection:
        return connection.execute(sql, parameters).fetchall()


def test_two_lacking_columns_share_one_replay_and_are_then_stored(place: Sandbox) -> None:
    query = "SELECT epoch, half, third FROM flor WHERE lr = 1 ORDER BY epoch"
    expected = [(epoch, w / 2, w / 3) for epoch, w in enumerate((3.0, 5.0, 7.0, 9.0))]
    assert ask(place, query) == expected
    names = [set(replay["names"]) for replay in replays(place)]
    assert all(found == {"half", "third"} for found in names)
    before = len(names)
    assert ask(place, query) == expected
    assert len(replays(place)) == before


def test_the_newest_runs_suffice_for_a_limit(place: Sandbox) -> None:
    query = "SELECT tstamp, double FROM flor ORDER BY tstamp DESC LIMIT 2"
    assert [value for _, value in ask(place, query)] == [34.0, 18.0]
    stamps = {replay["tstamp"] for replay in replays(place)}
    assert len(stamps) == 2
    assert min(stamps) > place.lines(0)[0]["tstamp"]


def test_a_join_with_a_frame_of_the_callers(place: Sandbox) -> None:
    notes = pd.DataFrame({"lr": [0.5], "note": ["slow"]})
    with flordb.connect(place.root) as connection:
        query = "SELECT note, double FROM flor JOIN notes USING (lr)"
        assert connection.execute(query).fetchall() == [("slow", 10.0)]
    assert len(notes) == 1


def test_aggregates_subqueries_and_common_table_expressions(place: Sandbox) -> None:
    query = "WITH ends AS (SELECT lr, double FROM flor WHERE lr < 2) SELECT max(double) FROM ends"
    assert ask(place, query) == [(18.0,)]
    assert len({replay["tstamp"] for replay in replays(place)}) == 2
    query = "SELECT lr FROM flor WHERE double > (SELECT avg(double) FROM flor)"
    assert ask(place, query) == [(2.0,)]
    assert len({replay["tstamp"] for replay in replays(place)}) == 3


def test_iterations_are_completed_not_repeated(place: Sandbox) -> None:
    with flordb.connect(place.root, workers=1) as connection:
        query = "SELECT epoch, step, square FROM flor WHERE lr = 2 AND epoch "
        some = connection.execute(query + "BETWEEN 2 AND 3 ORDER BY ALL").fetchall()
        assert some == [(2, 0, 121.0), (2, 1, 169.0), (3, 0, 225.0), (3, 1, 289.0)]
        plan = connection.plan(query + ">= 0")
        assert sorted(i for task in plan.tasks for i in task.iterations or ()) == [0, 1]
        rest = connection.execute(query + "< 2 ORDER BY ALL").fetchall()
        assert rest == [(0, 0, 9.0), (0, 1, 25.0), (1, 0, 49.0), (1, 1, 81.0)]
        assert not connection.plan(query + ">= 0").tasks


@pytest.mark.parametrize(
    "probe",
    [
        "SELECT * FROM flor",
        "SELECT half FROM flor LIMIT 0",
        "SELECT * FROM (SELECT half FROM flor) t LIMIT 0",
        "SELECT half FROM flor WHERE false",
        "SELECT half FROM flor WHERE 1 = 0",
        "SELECT * FROM (SELECT half FROM flor) t WHERE 1=0",
        "DESCRIBE SELECT half FROM flor",
        "DESCRIBE flor",
        "SUMMARIZE flor",
        "EXPLAIN SELECT half FROM flor",
        "EXPLAIN (FORMAT json) SELECT half FROM flor",
        "/* why */ EXPLAIN -- flor\n SELECT half FROM flor",
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'flor'",
    ],
)
def test_probes_acquire_nothing(recorded: Sandbox, probe: str) -> None:
    ask(recorded, probe)
    assert replays(recorded) == []


def test_a_prepared_statement_acquires_when_it_is_executed(place: Sandbox) -> None:
    with flordb.connect(place.root) as connection:
        connection.execute("PREPARE later AS SELECT lr, half FROM flor WHERE lr > ?")
        assert replays(place) == []
        connection.execute("EXECUTE later(1.5)")
        assert sorted(half for _, half in connection.fetchall()) == [2.5, 4.5, 6.5, 8.5]
    assert len(replays(place)) == 1


def test_a_lacking_column_is_listed_before_it_has_values(recorded: Sandbox) -> None:
    with flordb.connect(recorded.root) as connection:
        names = [column[0] for column in connection.execute("SELECT * FROM flor").description]
        described = dict(row[:2] for row in connection.execute("DESCRIBE flor").fetchall())
    assert {"half", "third", "square", "double", "acc", "lr", "epoch"} <= set(names)
    assert described["half"] == "DOUBLE"
    assert list(described) == names


def test_never_is_never(recorded: Sandbox) -> None:
    rows = ask(recorded, "SELECT lr, half FROM flor ORDER BY lr", acquire="never")
    assert {half for _, half in rows} == {None}
    assert replays(recorded) == []


def test_over_budget_shows_the_plan_and_the_ways_on(recorded: Sandbox) -> None:
    with flordb.connect(recorded.root, budget=0.001) as connection:
        with pytest.raises(BudgetExceeded) as caught:
            connection.execute("SELECT half FROM flor")
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (3,)
    said = str(caught.value)
    assert len({task.want.run_id for task in caught.value.plan.tasks}) == 3
    for part in ("train.py", "half", "validation", "raise the budget", "narrow", "'never'"):
        assert part in said
    assert replays(recorded) == []


def test_explain_shows_both_plans(recorded: Sandbox) -> None:
    ours, theirs = ask(recorded, "EXPLAIN SELECT half FROM flor WHERE lr = 1")
    assert ours[0] == "acquisition_plan"
    assert "1 run" in ours[1]
    assert theirs[0] != "acquisition_plan"


def test_what_failed_is_not_tried_again_and_a_limit_goes_on_without_it(place: Sandbox) -> None:
    script = place.root / "train.py"
    script.write_text(TRAIN + 'flor.log("odd", 1 / (weight - 17))\n')  # fails where lr is 2
    query = "SELECT lr, odd FROM flor WHERE odd IS NOT NULL ORDER BY tstamp DESC LIMIT 1"
    with pytest.warns(FlorWarning, match="division by zero"):
        assert ask(place, query) == [(1.0, 1 / -8)]
    before = len(replays(place))
    with pytest.warns(FlorWarning, match=r"not tried again .* division by zero"):
        assert ask(place, query) == [(1.0, 1 / -8)]
    assert len(replays(place)) == before
    reasons = ask(place, "SELECT reason FROM acquisitions WHERE status = 'failed'")
    assert len(reasons) == 1
    assert "ZeroDivisionError" in reasons[0][0]
    script.write_text(TRAIN + 'flor.log("odd", 1 / (weight - 16))\n')
    query = "SELECT lr, odd FROM flor WHERE lr = 2"
    assert ask(place, query) == [(2.0, 1.0)]


def test_a_statement_that_cannot_be_placed_is_a_reason_and_not_tried_again(place: Sandbox) -> None:
    (place.root / "train.py").write_text(TRAIN + 'flor.log("lost", unheard_of + 1)\n')
    with pytest.warns(FlorWarning, match="unheard_of"):
        assert ask(place, "SELECT lost FROM flor WHERE lr = 1") in ([(None,)], [])
    with pytest.warns(FlorWarning, match=r"not tried again .*unheard_of"):
        ask(place, "SELECT lost FROM flor WHERE lr = 1")
    assert ask(place, "SELECT value_name, status FROM acquisitions") == [("lost", "refused")]


def test_names_in_unusual_spelling(place: Sandbox) -> None:
    names = ["UPPER", "two words", "train/loss", "select", "größe", "it's", 'say "so"', "a.b:c"]
    lines = [f"flor.log({name!r}, weight + {n})\n" for n, name in enumerate(names)]
    (place.root / "train.py").write_text(TRAIN + "".join(lines))
    quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    (row,) = ask(place, f"SELECT {quoted} FROM flor WHERE lr = 1")
    assert row == tuple(9.0 + n for n in range(len(names)))
    assert ask(place, 'SELECT f."train/loss", upper FROM flor f WHERE lr = 1') == [(11.0, 9.0)]


def test_a_name_like_a_dimension_gets_another(place: Sandbox) -> None:
    with_clash = TRAIN + 'flor.log("filename", "clash")\n'
    place.write("train.py", with_clash)
    place.run("train.py", "--kwargs", "lr=4.0")
    rows = ask(place, "SELECT filename, filename_2 FROM flor WHERE lr = 4")
    assert rows == [("train.py", "clash")]
