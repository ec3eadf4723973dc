"""Several trainings in one process: what is logged before a loop comes again after it."""

from __future__ import annotations

import pytest

import flordb

TRAINING = """
import flordb as flor


def fit(rate):
    state = [rate]
    with flor.checkpointing(state=state):
        for epoch in flor.loop("epoch", range(2)):
            if rate == 3 and epoch == 1 and {fails}:
                raise ValueError("diverged")
            state[0] *= 2
    return state[0]


{calls}
"""
CALLS = {
    "by a library": "import functools\nfunctools.reduce(lambda a, r: fit(r) + a, [1, 2, 3], 0)",
    "in a comprehension": "[fit(rate) for rate in [1, 2, 3]]",
}


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("fails", [False, True])
def test_what_stands_before_a_loop_is_had_for_each_time_that_it_came(
    sandbox, calls: str, fails: bool
) -> None:
    text = TRAINING.format(calls=CALLS[calls], fails=fails)
    sandbox.write("train.py", text)
    sandbox.commit()
    sandbox.run("train.py", check=not fails)
    statement = '    flor.log("begins", rate)\n'
    sandbox.write(
        "train.py", text.replace("    state = [rate]\n", statement + "    state = [rate]\n")
    )
    with flordb.connect(sandbox.root) as connection:
        assert connection.execute("SELECT begins FROM flor").fetchall() == [(1,), (2,), (3,)]
