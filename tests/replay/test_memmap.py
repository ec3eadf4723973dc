"""Arrays whose memory is a file's: what a loop writes to them is computed again, not loaded."""

from __future__ import annotations

import pytest

import flordb

pytest.importorskip("numpy")

SCRIPT = """
import flordb as flor
import numpy as np

kept = np.memmap("kept.dat", dtype="f8", mode="w+", shape=(3,))
state = [1.0]
with flor.checkpointing(state=state):
    for epoch in flor.loop("epoch", range(3)):
        state[0] *= 2
        kept[epoch] = state[0]
        kept.flush()
"""


def test_what_a_loop_writes_to_a_memory_map_is_there_after_it(sandbox) -> None:
    sandbox.write(".gitignore", "*.dat\n")
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    sandbox.run("train.py")
    sandbox.write("train.py", SCRIPT + 'flor.log("last", float(kept[2]))\n')
    with flordb.connect(sandbox.root) as connection:
        assert connection.execute("SELECT last FROM flor").fetchall() == [(8.0,)]
    assert (sandbox.root / "kept.dat").stat().st_size == 24
