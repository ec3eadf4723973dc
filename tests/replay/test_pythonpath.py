"""Modules that a run found by PYTHONPATH."""

from __future__ import annotations

import os

from tests.replay.support import acquire

SCRIPT = """
import flordb as flor, helper, outside
for epoch in flor.loop("epoch", range(2)):
    flor.log("x", helper.of(epoch) + outside.more)
"""


def test_modules_are_found_where_the_run_found_them_and_as_they_were(sandbox, tmp_path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "outside.py").write_text("more = 100\n")
    sandbox.write("src/helper.py", "def of(n): return n + 1\n")
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    sandbox.run("train.py", PYTHONPATH=os.pathsep.join(["src", str(tmp_path / "lib")]))
    sandbox.write("src/helper.py", "def of(n): return n - 1\n")
    sandbox.write("train.py", f'{SCRIPT}    flor.log("y", helper.of(epoch) + outside.more)\n')
    values, *_ = acquire(sandbox, ["y"])
    assert [v for found in values.values() for v in found] == sandbox.logged("x") == [101, 102]
