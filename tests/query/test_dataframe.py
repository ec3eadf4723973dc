"""``flor.dataframe`` and ``flor.utils.latest`` as the dissertation's figures show them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import flor
import flordb
from flordb.query.dataframe import sql
from flordb.query.errors import UnknownName
from flordb.store.project import Project
from tests.store.runfiles import Node, ended, header, lines_of, log, project, write
from tests.support import trained

RUN = ["projid", "tstamp", "filename"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = project(tmp_path / "p")
    monkeypatch.chdir(made.root)
    return made


def test_values_outside_loops_are_one_row_a_run(place: Project) -> None:  # figure 5.4
    for day in range(3):
        lines = [log("hidden", 500), log("lr", 0.001), log("f1_score", 0.7 + day / 100), ended()]
        write(place, f"r{day}", lines, header(day))
    frame = flor.dataframe("hidden", "lr", "f1_score")
    assert list(frame.columns) == [*RUN, "hidden", "lr", "f1_score"]
    assert list(frame.index) == [0, 1, 2]
    assert frame["f1_score"].tolist() == [0.7, 0.71, 0.72]
    assert frame["tstamp"].is_monotonic_increasing
    assert frame["tstamp"].dtype.kind == "M"
    assert frame["hidden"].dtype.kind == "i"


def test_the_function_sql_is_not_replaced_by_the_folder_of_that_name(place: Project) -> None:
    write(place, "r0", [log("a", 1), ended()])
    code = "import flor; q = 'SELECT a FROM flor'; print(flor.sql(q)['a'][0], flor.sql(q)['a'][0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"


def test_names_come_in_the_order_asked_for(place: Project) -> None:
    write(place, "r0", [log("a", 1), log("b", 2), log("c", 3), ended()])
    assert list(flor.dataframe("c", "a", "b").columns) == [*RUN, "c", "a", "b"]
    assert list(flor.dataframe("b", "b").columns) == [*RUN, "b"]


def test_nested_loops_come_first_from_the_outermost_on(place: Project) -> None:  # figure 6.5
    pages = [Node([("headings", [f"h{n}"]), ("text_src", "ocr")], value=f"p{n}") for n in range(2)]
    documents = [Node([], [("page", pages)], value=name) for name in ("one.pdf", "two.pdf")]
    write(place, "r0", [*lines_of(Node([], [("document", documents)])), ended()])
    frame = flor.dataframe("headings", "text_src")
    loops = ["document", "document_value", "page", "page_value"]
    assert list(frame.columns) == [*loops, *RUN, "headings", "text_src"]
    assert frame[loops].values.tolist() == [
        [0, "one.pdf", 0, "p0"],
        [0, "one.pdf", 1, "p1"],
        [1, "two.pdf", 0, "p0"],
        [1, "two.pdf", 1, "p1"],
    ]
    assert frame.document_value.unique().tolist() == ["one.pdf", "two.pdf"]


def test_latest_is_the_newest_run_with_its_index(place: Project) -> None:  # figure 6.6
    for day in range(2):
        epochs = [
            Node([("val_acc", day + epoch / 10), ("val_recall", 0.0)], value=epoch)
            for epoch in range(3)
        ]
        write(place, f"r{day}", [*lines_of(Node([], [("epochs", epochs)])), ended()], header(day))
    frame = flor.dataframe("val_acc", "val_recall")
    assert list(frame.columns) == ["epochs", "epochs_value", *RUN, "val_acc", "val_recall"]
    newest = flor.utils.latest(frame)
    assert newest["val_acc"].tolist() == [1.0, 1.1, 1.2]
    assert list(newest.index) == [3, 4, 5]
    best = newest[newest.val_recall == newest.val_recall.max()].iloc[0]
    assert best.filename == "train.py"
    assert flor.utils.latest(frame[:0]).empty


def test_three_loops_deep(place: Project) -> None:  # figure 6.10
    documents = [Node([("agency", f"BPD {n}")], value=f"{n}.pdf") for n in range(2)]
    keywords = [Node([], [("document", documents)], value="Police Department")]
    states = [Node([], [("agency_kw", keywords)], value="Maryland")]
    write(place, "r0", [*lines_of(Node([], [("state", states)])), ended()])
    frame = flor.dataframe("agency")
    loops = [
        f"{loop}{end}" for loop in ("state", "agency_kw", "document") for end in ("", "_value")
    ]
    assert list(frame.columns) == [*loops, *RUN, "agency"]
    assert frame["agency"].tolist() == ["BPD 0", "BPD 1"]
    assert set(frame["state_value"]) == {"Maryland"}


def test_a_run_that_lacks_a_value_has_nan(place: Project) -> None:
    write(place, "r0", [log("a", 1), log("b", 0.5), ended()], header(0))
    write(place, "r1", [log("a", 2), ended()], header(1))
    first, second = flor.dataframe("a", "b")["b"]
    assert first == 0.5
    assert math.isnan(second)


def test_conditions_and_unknown_names(place: Project) -> None:
    for day in range(3):
        write(place, f"r{day}", [log("a", day), log("b", -day), ended()], header(day))
    assert list(flor.dataframe("a", where="b = -1").columns) == [*RUN, "a"]
    assert flor.dataframe("a", where="b < 0")["a"].tolist() == [1, 2]
    assert flor.dataframe("a", where="tstamp >= '2023-06-02'")["a"].tolist() == [1, 2]
    with pytest.raises(UnknownName, match="aa"):
        flor.dataframe("aa")
    assert list(flor.dataframe().columns) == RUN
    assert len(flor.dataframe()) == 3


def test_of_a_project_elsewhere(place: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = project(tmp_path_factory.mktemp("other") / "p")
    write(other, "r0", [log("a", 1), ended()])
    assert flor.dataframe("a", project=other.root)["a"].tolist() == [1]


def test_sql_gives_a_frame(place: Project) -> None:
    write(place, "r0", [log("a", 1), ended()])
    frame = sql("SELECT a FROM flor")
    assert isinstance(frame, pd.DataFrame)
    assert frame["a"].tolist() == [1]


@pytest.mark.slow
def test_a_lacking_column_is_empty_until_it_is_to_be_acquired(
    tmp_path: Path,
) -> None:
    root = trained(tmp_path, (1.0,)).root
    frame = flordb.dataframe("lr", "double", project=root)
    assert frame["double"].isna().all()
    frame = flordb.dataframe("lr", "double", project=root, acquire="auto")
    assert frame[["lr", "double"]].values.tolist() == [[1.0, 18.0]]
    assert flordb.dataframe("double", project=root)["double"].tolist() == [18.0]
