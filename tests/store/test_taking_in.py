"""Run files become rows: exactly once, in any order, in pieces, cut off, edited by hand."""

from __future__ import annotations

import gzip
import itertools
import math
import os
from pathlib import Path
from typing import Any

import duckdb
import pytest
from runfiles import Node, context, ended, header, lines_of, log, project, text_of, this_host, write

from flordb.settings import Settings
from flordb.store import catalog
from flordb.store.project import Project
from tests.conftest import Sandbox

TREE = Node(
    [("lr", 0.1)],
    [
        (
            "epoch",
            [
                Node([("acc", e / 10)], [("step", [Node([("loss", s + e)]) for s in range(3)])])
                for e in range(2)
            ],
        )
    ],
)
REPLAY = {**header(), "k": "replay", "names": ["f1"], "scan": "validation"}


def ask(place: Project, query: str) -> list[tuple[Any, ...]]:
    """A query's rows, sorted, from the database as it is after a sync."""
    return ask_all(place, query)[0]


def ask_all(place: Project, *queries: str) -> list[list[tuple[Any, ...]]]:
    db = duckdb.connect()
    try:
        report = catalog.attach(db, place, Settings(lock_wait_seconds=20))
        assert report.locked is None
        return [sorted(db.execute(query).fetchall(), key=repr) for query in queries]
    finally:
        catalog.detach(db)
        db.close()


def contents(place: Project) -> list[Any]:
    """All that users can see, without the numbers that depend on the order of taking in."""
    return ask_all(
        place,
        # Which context a ctx_id means is what its loop's row says.
        "SELECT logs.* EXCLUDE (run_id, name_id, nest_id, file_id, ctx_id, path), "
        "loops.tstamp, loops.loop_name, loops.iterations FROM logs LEFT JOIN loops USING (ctx_id)",
        "SELECT l.* EXCLUDE (run_id, nest_id, ctx_id, parent_ctx_id, path), outer_.loop_name, "
        "outer_.iterations FROM loops l LEFT JOIN loops outer_ ON outer_.ctx_id = l.parent_ctx_id",
        "SELECT * EXCLUDE (run_id, last_seen) FROM runs",
        "SELECT name, type, nests, column_name FROM names",
        "SELECT * EXCLUDE (run_id, file_id) FROM acquisitions",
        "FROM flor_pivot(['lr', 'acc', 'loss', 'f1'])",
    )


def replay_lines(values: list[float], first: int = 0) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for number, value in enumerate(values, start=1):
        lines += [context(number, 0, "epoch", first + number - 1), log("f1", value, number)]
    return [*lines, {"k": "outcome", "n": "f1", "status": "acquired", "iterations": None}]


def test_order_of_arrival_does_not_matter(tmp_path: Path) -> None:
    files = {
        "a": (header(), [*lines_of(TREE), ended()]),
        "b": (header(1), [log("lr", "often"), log("f1", 1), ended(1, "ValueError: no")]),
        "x": (REPLAY, replay_lines([0.5, 0.6])),
        "y": (REPLAY, [*replay_lines([0.7, 0.8], first=1), log("lr", 7.0)]),
    }
    seen = []
    for number, order in enumerate(itertools.permutations(files)):
        if number % 4:
            continue
        place = project(tmp_path / str(number) / "p")
        for name in order:
            run, lines = files[name]
            write(place, name, lines, run)
            catalog.sync(place, Settings())
        seen.append(contents(place))
        place.database.unlink()
        assert contents(place) == seen[0]
    assert all(each == seen[0] for each in seen)
    assert (0.6, "replay") in ask(place, "SELECT number, source FROM logs WHERE value_name = 'f1'")
    assert ask(place, "SELECT value, source FROM logs WHERE value_name = 'lr'") == [
        ("0.1", "record"),
        ("often", "record"),
    ]


def test_a_new_name_in_earlier_replays_of_several_runs(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    for number, run in enumerate("ab"):
        write(place, run, [*lines_of(TREE), ended()], header(number))
    replay = {number: {**REPLAY, **header(number), "k": "replay"} for number in range(2)}
    for name, number in (("f1", 2), ("f2", 1)):
        # The replays that come first in order arrive last: both runs are taken in anew.
        for index, run in enumerate("ab"):
            lines = [context(1, 0, "epoch", 1), log(name, 0.9, 1)]
            write(place, f"{run}.replay-{number}", lines, replay[index])
        assert ask(place, f"SELECT DISTINCT {name} FROM flor WHERE epoch = 1") == [(0.9,)]


def test_a_growing_file_is_taken_in_piece_by_piece(tmp_path: Path) -> None:
    lines = [*lines_of(TREE), ended()]
    whole, growing = project(tmp_path / "a" / "p"), project(tmp_path / "b" / "p")
    write(whole, "r", lines)
    text = text_of([header(), *lines])
    path = growing.runs / "r.jsonl"
    for end in range(150, len(text) + 97, 97):
        path.write_text(text[:end])
        report = catalog.sync(growing, Settings())
        assert not report.problems
    assert contents(growing) == contents(whole)


def test_a_file_cut_off_anywhere_keeps_its_whole_lines(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    text = text_of([header(), log("a", 1), context(1, 0, "é", 0), log("a", 2.5, 1), log("ü", "é")])
    data = text.encode()
    first = data.index(b"\n") + 1
    for number, end in enumerate(range(len(data) + 1)):
        (place.runs / f"r{number}.jsonl").write_bytes(
            data[:end].replace(b"2023-06-01T10:00:00", b"2023-06-01T10:%02d:%02d" % divmod(end, 60))
        )
    report = catalog.sync(place, Settings())
    assert len(report.problems) == first  # those without a whole first line
    expected = sum(
        data[:end].count(b'"k":"log"')
        for end in (data[:e].rfind(b"\n") + 1 for e in range(len(data) + 1))
    )
    assert ask(place, "SELECT count(*) FROM logs") == [(expected,)]
    assert ask(place, "SELECT count(*) FROM runs") == [(len(data) + 1 - first,)]


def test_nonsense_is_a_problem_and_nothing_else_is_lost(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    write(place, "good", [log("a", 1)])
    (place.runs / "bad.jsonl").write_text("hello\n")
    path = write(place, "half", [log("a", 2)], header(1))
    with path.open("a") as file:
        file.write('nonsense\n{"k":"log","v":1}\n' + text_of([log("a", 3)]))
        file.write('{"k":"ctx","c":1,"p":0,"l":"x","i":99999999999999999999}\n')
        file.write('{"k":"snap","c":"x","s":"y"}\n{"k":"exit","status":"no","t":null}\n')
        file.write('{"k":"log","n":"\\ud800","v":"\\ud800"}\n{"k":"log","n":"nul\\u0000","v":1}\n')
    report = catalog.sync(place, Settings())
    assert len(report.problems) >= 3
    assert {row[0] for row in ask(place, "SELECT file FROM problems")} == {
        "bad.jsonl",
        "half.jsonl",
    }
    assert ask(place, "SELECT a FROM flor_pivot(['a'])") == [(1,), (2,), (3,)]
    assert catalog.sync(place, Settings()).files == 0


def test_a_deleted_or_damaged_database_is_built_again(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    write(place, "r", [*lines_of(TREE), ended()])
    before = contents(place)
    place.database.unlink()
    assert contents(place) == before
    place.database.write_bytes(b"nonsense" * 1000)
    report = catalog.sync(place, Settings())
    assert report.rebuilt
    assert contents(place) == before
    size = place.database.stat().st_size
    for kept in (1, 5000, size // 2, size - 1):
        os.truncate(place.database, kept)
        assert contents(place) == before
        assert catalog.sync(place, Settings()).locked is None
    db = duckdb.connect(str(place.database))
    db.execute("UPDATE meta SET value = '0' WHERE key = 'schema'")
    db.close()
    assert "schema 0" in (catalog.sync(place, Settings()).rebuilt or "")
    assert contents(place) == before


def test_blocks_that_duckdb_cuts_off_are_no_damage(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    write(place, "r", [*lines_of(TREE), ended()])
    catalog.sync(place, Settings())
    for number in range(7):
        write(place, f"r.replay-{number}", replay_lines([number]), REPLAY)
        report = catalog.sync(place, Settings())
        assert (report.files, report.rebuilt) == (1, None)


def test_a_run_file_changed_by_hand_is_read_anew(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    write(place, "r", [log("a", 1), log("b", 1)])
    catalog.sync(place, Settings())
    write(place, "r", [log("a", 22)])
    assert catalog.sync(place, Settings()).rebuilt
    assert ask(place, "SELECT value_name, value FROM logs") == [("a", "22")]


def test_compression_changes_nothing(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    path = write(place, "r", [*lines_of(TREE), ended()])
    before = contents(place)
    (place.runs / "r.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert contents(place) == before
    place.database.unlink()
    assert contents(place)[0] == before[0]


@pytest.mark.parametrize(
    ("values", "type_", "read"),
    [
        ([True, False], "BOOLEAN", [True, False]),
        ([True, 2], "BIGINT", [1, 2]),
        ([1, 2**53 + 1], "BIGINT", [1, 2**53 + 1]),
        ([True, 2**70], "HUGEINT", [1, 2**70]),
        ([2**70, 0.5], "DOUBLE", [float(2**70), 0.5]),
        ([1, math.inf], "DOUBLE", [1.0, math.inf]),
        ([1, "x"], "VARCHAR", ["1", "x"]),
        ([[1], {"a": math.nan}, 2], "JSON", ["[1]", '{"a": NaN}', "2"]),
        ([None], "DOUBLE", [None]),
        ([None, 3], "BIGINT", [None, 3]),
        ([[1], "x"], "VARCHAR", ["[1]", "x"]),
    ],
)
def test_a_name_has_one_type(tmp_path: Path, values: list[Any], type_: str, read: Any) -> None:
    place = project(tmp_path / "p")
    for number, value in enumerate(values):
        write(place, f"r{number}", [log("a", value)], header(number))
    assert ask(place, "SELECT type FROM names") == [(type_,)]
    assert ask(place, "SELECT a FROM flor") == sorted([(value,) for value in read], key=repr)


def test_nan_is_kept(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    write(place, "r", [log("a", math.nan)])
    assert ask(place, "SELECT isnan(a) FROM flor") == [(True,)]


HOSTILE = [
    "train/loss", "a b", 'say "hi"', "it's", "select", "projid", "TSTAMP", "epoch", "epoch_value",
    "Größe", "损失", "run_id", "c1", "l1", "n1", "o", "", "{}", "\\", "$.a", "-- x", "rank", "\n",
]  # fmt: skip


def test_any_name_can_be_asked_for(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    write(
        place,
        "r",
        [context(1, 0, "epoch", 0), *(log(name, n, 1) for n, name in enumerate(HOSTILE))],
    )
    labels = dict(ask(place, "SELECT name, column_name FROM names"))
    renamed = {name for name in HOSTILE if labels[name] != name}
    assert renamed == {"", "projid", "TSTAMP", "epoch", "epoch_value", "rank"}
    queries = []
    for number, name in enumerate(HOSTILE):
        label = labels[name].replace("'", "''")
        quoted = '"' + labels[name].replace('"', '""') + '"'
        queries.append(f"SELECT {quoted}, {number} FROM flor_pivot(['{label}'])")
    assert all(row[0][0] == row[0][1] for row in ask_all(place, *queries, "SELECT 1, 1 FROM flor"))


def test_names_that_differ_by_case(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    write(place, "r", [log("Loss", 1), log("loss", 2), log("LOSS", 3), log("Acc", 4)])
    assert ask(place, "SELECT name, column_name FROM names") == [
        ("Acc", "Acc"),
        ("LOSS", "LOSS_2"),
        ("Loss", "Loss_3"),
        ("loss", "loss"),
    ]
    assert ask(place, "SELECT loss, loss_2, loss_3, acc FROM flor") == [(2, 3, 1, 4)]
    assert ask(place, "SELECT acc FROM flor_pivot(['ACC'])") == [(4,)]


def test_ranks_of_a_job_are_one_run(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    for rank in (0, 1):
        lines = [log("lr", 0.1), context(1, 0, "epoch", 0), log("loss", rank + 0.5, 1)]
        write(place, f"r{rank}", lines, header(rank=rank, world_size=2))
    assert ask(place, "SELECT rank, lr, epoch, loss FROM flor_pivot(['lr', 'loss'])") == [
        (0, 0.1, 0, 0.5),
        (1, 0.1, 0, 1.5),
    ]
    assert ask(place, "SELECT count(*) FROM flor_pivot([])") == [(1,)]


def test_the_value_of_an_iteration_is_a_column(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    loop = ("fold", [Node([("f1", 1)], value="train"), Node([("f1", 2)], value="test")])
    write(place, "r", lines_of(Node([], [loop])))
    assert ask(place, "SELECT fold, fold_value, f1 FROM flor_pivot(['f1'])") == [
        (0, "train", 1),
        (1, "test", 2),
    ]


def test_states(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    here = {"host": this_host()}
    write(place, "0", [ended()], header(0))
    write(place, "1", [ended(1)], header(1))
    write(place, "2", [ended(0, "KeyError")], header(2))
    write(place, "3", [], header(3, pid=os.getpid(), **here))
    write(place, "4", [], header(4, pid=2**22 + 5, **here))
    write(place, "5", [], header(5, pid=os.getpid(), pid_start="5", **here))
    os.utime(write(place, "6", [], header(6)), (0, 0))
    write(place, "7", [], header(7))
    assert ask(place, "SELECT file, state FROM runs") == [
        ("0.jsonl", "finished"),
        ("1.jsonl", "failed"),
        ("2.jsonl", "failed"),
        ("3.jsonl", "running"),
        ("4.jsonl", "killed"),
        ("5.jsonl", "killed"),
        ("6.jsonl", "lost"),
        ("7.jsonl", "running"),
    ]


def test_a_run_file_made_unusable_comes_back_from_git(sandbox: Sandbox) -> None:
    sandbox.write("train.py", "import flordb as flor\nflor.log('x', 1)\n")
    sandbox.run("train.py")
    (path,) = sandbox.run_files()
    for text in ("", '{"k": "ru', "nonsense\n"):
        path.write_text(text)
        (problem,) = catalog.sync(sandbox.project, Settings()).problems
        assert str(path) in problem
        assert "Remove it" in problem
        path.unlink()
        assert ask(sandbox.project, "SELECT value_name, value FROM logs") == [("x", "1")]
