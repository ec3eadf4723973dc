"""A replay imports the version's modules, also where the project is installed in editable form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.replay.support import acquire

LIBRARY = """
def grown(state, x):
    state["w"] += {factor} * x
    return state["w"]
"""
TRAIN = """
import flordb as flor
from {module} import grown

state = {{"w": 0.0}}
with flor.checkpointing(state=state):
    for epoch in flor.loop("epoch", range(3)):
        for x in range(4):
            grown(state, x)
"""
EDITABLE = """
import sys
from importlib.util import spec_from_file_location

class Finder:  # as those that setuptools makes
    @classmethod
    def find_spec(cls, name, path, target=None):
        return spec_from_file_location(name, {file!r}) if name == "grown" else None

sys.meta_path.append(Finder)
"""


@pytest.mark.parametrize("workspaces", ["links", "overlay"])
@pytest.mark.parametrize("how", ["path", "package", "finder"])
def test_the_versions_module_is_imported_and_not_the_working_trees(
    sandbox, tmp_path: Path, monkeypatch, workspaces: str, how: str
) -> None:
    file, module = {
        "path": ("lib/grown.py", "grown"),
        "package": ("lib/parts/grown.py", "parts.grown"),
        "finder": ("lib/grown.py", "grown"),
    }[how]
    around = tmp_path / "around"
    around.mkdir()
    if how == "finder":
        text = EDITABLE.format(file=str(sandbox.root / file))
        (around / "sitecustomize.py").write_text(text)
    path = str(around if how == "finder" else sandbox.root / "lib")
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("FLORDB_WORKSPACES", workspaces)
    train = TRAIN.format(module=module)
    sandbox.write("scripts/train.py", train)
    for factor in (2.0, 5.0):
        sandbox.write(file, LIBRARY.format(factor=factor))
        sandbox.commit()
        sandbox.run("scripts/train.py", PYTHONPATH=path)
    sandbox.write("scripts/train.py", train + '        flor.log("w", state["w"])\n')
    for number, factor in ((0, 2.0), (1, 5.0)):
        values, _, report = acquire(sandbox, ["w"], number=number)
        assert (report.failures, report.anomalies) == ((), ())
        assert values == {(f"epoch={epoch}", "w"): [factor * 6 * (epoch + 1)] for epoch in range(3)}
