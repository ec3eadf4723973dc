"""Equation 4.4: how often snapshots are taken, and what it learns from."""

from __future__ import annotations

from pathlib import Path

import pytest

from flordb.record.adaptive import Adaptive, observed_ratio
from tests.conftest import Sandbox


def _run(adaptive: Adaptive, compute: float, held: float, behind: float, count: int) -> list[int]:
    """The iterations that get snapshots, if one computes so long and snapshots take so long."""
    taken = []
    for index in range(count):
        if adaptive.pays((index + 1) * compute):
            adaptive.begins()
            adaptive.held_up(held)
            adaptive.took_behind(behind)
            taken.append(index)
    return taken


def test_cheap_snapshots_are_taken_every_time() -> None:
    assert _run(Adaptive(0.0667, 1.38), 1.0, 0.01, 0.0, 50) == list(range(50))


@pytest.mark.parametrize(("held", "behind"), [(0.5, 0.0), (0.0, 0.5), (0.2, 0.3)])
def test_time_taken_stays_below_epsilon_whoever_takes_it(held, behind) -> None:
    adaptive = Adaptive(0.05, 1.38)
    taken = _run(adaptive, 1.0, held, behind, 400)
    assert len(taken) > 10
    assert adaptive.spent <= 0.05 * 400 + 0.5


def test_restores_that_take_long_make_snapshots_rarer() -> None:
    often = _run(Adaptive(0.5, 1.0), 1.0, 0.4, 0.0, 200)
    seldom = _run(Adaptive(0.5, 20.0), 1.0, 0.4, 0.0, 200)
    assert len(often) > 2 * len(seldom)


def test_no_replay_leaves_the_ratio_as_it_was_set(tmp_path: Path) -> None:
    adaptive = Adaptive(0.05, 1.38)
    adaptive.observe(observed_ratio(tmp_path))
    assert adaptive.restore_ratio == 1.38


@pytest.mark.slow
def test_replays_of_a_project_tell_what_restoring_takes(sandbox: Sandbox) -> None:
    import flordb

    script = (
        "import flordb as flor, torch\nw = torch.zeros(500_000)\n"
        "for epoch in flor.loop('epoch', range(4)):\n"
        "    for step in flor.loop('step', range(2)):\n        w += 1\n"
        "    flor.log('w', w[0].item())\n"
    )
    sandbox.write("train.py", script)
    sandbox.run("train.py")
    assert observed_ratio(sandbox.project.runs) is None
    line = "    flor.log('w', w[0].item())\n"
    sandbox.write("train.py", script.replace(line, line + "    flor.log('h', w[1].item())\n"))
    with flordb.connect(str(sandbox.root), acquire="always") as connection:
        rows = connection.execute("SELECT h FROM flor ORDER BY epoch").fetchall()
    assert [row[0] for row in rows] == [2.0, 4.0, 6.0, 8.0]
    ratio = observed_ratio(sandbox.project.runs)
    assert ratio is not None
    assert 0 < ratio < 10_000
