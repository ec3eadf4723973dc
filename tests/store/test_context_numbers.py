"""Contexts have small numbers that stay so, and whatever comes later finds its context again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runfiles import Node, context, ended, header, lines_of, log, project, write
from test_taking_in import ask

from flordb.settings import Settings
from flordb.store import catalog
from flordb.store.project import Project

REPLAY = {**header(), "k": "replay", "names": ["f1"], "scan": "validation"}


def epochs(count: int, steps: int = 2) -> list[dict[str, Any]]:
    """An accuracy an epoch, a loss a step."""
    nodes = [
        Node([("acc", e / 8)], [("step", [Node([("loss", e + s / 8)]) for s in range(steps)])])
        for e in range(count)
    ]
    return lines_of(Node([("lr", 0.5)], [("epoch", nodes)]))


def replayed(name: str, values: dict[int, float]) -> list[dict[str, Any]]:
    """Values of a name by epoch, as a replay writes them."""
    lines = []
    for number, (epoch, value) in enumerate(values.items(), start=1):
        lines += [context(number, 0, "epoch", epoch), log(name, value, number)]
    return lines


def by_epoch(place: Project, *names: str) -> list[tuple[Any, ...]]:
    listed = ", ".join(names)
    return ask(place, f"SELECT DISTINCT epoch, {listed} FROM flor_pivot({list(names)})")


def test_numbers_stay_small_while_two_runs_grow(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    for count in range(1, 12):
        for run in (0, 1):
            write(place, f"r{run}", epochs(count + run), header(run))
            catalog.sync(place, Settings())
    (most,) = ask(place, "SELECT max(c1) FROM flor_at_1")[0]
    assert most < 3 * (11 + 12)
    assert ask(place, "SELECT count(*), count(DISTINCT ctx_id) FROM loops") == [(69, 69)]
    assert ask(
        place, "SELECT tstamp::DATE::VARCHAR, count(acc), count(loss) FROM flor GROUP BY 1"
    ) == [
        ("2023-06-01", 22, 22),
        ("2023-06-02", 24, 24),
    ]


def test_a_replay_stays_with_its_contexts_when_the_run_grows(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    write(place, "a", epochs(4))
    write(place, "b", epochs(4), header(1))
    write(place, "x", replayed("f1", {0: 0.25, 3: 0.75}), REPLAY)
    catalog.sync(place, Settings())
    for count in (6, 9):
        write(place, "b", epochs(count), header(1))
        write(place, "a", epochs(count))
        catalog.sync(place, Settings())
    expected = [(0, 0.25, 0.0), (3, 0.75, 0.375)]
    assert [row for row in by_epoch(place, "f1", "acc") if row[1] is not None] == expected
    assert ask(place, "SELECT count(*) FROM flor_pivot(['acc', 'loss', 'f1'])") == [(36,)]
    place.database.unlink()
    assert [row for row in by_epoch(place, "f1", "acc") if row[1] is not None] == expected


@pytest.mark.parametrize("order", ["rxy", "ryx", "xyr", "yxr", "xry", "yrx"])
def test_the_run_stands_before_replays_and_earlier_replays_before_later(
    tmp_path: Path, order: str
) -> None:
    place = project(tmp_path / "p")
    files = {
        "r": (header(), [*epochs(2), ended()]),
        "x": (REPLAY, [*replayed("f1", {0: 0.25}), log("lr", 9.0)]),
        "y": (REPLAY, replayed("f1", {0: 0.5, 1: 0.75, 5: 1.0})),
    }
    for name in order:
        run, lines = files[name]
        write(place, name, lines, run)
        catalog.sync(place, Settings())
    assert by_epoch(place, "f1", "lr") == [(0, 0.25, 0.5), (1, 0.75, 0.5), (5, 1.0, 0.5)]
    assert ask(place, "SELECT count(*) FROM loops") == [(2 + 4 + 1,)]


def test_an_epoch_that_only_a_replay_knows_has_a_row_of_its_own(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    write(place, "r", [*epochs(2), ended()])
    catalog.sync(place, Settings())
    assert ask(place, "SELECT count(*) FROM flor_pivot(['acc', 'loss'])") == [(4,)]
    write(place, "x", replayed("acc", {1: 9.0, 2: 0.5}), REPLAY)
    rows = ask(place, "SELECT epoch, step, acc, loss FROM flor_pivot(['acc', 'loss'])")
    assert rows == [
        (0, 0, 0.0, 0.0),
        (0, 1, 0.0, 0.125),
        (1, 0, 0.125, 1.0),
        (1, 1, 0.125, 1.125),
        (2, None, 0.5, None),
    ]


def test_a_vanished_replay_is_taken_in_again_when_it_is_back(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    write(place, "r", epochs(2))
    path = write(place, "x", replayed("f1", {0: 0.25}), REPLAY)
    catalog.sync(place, Settings())
    kept = path.read_bytes()
    path.unlink()
    write(place, "r", epochs(3))
    catalog.sync(place, Settings())
    assert ask(place, "SELECT count(acc) FROM flor") == [(6,)]
    path.write_bytes(kept)
    assert (0, 0.25) in by_epoch(place, "f1")


def test_loops_entered_twice_and_values_beyond_a_double(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    loop = ("fold", [Node([("f1", 1)], value=2**60 + 1), Node([("f1", 2)], value="two")])
    write(place, "r", [*lines_of(Node([], [loop, loop])), ended()])
    assert ask(place, "SELECT loop_iteration, entry, loop_value, loop_entries FROM loops") == [
        (0, 0, "1152921504606846977", 2),
        (0, 1, "1152921504606846977", 2),
        (1, 0, "two", 2),
        (1, 1, "two", 2),
    ]
    assert ask(place, "SELECT fold, fold_value, sum(f1)::INT FROM flor GROUP BY ALL") == [
        (0, "1152921504606846977", 2),
        (1, "two", 4),
    ]


def test_ranges_of_iterations_are_read_as_they_were_written(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    lines = [
        {"k": "ctxs", "c": 1, "p": 0, "l": "year", "i": 0, "m": 3, "r": [2000, 10]},
        {"k": "logs", "n": "a", "c": 1, "v": [1, 2, 3]},
        {"k": "ctxs", "c": 4, "p": 0, "l": "far", "i": [5, 7], "r": [2**62, 2**55]},
        {"k": "logs", "n": "b", "c": [5, 4], "v": [True, False]},
    ]
    write(place, "r", lines, header(flor=2))
    assert ask(place, "SELECT year, year_value, a FROM flor_pivot(['a'])") == [
        (0, 2000, 1),
        (1, 2010, 2),
        (2, 2020, 3),
    ]
    far = [(i, 2**62 + i * 2**55, i == 7) for i in (5, 7)]
    assert ask(place, "SELECT far, far_value, b FROM flor_pivot(['b'])") == far
