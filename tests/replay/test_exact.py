"""Replayed values equal, bit for bit, what the version with the statement logs when it is trained
from scratch: for all four scans, from every snapshot, and with snapshots taken away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.demo.warm import Warm
from tests.replay.adversary import (
    WORKLOADS,
    Outcome,
    SnapshotFiles,
    Workload,
    build,
    ends,
    replay,
)

pytestmark = pytest.mark.slow

NAMES = sorted(p.stem for p in WORKLOADS.glob("*.py") if not p.stem.endswith("_lib"))
# What no replay can repeat, and what is refused only if a set comes in another order.
REFUSED = {"clocks": {"word", "cat", "elapsed", "dog", "name", "pid"}}
PERHAPS = {"clocks": {"table", "sum"}}

# How the statements of some workloads are had; "!" where every iteration is run from the first.
SCANS = {
    "plain": {
        **dict.fromkeys(("data", "before"), "prefix"),
        **dict.fromkeys(("first", "stale", "grads", "lr", "acc"), "validation"),
        **dict.fromkeys(("step", "grad"), "range"),
        **dict.fromkeys(("history", "best", "last", "random", "torch"), "suffix"),
    },
    "functions": {
        **dict.fromkeys(("inner", "error"), "range"),
        **dict.fromkeys(("seen", "mean", "average", "patience"), "validation"),
        **dict.fromkeys(("end", "final"), "suffix"),
        "validated": "validation",
    },
    "trainer": {
        **dict.fromkeys(("loss", "mean"), "range"),
        "epoch": "validation",
        **dict.fromkeys(("calls", "noise", "losses"), "suffix"),
    },
    # An iterator, a generator and a counter are kept in variables, which no snapshot can hold.
    "gan": {
        **dict.fromkeys(("last", "grads", "entry", "both", "weight", "image"), "range!"),
        "dropout": "validation",
        "fixed": "prefix",
    },
    # The nested loop was left by break, past its else.
    "early": {
        **dict.fromkeys(("bad", "counts", "recent", "state"), "range"),
        "weight": "validation",
        **dict.fromkeys(("why", "stopped"), "suffix"),
    },
    "phases": {
        "loss": "range",
        **dict.fromkeys(("warm", "groups", "trainable", "body", "points", "test"), "validation"),
        **dict.fromkeys(("between", "after", "end"), "suffix"),
        "before": "prefix",
    },
    "habits": {
        **dict.fromkeys(("norm", "scale"), "range"),
        **dict.fromkeys(("val", "best", "config", "ticks", "averaged", "kept"), "validation"),
        **dict.fromkeys(("final", "end"), "suffix"),
    },
    # TorchScript compiles a scripted module anew after some calls, to other rounding.
    "agents": dict.fromkeys(
        (
            *("action", "loss", "mean", "visits", "buffer", "calls", "moves", "weights"),
            *("losses", "draw", "sampled"),
        ),
        "range!",
    ),
    # What runs changes the state of classes and functions, which no snapshot holds.
    "search": {
        **dict.fromkeys(("shift", "score", "best", "cache", "votes", "tally", "shifts"), "range!"),
        # An `enumerate` around the loop counts from its first item on.
        **dict.fromkeys(("state", "history", "end", "draw", "number"), "range!"),
    },
    # The loop's items are handed on by a generator.
    "yields": dict.fromkeys(("step", "tag", "count", "after", "guess", "turns"), "range!"),
}


@dataclass
class Recorded:
    root: Path
    workloads: dict[str, Workload]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("adversary")
    with pytest.MonkeyPatch.context() as patch, Warm() as warm:
        patch.setenv("HOME", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("FLORDB_EPSILON", "1000")
        root = folder / "project"
        yield Recorded(root, build(root, NAMES, warm))


@pytest.fixture(scope="module")
def outcomes(recorded: Recorded) -> dict[str, Outcome]:
    return replay(recorded.root, recorded.workloads)[0]


@pytest.mark.parametrize("workload", NAMES)
def test_each_statement_gives_what_training_with_it_would_have_logged(outcomes, workload) -> None:
    outcome = outcomes[workload]
    assert outcome.wrong == []
    assert outcome.lacking == []
    refused = {name.partition(":")[2] for name in outcome.refused}
    assert refused - PERHAPS.get(workload, set()) == REFUSED.get(workload, set())
    assert outcome.anomalies == []
    assert outcome.equal > 0 or workload in REFUSED


@pytest.mark.parametrize("workload", list(SCANS))
def test_no_more_is_run_than_a_statement_needs(outcomes, workload) -> None:
    expected = {f"h:{name}": scan for name, scan in SCANS[workload].items()}
    assert outcomes[workload].scans == expected


def test_one_iteration_gives_what_it_gives_among_all(recorded) -> None:
    workloads = {n: w for n, w in recorded.workloads.items() if n in ("agents", "search", "yields")}
    for name, outcome in replay(recorded.root, workloads, 3)[0].items():
        assert (name, outcome.wrong, outcome.lacking) == (name, [], [])
        assert outcome.equal


@pytest.mark.parametrize("kept", ["ends", "none"])
def test_without_snapshots_there_is_the_same_value_or_none(recorded, kept) -> None:
    files = SnapshotFiles(recorded.root)
    try:
        for workload in recorded.workloads.values():
            files.keep(workload, ends(files.of(workload)) if kept == "ends" else ())
        outcomes = replay(recorded.root, recorded.workloads)[0]
    finally:
        files.restore()
    for name, outcome in outcomes.items():
        assert (name, outcome.wrong, outcome.lacking) == (name, [], [])
        assert outcome.equal or kept == "none" or name in REFUSED
