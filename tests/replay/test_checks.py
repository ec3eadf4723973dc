"""A replay that comes out differently is noticed, told, and gives no value that may be wrong."""

from __future__ import annotations

import warnings

import pytest

import flordb
from flordb.errors import FlorWarning
from flordb.replay.checks import Tolerances, same
from flordb.store.runfile import read_run
from tests.replay.support import acquire

# A dictionary that the process's environment decides stands for all that is not deterministic.
SCRIPT = """
import os, time
import flordb as flor
rate = float(os.environ.get("RATE", "1.0"))
weights = [1.0]
steps = 0
for epoch in flor.loop("epoch", range(4)):
    began = time.time()
    for step in flor.loop("step", range(3)):
        weights[0] *= 0.9 * rate
        steps += 1
    flor.log("loss", weights[0] * rate)
    flor.log("seconds", time.time() - began)
flor.log("end", 1)
"""
LOSS = '    flor.log("loss", weights[0] * rate)\n'


@pytest.fixture
def diverging(sandbox):
    """A run whose replays come out differently: nothing records the variable RATE."""
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    sandbox.run("train.py", RATE="1.0009765625")
    text = SCRIPT.replace(
        LOSS,
        LOSS + '    flor.log("h_rate", weights[0] + rate)\n    flor.log("h_steps", steps)\n',
    )
    sandbox.write("train.py", text)
    return sandbox


def test_value_that_may_depend_on_a_difference_is_not_given(diverging) -> None:
    values, _, report = acquire(diverging, ["h_rate"])
    assert not any(name == "h_rate" for _, name in values)
    (failure,) = report.failures
    assert failure.names == ("h_rate",)
    assert "came out differently" in failure.reason
    assert "loss at epoch=0 was" in failure.reason
    assert "loss at epoch=0" in report.anomalies[0]


def test_value_that_cannot_depend_on_a_difference_is_given(diverging) -> None:
    values, _, report = acquire(diverging, ["h_steps"])
    assert list(values.values()) == [[3], [6], [9], [12]]
    assert not report.failures
    assert report.anomalies  # told all the same


def test_query_returns_null_and_warns_with_run_column_context_and_both_values(diverging) -> None:
    with (
        warnings.catch_warnings(record=True) as caught,
        flordb.connect(str(diverging.root), acquire="always") as connection,
    ):
        warnings.simplefilter("always")
        rows = connection.execute("SELECT epoch, h_rate, h_steps FROM flor ORDER BY 1").fetchall()
        found = connection.execute(
            "SELECT value_name, context, recorded, replayed FROM replay_anomalies "
            "WHERE value_name = 'loss' ORDER BY context"
        ).fetchall()
        outcome = connection.execute(
            "SELECT value_name, status FROM acquisitions ORDER BY 1"
        ).fetchall()
    assert rows == [(i, None, 3 * i + 3) for i in range(4)]
    lost = diverging.logged("loss")
    assert len(found) == 4
    assert [float(recorded) for _, _, recorded, _ in found] == lost
    assert all(float(a) != float(b) for _, _, a, b in found)
    assert outcome == [("h_rate", "failed"), ("h_steps", "acquired")]
    text = " ".join(str(w.message) for w in caught if issubclass(w.category, FlorWarning))
    assert f"loss at epoch=0 of the run of {diverging.lines()[0]['tstamp'][:10]}" in text
    assert f"recorded {lost[0]}, replayed {found[0][3]}" in text


def test_tolerance_of_a_column_accepts_its_differences(diverging, monkeypatch) -> None:
    monkeypatch.setenv("FLORDB_TOLERANCE", "loss=0.01, seconds=inf")
    values, _, report = acquire(diverging, ["h_rate"])
    assert (report.failures, report.anomalies) == ((), ())
    assert len(values) == 4


def test_tolerance_that_is_too_small_changes_nothing(diverging, monkeypatch) -> None:
    monkeypatch.setenv("FLORDB_TOLERANCE", "loss=1e-9, seconds=inf")
    values, _, report = acquire(diverging, ["h_rate"])
    assert not any(name == "h_rate" for _, name in values)
    assert report.failures


def test_clock_in_the_log_does_not_void_what_has_nothing_to_do_with_it(sandbox) -> None:
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    sandbox.run("train.py")
    after = "        steps += 1\n"
    sandbox.write("train.py", SCRIPT.replace(after, after + '        flor.log("h", weights[0])\n'))
    values, _, report = acquire(sandbox, ["h"])
    assert not report.failures
    assert len(values) == 12
    assert all("seconds at" in text for text in report.anomalies)


def test_first_difference_of_each_column_is_kept_however_many_there_are(sandbox) -> None:
    more = '    for i in range(120): flor.log("many", i + rate)\n    flor.log("few", rate)\n'
    text = SCRIPT.replace(LOSS, LOSS + more)
    sandbox.write("train.py", text)
    sandbox.commit()
    sandbox.run("train.py", RATE="1.5")
    sandbox.write("train.py", text.replace(more, more + '    flor.log("h", steps)\n'))
    acquire(sandbox, ["h"], iterations=(1, 2))
    replays = sandbox.project.runs.glob("*.replay-*")
    found = [line for path in replays for line in read_run(path).lines if line["k"] == "anomaly"]
    assert {line["n"] for line in found} == {"loss", "seconds", "many", "few"}
    assert len(found) < 240


@pytest.mark.parametrize(
    ("recorded", "replayed", "tolerance", "equal"),
    [
        (1.0, 1.0 + 1e-9, 0.0, False),
        (1.0, 1.0 + 1e-9, 1e-8, True),
        (1e6, 1e6 + 1, 1e-5, True),
        (1e-6, 2e-6, 1e-8, False),
        (float("nan"), float("nan"), 0.0, True),
        (float("inf"), 1.0, 0.5, False),
        ([1.0, 2.0], [1.0, 2.5], 0.2, False),
        ({"a": [1]}, {"a": [1.0]}, 0.0, True),
        ("x", "y", 0.5, False),
        ("x", "y", float("inf"), True),
        (True, 1, 0.0, True),
        (2**80, 2**80 + 1, 0.0, False),
    ],
)
def test_values_are_compared_as_they_are_within_the_tolerance(
    recorded, replayed, tolerance, equal
) -> None:
    assert same(recorded, replayed, tolerance) is equal


@pytest.mark.parametrize("text", ["loss", "=1", "loss=x", "loss=-1", "loss=nan"])
def test_tolerance_that_cannot_be_read_is_refused(text) -> None:
    with pytest.raises(ValueError, match=r"tolerance|could not"):
        Tolerances.parse(text)
