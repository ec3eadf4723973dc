"""What a replay does when things are not as they should be, and what it leaves alone."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from typing import Any

import pytest

from flordb.replay.execute import execute
from flordb.settings import load
from flordb.store.encoding import dump_line
from tests.replay.support import acquire, plan

SCRIPT = """
import flordb as flor, random
random.seed(flor.arg("seed", 3))
weights = [0.0]
for epoch in flor.loop("epoch", range(6)):
    total = 0.0
    for step in flor.loop("step", range(4)):
        weights[0] += random.random()
        total += weights[0]
        flor.log("loss", total)
    weights.append(total)
    flor.log("mean", total / 4)
flor.log("end", sum(weights))
"""
EPOCH = '    flor.log("mean", total / 4)\n'


def _record(sandbox, text: str = SCRIPT, **env: str) -> None:
    sandbox.write("train.py", text)
    sandbox.commit()
    sandbox.run("train.py", **env)


def _add(sandbox, after: str, line: str, text: str = SCRIPT) -> None:
    assert text.count(after) == 1
    sandbox.write("train.py", text.replace(after, after + line))


def test_workspaces_are_removed(sandbox, environment) -> None:
    _record(sandbox)
    _add(sandbox, EPOCH, '    flor.log("h", total)\n')
    acquire(sandbox, ["h"])
    workspaces = f"{environment['XDG_CACHE_HOME']}/flordb/workspaces"
    assert os.listdir(workspaces) == ["lock"]
    assert list(sandbox.project.temporary.iterdir()) == []


def test_iterations_that_are_wanted_are_the_only_ones_that_run(sandbox, tmp_path) -> None:
    # Files in the system's temporary folder are not the user's: the script may count there.
    counter = tmp_path / "steps"
    text = SCRIPT.replace(
        "        total += weights[0]\n",
        f"        total += weights[0]\n        open({str(counter)!r}, 'a').write(f'{{epoch}} ')\n",
    )
    _record(sandbox, text)
    counter.unlink()
    after = '        flor.log("loss", total)\n'
    _add(sandbox, after, '        flor.log("h", total)\n', text)
    values, chosen, report = acquire(sandbox, ["h"], iterations=(2, 3))
    assert not report.anomalies
    assert sorted(counter.read_text().split()) == ["2"] * 4 + ["3"] * 4
    expected = sandbox.logged("loss")[8:16]
    assert [v for found in values.values() for v in found] == expected
    assert {task.scan for task in chosen.tasks} == {"range"}


@pytest.mark.parametrize("keep", [(), (0,), (1, 4), (3,)])
def test_fewer_snapshots_cost_time_and_never_a_wrong_value(sandbox, keep) -> None:
    _record(sandbox)
    snapshots = next(sandbox.project.snapshots.iterdir())
    for path in snapshots.iterdir():
        name = path.name.replace("%40", "@").replace("%2F", "/")
        if name.startswith("epoch=") and int(name[6]) not in keep:
            path.unlink()
    _add(sandbox, EPOCH, '    flor.log("h", [total, weights])\n')
    values, _, report = acquire(sandbox, ["h"], iterations=(2, 5))
    assert (report.failures, report.anomalies) == ((), ())
    means = sandbox.logged("mean")
    assert {path: v[0][0] / 4 for (path, _), v in values.items()} == {
        "epoch=2": means[2],
        "epoch=5": means[5],
    }


def test_without_snapshots_a_run_is_repeated_and_believed_only_where_it_is_the_same(
    sandbox,
) -> None:
    _record(sandbox)
    for path in next(sandbox.project.snapshots.iterdir()).iterdir():
        path.unlink()
    _add(sandbox, EPOCH, '    flor.log("h", total)\n')
    values, chosen, report = acquire(sandbox, ["h"])
    assert not report.failures
    assert [v[0] / 4 for v in values.values()] == sandbox.logged("mean")
    assert "from the first iteration on" in " ".join(chosen.tasks[0].notes)


def test_without_snapshots_a_run_that_comes_out_differently_gives_no_value(sandbox) -> None:
    text = SCRIPT.replace('random.seed(flor.arg("seed", 3))', "random.seed(os.urandom(8))")
    text = text.replace("import flordb as flor, random", "import flordb as flor, os, random")
    _record(sandbox, text)
    for path in next(sandbox.project.snapshots.iterdir()).iterdir():
        path.unlink()
    _add(sandbox, EPOCH, '    flor.log("h", total)\n', text)
    values, _, report = acquire(sandbox, ["h"])
    assert not any(name == "h" for _, name in values)
    assert "it came out differently" in report.failures[0].reason


def test_without_snapshots_unseeded_numbers_give_no_value(sandbox) -> None:
    text = SCRIPT.replace('random.seed(flor.arg("seed", 3))', 'flor.log("go", 1)')
    _record(sandbox, text)
    for path in next(sandbox.project.snapshots.iterdir()).iterdir():
        path.unlink()
    _add(sandbox, EPOCH, '    flor.log("h", total)\n', text)
    values, _, report = acquire(sandbox, ["h"])
    assert not any(name == "h" for _, name in values)
    assert "draws unseeded random numbers (random)" in report.failures[0].reason


def test_unseeded_numbers_drawn_before_the_first_call_are_refused(sandbox) -> None:
    text = "import random\nbase = random.random()\n" + SCRIPT.replace(
        "weights = [0.0]", "weights = [base]"
    )
    text = text.replace('random.seed(flor.arg("seed", 3))\n', "")
    _record(sandbox, text)
    _add(sandbox, EPOCH, '    flor.log("h", total)\n', text)
    values, _, report = acquire(sandbox, ["h"])
    assert values == {}
    assert "unseeded random numbers (random)" in report.failures[0].reason


def test_difference_from_the_record_is_reported_with_both_values(sandbox) -> None:
    _record(sandbox)
    path, lines = sandbox.run_files()[-1], sandbox.lines()
    line = next(x for x in lines if x["k"] == "log" and x["n"] == "mean")
    true, line["v"] = line["v"], -1.0
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    _add(sandbox, EPOCH, '    flor.log("h", total)\n')
    _, _, report = acquire(sandbox, ["h"])
    assert len(report.anomalies) == 1
    assert f"mean at epoch=0 of the run of {lines[0]['tstamp'][:10]}" in report.anomalies[0]
    assert f"recorded -1.0, replayed {true}" in report.anomalies[0]


def test_hindsight_statement_that_draws_random_numbers_disturbs_nothing(sandbox) -> None:
    _record(sandbox)
    after = "        weights[0] += random.random()\n"
    _add(sandbox, after, '        flor.log("h", random.random())\n')
    values, _, report = acquire(sandbox, ["h"])
    assert (report.failures, report.anomalies) == ((), ())
    assert len(values) == 24


def test_random_numbers_that_an_objects_methods_draw_disturb_nothing(sandbox) -> None:
    dice = """
class Dice(float):
    def item(self): return random.random()
    def __add__(self, other): return random.random() + other
    def __float__(self): return random.random()
    def __getitem__(self, i): return random.random()
    grad = property(item)
class Lazy:
    plain = 2.0
    drawn = property(lambda self: random.random())
    def __getattr__(self, name): return random.random()
    def method(self): return random.random()
class Greedy:
    def __init__(self): self.x = 1.0
    def __getattribute__(self, name): return random.random()
dice, lazy, greedy, held = Dice(1.0), Lazy(), Greedy(), [Dice(2.0), {"k": Dice(3.0)}]
lazy.kept = 3.0
def draw(*_): return random.random()
abs = draw
for epoch"""
    text = SCRIPT.replace("\nfor epoch", dice)
    _record(sandbox, text)
    uses = ("dice.item()", "dice + epoch", "float(dice)", "dice[0]", "dice.grad", "abs(epoch)")
    uses += ("lazy.drawn", "lazy.missing", "greedy.x", "held[0][5]", "held[1]['k'].item()")
    uses += ("lazy.kept + lazy.plain", "lazy.method()", "held[0] + 1", "[epoch, held[0] + 1]")
    lines = [f'        flor.log("h{i}", {use})\n' for i, use in enumerate(uses)]
    _add(sandbox, "        weights[0] += random.random()\n", "".join(lines), text)
    values, _, report = acquire(sandbox, [f"h{i}" for i in range(len(uses))])
    assert (report.failures, report.anomalies) == ((), ())
    assert len(values) == 24 * len(uses)


def test_new_code_that_adds_up_over_epochs_is_run_from_the_first_on(sandbox) -> None:
    _record(sandbox)
    text = SCRIPT.replace("weights = [0.0]\n", "weights = [0.0]\ngrand = 0.0\n")
    text = text.replace(EPOCH, EPOCH + '    grand += total\n    flor.log("h", grand)\n')
    sandbox.write("train.py", text)
    values, _, report = acquire(sandbox, ["h"], iterations=(4,))
    if report.failures:
        assert report.failures[0].reason  # refused, for a stated reason: that is fine, too
        return
    means = sandbox.logged("mean")
    total = 0.0
    for mean in means[:5]:
        total += mean * 4
    assert values[("epoch=4", "h")] == [total]


def test_killed_run_gives_its_completed_epochs_and_nothing_after_the_loop(sandbox) -> None:
    text = SCRIPT.replace("    weights.append(total)\n", "    weights.append(total)\n    wait()\n")
    text = "import time\ndef wait(): time.sleep(0.4)\n" + text
    sandbox.write("train.py", text)
    sandbox.commit()
    process = sandbox.start("train.py")
    deadline = time.time() + 30
    while not (sandbox.run_files() and len(sandbox.logged("mean")) >= 3):
        assert time.time() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    completed = len([x for x in sandbox.lines() if x.get("w") == "iteration"])
    new = text.replace(EPOCH, EPOCH + '    flor.log("h", total)\n') + 'flor.log("after", 1)\n'
    sandbox.write("train.py", new)
    values, _, report = acquire(sandbox, ["h", "after"])
    found = [v[0] / 4 for (_, name), v in values.items() if name == "h"]
    assert found == sandbox.logged("mean")[:completed]
    assert [f.names for f in report.failures] == [("after",)]
    assert "never ran" in report.failures[0].reason


def test_steps_and_epochs_that_are_asked_for_at_once_share_a_replay(sandbox) -> None:
    _record(sandbox)
    inner = '        flor.log("loss", total)\n'
    text = SCRIPT.replace(EPOCH, EPOCH + '    flor.log("h", weights)\n')
    _add(sandbox, EPOCH, '    flor.log("h", weights)\n')
    alone, _, _ = acquire(sandbox, ["h"])
    sandbox.write("train.py", text.replace(inner, inner + '        flor.log("g", total)\n'))
    values, chosen, report = acquire(sandbox, ["g", "h"])
    assert (report.failures, report.anomalies) == ((), ())
    assert {task.names for task in chosen.tasks} == {("g", "h")}
    assert {task.scan for task in chosen.tasks} == {"range"}
    assert {key: v for key, v in values.items() if key[1] == "h"} == alone
    steps = [v for (_, name), found in values.items() if name == "g" for v in found]
    assert steps == sandbox.logged("loss")


CAUGHT = """
import flordb as flor
w = [0]
try:
    for epoch in flor.loop("epoch", range(6)):
        w[0] += epoch
        flor.log("w", w[0])
        if epoch == 3:
            raise ValueError
except ValueError:
    pass
flor.log("end", w[0])
"""


def test_iteration_that_an_exception_ended_has_no_value_and_the_reason(sandbox) -> None:
    _record(sandbox, CAUGHT)
    _add(sandbox, '        flor.log("w", w[0])\n', '        flor.log("h", w[0])\n', CAUGHT)
    values, _, report = acquire(sandbox, ["h"])
    assert [path for path, _ in values] == ["epoch=0", "epoch=1", "epoch=2"]
    (failure,) = report.failures
    assert "an exception ended the iteration 3 of 'epoch'" in failure.reason
    _, _, report = acquire(sandbox, ["h"], iterations=(1,))
    assert report.failures == ()


def test_run_without_a_version_is_refused_with_the_reason(folder) -> None:
    folder.write("train.py", SCRIPT)
    folder.run("train.py")
    folder.git("init", "--quiet")
    _add(folder, EPOCH, '    flor.log("h", total)\n')
    chosen = plan(folder, ["h"])
    assert chosen.tasks == ()
    assert "no version: not a git repository" in chosen.refusals[0].reason


def test_version_whose_code_no_longer_runs_fails_with_the_place(sandbox) -> None:
    text = "import os\nif os.path.exists('gone.txt'): pass\nelse: import module_that_is_gone\n"
    text += SCRIPT
    sandbox.write("gone.txt", "x")
    sandbox.write(".gitignore", "gone.txt\n")
    _record(sandbox, text)
    (sandbox.root / "gone.txt").unlink()
    _add(sandbox, EPOCH, '    flor.log("h", total)\n', text)
    _, _, report = acquire(sandbox, ["h"])
    assert "ModuleNotFoundError at train.py:3" in report.failures[0].reason


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.abort()", "killed by signal 6"),
        ("os._exit(7)", "status 7"),
        ("raise KeyError(4)", "KeyError at train.py:"),
    ],
)
def test_replay_that_dies_fails_alone(sandbox, code, reason) -> None:
    text = SCRIPT.replace(
        "weights = [0.0]\n",
        "weights = [0.0]\nimport os\n"
        f"if flor.arg('die', 0) and hasattr(flor.session.peek(), 'job'):\n    {code}\n",
    )
    sandbox.write("train.py", text)
    sandbox.commit()
    sandbox.run("train.py", "--kwargs", "die=1")
    sandbox.run("train.py")
    _add(sandbox, EPOCH, '    flor.log("h", total)\n', text)
    _, _, report = acquire(sandbox, ["h"], number=0)
    assert reason in report.failures[0].reason
    values, _, report = acquire(sandbox, ["h"], number=1)
    assert not report.failures
    assert len(values) == 6


def test_replay_that_hangs_is_stopped(sandbox, monkeypatch) -> None:
    text = SCRIPT.replace(
        "weights = [0.0]\n",
        "weights = [0.0]\nimport os, time\n"
        "if hasattr(flor.session.peek(), 'job'): time.sleep(60)\n",
    )
    _record(sandbox, text)
    _add(sandbox, EPOCH, '    flor.log("h", total)\n', text)
    chosen = plan(sandbox, ["h"])
    monkeypatch.setenv("FLORDB_TASK_TIMEOUT_SECONDS", "1.5")
    began = time.time()
    report = execute(sandbox.project, chosen, load(sandbox.root))
    assert time.time() - began < 20
    assert "took too long" in report.failures[0].reason


def test_cut_off_run_file_is_replayed_as_far_as_it_goes(sandbox) -> None:
    _record(sandbox)
    path, lines = sandbox.run_files()[-1], sandbox.lines()
    contexts = {line["c"]: line for line in lines if line["k"] == "ctx"}

    def epoch(line: dict[str, Any]) -> int:
        """In which epoch a line was written; after the last one for what says that all ended."""
        if line["k"] in ("exit", "loop") and not line.get("c"):
            return 99
        context = line if line["k"] == "ctx" else contexts.get(line.get("c"))
        if context is None:
            return -1
        return epoch(contexts[context["p"]]) if context["p"] else context["i"]

    path.write_text("".join(dump_line(line) for line in lines if epoch(line) < 3) + '{"k":"log')
    _add(sandbox, EPOCH, '    flor.log("h", total)\n')
    values, _, report = acquire(sandbox, ["h"])
    assert not report.anomalies
    assert sorted(path for path, _ in values) == ["epoch=0", "epoch=1", "epoch=2"]


def test_args_of_the_run_are_answered_in_its_replay(sandbox) -> None:
    text = SCRIPT.replace("weights = [0.0]\n", 'weights = [flor.arg("w", 0.5)]\n')
    sandbox.write("train.py", text)
    sandbox.commit()
    sandbox.run("train.py", "--kwargs", "w=2.5", "seed=8")
    _add(sandbox, EPOCH, '    flor.log("h", total)\n', text)
    values, _, report = acquire(sandbox, ["h"])
    assert (report.failures, report.anomalies) == ((), ())
    assert [v[0] / 4 for v in values.values()] == sandbox.logged("mean")


def test_replays_of_one_run_share_its_epochs_among_workers(sandbox) -> None:
    _record(sandbox)
    after = '        flor.log("loss", total)\n'
    _add(sandbox, after, '        flor.log("h", total)\n' + "        pass\n" * 0)
    chosen = plan(sandbox, ["h"])
    assert chosen.seconds > 0
    covered = [i for task in chosen.tasks for i in (task.iterations or range(6))]
    assert sorted(covered) == list(range(6))


def test_what_a_library_draws_as_it_is_imported_is_not_the_scripts(
    sandbox, tmp_path, monkeypatch
) -> None:
    library = tmp_path / "libraries" / "drawing.py"
    library.parent.mkdir()
    # A library that starts a thread cannot be imported before the fork.
    library.write_text(
        "import random, threading, time\nrandom.random()\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(library.parent))
    text = "import drawing\n" + SCRIPT
    _record(sandbox, text, PYTHONPATH=str(library.parent))
    _add(sandbox, EPOCH, '    flor.log("h", total)\n', text)
    values, _, report = acquire(sandbox, ["h"])
    assert (report.failures, report.anomalies) == ((), ())
    assert [v[0] / 4 for v in values.values()] == sandbox.logged("mean")


def test_files_that_the_loop_wrote_are_written_again_and_not_taken_from_a_later_run(
    sandbox,
) -> None:
    text = SCRIPT.replace(
        "import flordb as flor, random", "import json, random\nimport flordb as flor"
    )
    text = text.replace(EPOCH, EPOCH + '    json.dump(weights, open("out.json", "w"))\n')
    text += 'best = json.load(open("out.json"))\n'
    sandbox.write(".gitignore", "out.json\n")
    _record(sandbox, text)
    true = json.loads((sandbox.root / "out.json").read_text())
    (sandbox.root / "out.json").write_text("[-1.0]")
    sandbox.write("train.py", text + 'flor.log("h", best)\n')
    values, chosen, report = acquire(sandbox, ["h"])
    assert (report.failures, report.anomalies) == ((), ())
    assert values == {("", "h"): [true]}
    assert any("read again" in note for note in chosen.tasks[0].notes)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others have no such setting")
def test_memory_that_an_evaluation_frees_is_not_faulted_in_again(sandbox) -> None:
    text = """
import flordb as flor, resource
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for epoch in flor.loop("epoch", range(2)): pass
flor.log("end", 0)
for batch in range(20):
    blocks = [bytes(bytearray(400_000)) for _ in range(20)]
    del blocks
    if batch == 2: before = faults()
"""
    _record(sandbox, text)
    sandbox.write("train.py", text + 'flor.log("faults", faults() - before)\n')
    values, *_ = acquire(sandbox, ["faults"])
    ((faults,),) = values.values()
    assert faults < 400  # of 34,000 pages
