"""While a further replay of a run is taken in, its earlier values are there all the time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from flordb.serve.database import READ_ONLY, Database
from flordb.settings import Settings
from tests.query.histories import Replays, history
from tests.store.runfiles import Node, header, write

VALUES = 2_000
"""So many that it takes some time."""


def test_values_do_not_go_away_while_a_run_is_merged(tmp_path: Path) -> None:
    runs = [Node([("a", 1)], [("x", [Node([("b", x)]) for x in range(VALUES)])])]
    place = history(tmp_path, runs)
    replays = Replays(runs)

    def bring(name: str, number: int) -> None:
        lines = list(replays.lines(0, name, None))
        lines.append({"k": "outcome", "n": name, "status": "acquired", "iterations": None})
        write(place, f"r0.replay-{number}", lines, {**header(0), "k": "replay", "names": [name]})

    bring("late", 9)
    database = Database(place, Settings())
    found: set[Any] = set()
    stop = threading.Event()

    def read() -> Any:
        with database.cursor() as cursor:
            cursor.execute(READ_ONLY)
            return cursor.execute("SELECT count(late) FROM flor").fetchall()

    def look() -> None:
        while not stop.is_set():
            found.update(read())

    looker = threading.Thread(target=look)
    looker.start()
    for number in range(8, 4, -1):  # each comes before those that are there
        bring("final", number)
        database.refresh(0)
    stop.set()
    looker.join()
    database.close()
    assert found == {(VALUES,)}
