"""Replays on a Ray cluster: two nodes on this machine, with folders of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flordb.replay.cluster import needed
from flordb.replay.execute import Progress, execute
from flordb.replay.task import Steps
from flordb.settings import load
from flordb.store.runfile import read_run
from tests.replay.support import acquire
from tests.replay.support import plan as planned

SCRIPT = """
import flordb as flor, os, random, time
from helper import grow
random.seed(flor.arg("seed", 3))
weights = [0.0]
for epoch in flor.loop("epoch", range(4)):
    total = 0.0
    for step in flor.loop("step", range(3)):
        weights[0] = grow(weights[0])
        total += weights[0]
    time.sleep(0.4)
    flor.log("mean", total / 3)
flor.log("end", sum(weights))
"""
STEP = "        total += weights[0]\n"


def _node(name: str) -> dict:
    return {"num_cpus": 1, "include_dashboard": False, "env_vars": {"NODE": name}}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    found = Cluster(initialize_head=True, head_node_args=_node("1"))
    found.add_node(**_node("2"))
    monkeypatch.setenv("RAY_ADDRESS", found.address)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.mark.slow
def test_tasks_run_on_the_nodes_of_a_cluster_without_a_shared_disk(
    sandbox, cluster, monkeypatch, tmp_path
) -> None:
    monkeypatch.setenv("FLORDB_ON", "ray")
    left = Path(tempfile.gettempdir()) / "flordb-ray" / "of-a-killed-worker"
    left.mkdir(parents=True)
    (left / "lock").touch()
    sandbox.write("helper.py", "import random\ndef grow(x): return x + random.random()\n")
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    sandbox.run("train.py")
    sandbox.run("train.py", "--kwargs", "seed=4")
    hindsight = (
        '        flor.log("h", weights[0])\n'
        '        flor.log("place", os.getcwd() + " " + os.environ["NODE"])\n'
    )
    sandbox.write("train.py", SCRIPT.replace(STEP, STEP + hindsight))
    values, plan, report = acquire(sandbox, ["h", "place"], number=0)
    assert (report.failures, report.anomalies) == ((), ())
    assert (plan.workers, len(plan.tasks)) == (2, 2)
    steps = [v for (_, name), v in values.items() if name == "h"]
    assert [sum(s) for s in zip(*[iter([v for (v,) in steps])] * 3, strict=True)] == pytest.approx(
        [3 * mean for mean in sandbox.logged("mean", 0)]
    )
    places = [v[0].split() for (_, name), v in values.items() if name == "place"]
    assert len({node for _, node in places}) == 2
    assert all(not folder.startswith(str(sandbox.root)) for folder, _ in places)
    assert not left.exists()

    # A worker that dies there fails its task, with what it said.
    dying = '        flor.log("dies", os.abort() if epoch == 3 else 1)\n'
    sandbox.write("train.py", SCRIPT.replace(STEP, STEP + dying))
    _, _, report = acquire(sandbox, ["dies"], number=1)
    assert "killed by signal 6" in report.failures[0].reason
    assert "Fatal Python error: Aborted" in report.failures[0].reason

    # A script that looks for files finds those that the run found, and no others; what is in them
    # does not travel.
    looks = """
import flordb as flor, os
seen = [name for name in ("data.bin", "made.bin") if os.path.exists(name)]
open("made.bin", "w").write("x")
flor.arg("rate", 1)
"""
    sandbox.write(".gitignore", "*.bin\n")
    sandbox.write("data.bin", "abc")
    sandbox.write("looks.py", looks)
    sandbox.commit()
    sandbox.run("looks.py")
    asks = 'flor.log("seen", seen)\nflor.log("size", len(open("data.bin").read()))\n'
    sandbox.write("looks.py", looks + asks)
    values, _, report = acquire(sandbox, ["seen"])
    assert (list(values.values()), report.failures) == ([[["data.bin"]]], ())
    values, _, report = acquire(sandbox, ["size"])
    assert values == {}
    assert report.failures[0].reason.startswith("the script reads data.bin, which the run found")

    # What a plan's tasks had completed when it was stopped is kept.
    steps_done = tmp_path / "steps"
    slow = f"open({str(steps_done)!r}, 'a').write('x'), time.sleep(0.5)"
    slow = f'        flor.log("slow", [epoch, {slow}])\n'
    sandbox.write("train.py", SCRIPT.replace(STEP, STEP + slow))

    def interrupt(progress: Progress) -> None:
        if steps_done.exists() and len(steps_done.read_text()) > 4:
            raise KeyboardInterrupt

    monkeypatch.setenv("FLORDB_WORKERS", "1")
    chosen = planned(sandbox, ["slow"], number=0)
    with pytest.raises(KeyboardInterrupt):
        execute(sandbox.project, chosen, load(sandbox.root), interrupt)
    replays = sorted(sandbox.project.runs.glob("*.replay-*"), key=lambda p: p.stat().st_mtime)
    outcome = next(line for line in read_run(replays[-1]).singly() if line["k"] == "outcome")
    assert (outcome["n"], outcome["status"]) == ("slow", "acquired")
    assert outcome["iterations"]


def test_only_snapshots_that_a_part_can_use_travel() -> None:
    boundaries = {"start", "epoch@enter", "epoch@exit", *(f"epoch={i}@end" for i in range(10))}
    boundaries |= {f"epoch={i}/step@exit" for i in range(10)}
    boundaries -= {"epoch=4@end"}
    kept = needed(Steps("range", loops=("epoch",), iterations=(5, 6)), boundaries)
    heads = {boundary.partition("@")[0].partition("/")[0] for boundary in kept}
    assert heads == {"start", "epoch", "epoch=3", "epoch=4", "epoch=5", "epoch=6"}
    assert needed(Steps("suffix", before=("epoch",)), boundaries) == boundaries


def test_without_ray_the_command_says_what_to_install(sandbox) -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "sys.argv = ['flordb', 'replay', '--on', 'ray', 'h']\n"
        "from flordb.cli import main; main()"
    )
    sandbox.write("train.py", "import flordb as flor\nflor.log('a', 1)\n")
    sandbox.run("train.py")
    sandbox.write("train.py", "import flordb as flor\nflor.log('a', 1)\nflor.log('h', 1)\n")
    command = [sys.executable, "-c", code]
    env = {**os.environ, **sandbox.environment}
    done = subprocess.run(
        command, cwd=sandbox.root, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'flordb[ray]'" in done.stderr
