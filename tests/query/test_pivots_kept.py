"""Texts of pivots are kept for later processes, and only as long as they are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import flordb
from flordb.query import pivots
from flordb.store.project import Project
from tests.store.runfiles import ended, header, log, project, write


@pytest.fixture
def place(tmp_path: Path) -> Project:
    found = project(tmp_path / "p")
    write(found, "r0", [log("lr", 1), log("f", 2.5), ended()], header(0))
    return found


def ask(place: Project, sql: str) -> list[Any]:
    """As a new process would."""
    pivots._texts.cache_clear()
    with flordb.connect(place) as connection:
        return sorted(connection.execute(sql).fetchall())


def kept(place: Project) -> dict[str, str]:
    found: dict[str, str] = json.loads((place.store / "pivots.json").read_text())["texts"]
    return found


def test_a_kept_text_is_used_by_the_next_process(place: Project) -> None:
    assert ask(place, "SELECT projid, lr FROM flor") == [("p", 1)]
    assert list(kept(place)) == ['[false, "lr"]']
    path = place.store / "pivots.json"
    path.write_text(path.read_text().replace("SELECT a.projid", "SELECT 'kept' AS projid", 1))
    assert ask(place, "SELECT projid, lr FROM flor") == [("kept", 1)]


def test_other_names_and_types_make_the_texts_anew(place: Project) -> None:
    ask(place, "SELECT lr FROM flor")
    ask(place, "SELECT lr, f FROM flor")
    assert list(kept(place)) == ['[true, "lr"]', '[true, "lr", "f"]']
    write(place, "r1", [log("lr", "high"), ended()], header(1))
    assert ask(place, "SELECT lr FROM flor") == [("1",), ("high",)]
    assert list(kept(place)) == ['[true, "lr"]']


def test_a_file_that_is_none_or_cannot_be_written_does_no_harm(place: Project) -> None:
    path = place.store / "pivots.json"
    for text in ("", "[]", '{"schema": 1}', '{"texts": {}}'):
        path.write_text(text)
        assert ask(place, "SELECT lr FROM flor") == [(1,)]
        assert list(kept(place)) == ['[true, "lr"]']
    path.unlink()
    place.temporary.rmdir()
    assert ask(place, "SELECT lr FROM flor") == [(1,)]
