"""Replayed values equal, bit for bit, what the run would have logged.

Each workload logs "truths" at many places; the hindsight statements log the same expressions at the
same places under other names, so the record itself holds what a replay must give. No seeds are
set: the run's own random numbers are replayed.
"""

from __future__ import annotations

import pytest

from flordb.replay.replayer import same
from tests.replay.support import acquire, install, recorded_truths

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
}


def _assert_equal(values, expected) -> None:
    assert values.keys() == expected.keys()
    for key, truth in expected.items():
        assert len(values[key]) == len(truth), key
        assert all(same(a, b) for a, b in zip(truth, values[key], strict=True)), key


@pytest.mark.slow
@pytest.mark.parametrize("workload", list(SCANS))
def test_each_statement_gives_what_the_run_would_have_logged(sandbox, workload) -> None:
    names = install(sandbox, workload)
    assert set(names) == set(SCANS[workload])
    values, plan, report = acquire(sandbox, [f"h:{name}" for name in names])
    assert not report.failures
    assert not report.anomalies
    assert {n: task.scan for task in plan.tasks for n in task.names} == {
        f"h:{name}": scan for name, scan in SCANS[workload].items()
    }
    for name in names:
        _assert_equal(
            {key: v for key, v in values.items() if key[1] == f"h:{name}"},
            recorded_truths(sandbox, name),
        )
