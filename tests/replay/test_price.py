"""Estimates are made of the run's own timings and of what earlier replays took."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from flordb.replay import learnt, pool
from flordb.replay.cost import Parts, parts_of
from flordb.replay.loading import Loading
from flordb.replay.plan import as_json
from flordb.replay.recorded import NestedLoop, Recorded, TopLoop, recorded
from flordb.replay.task import Steps
from flordb.store.runfile import read_run
from flordb.store.snapshots import BlockRef, Manifest
from tests.replay.support import acquire, plan

SCRIPT = """
import flordb as flor
w = [0]
for epoch in flor.loop("epoch", range(4)):
    for step in flor.loop("step", range(3)):
        w[0] += step
    flor.log("w", w[0])
flor.log("end", w[0])
"""
BODY = '    flor.log("w", w[0])\n'


def _record() -> Recorded:
    """Four epochs of 10 s, 8 of them in a nested loop, in which snapshots took a second each."""
    loop = TopLoop("epoch", 0, {0, 1, 2, 3}, dict.fromkeys(range(4), 10.0), end="exhausted")
    loop.nested = {i: [NestedLoop("step", 0, 8.0, "exhausted", count=10)] for i in range(4)}
    loop.logged.update(range(4))
    holds = {f"epoch={i}{at}": 0.5 for i in range(4) for at in ("@end", "/step@exit")}
    holds["epoch@exit"] = 0.25
    loops = {("epoch", 0): loop}
    return Recorded({}, loops=loops, setup=3.0, rest=5.0, holds=holds)


LOADING = Loading((), lambda _: None)
EACH = LOADING.seconds("epoch@exit")
BOUNDARIES = {f"epoch={i}{at}" for i in range(4) for at in ("@end", "/step@exit")} | {"epoch@exit"}


@pytest.mark.parametrize(
    ("steps", "parts"),
    [
        (Steps("prefix"), Parts(3.0)),
        # With the first use of what it needs.
        (Steps("suffix", before=("epoch",)), Parts(3.0, 1, EACH, 5.012)),
        # The entry's snapshot, for each epoch but the first the one before it, and the nested.
        (Steps("validation", loops=("epoch",)), Parts(3.0, 8, 8 * EACH, 4.0, 4)),
        # The values that the run logged in the epochs and, new, one a step.
        (Steps("range", loops=("epoch",), run_nested=("step",)), Parts(3.0, 4, 4 * EACH, 36.0, 44)),
        (
            Steps("range", loops=("epoch",), iterations=(2,), run_nested=("step",)),
            Parts(3, 2, 2 * EACH, 9, 11),
        ),
        (Steps("range", loops=("epoch",), from_start=True, go_on=True), Parts(3, 1, EACH, 41, 4)),
    ],
)
def test_parts_of_each_scan(steps, parts) -> None:
    found = parts_of(steps, _record(), BOUNDARIES, LOADING)
    assert found == replace(parts, restoring=pytest.approx(parts.restoring))


def test_with_few_snapshots_the_iterations_in_between_are_priced() -> None:
    steps = Steps("range", loops=("epoch",), iterations=(3,), run_nested=("step",))
    assert parts_of(steps, _record(), {"epoch=0@end"}, LOADING).compute == 27.0
    assert parts_of(steps, _record(), set(), LOADING).compute == 36.0


def test_first_use_of_what_an_iteration_needs_is_priced_as_in_the_run() -> None:
    record = _record()
    (loop,) = record.loops.values()
    loop.iterations = {0: 13.0, 1: 10.1, 2: 10.0, 3: 9.9}
    run = Steps("range", loops=("epoch",), run_nested=("step",))
    later = replace(run, iterations=(2,))
    assert parts_of(later, record, BOUNDARIES, LOADING).compute == pytest.approx(9.0 + 3.0)
    # The run's first iteration has it.
    assert parts_of(run, record, BOUNDARIES, LOADING).compute == pytest.approx(43.0 - 4.0)
    # One that was no longer than the others shows none.
    loop.iterations[0] = 10.05
    assert parts_of(later, record, BOUNDARIES, LOADING).compute == pytest.approx(9.0)


def test_loading_is_priced_by_what_snapshots_hold_and_what_is_there_already() -> None:
    def snapshot(*objects: str) -> Manifest:
        blocks = tuple(BlockRef(name, 0, 3_000_000, "") for name in objects)
        return Manifest("", "state", blocks, (), {}, (), {})

    kept = {
        "epoch@enter": snapshot("data", "first"),
        "epoch=0@end": snapshot("data", "a"),
        "epoch=1@end": snapshot("data", "b"),
        "epoch=2@end": snapshot("data", "b"),
        "epoch@exit": snapshot("data", "b"),
    }
    read = []

    def manifest(boundary: str) -> Manifest | None:
        read.append(boundary)
        return kept[boundary]

    seconds = Loading(kept, manifest).seconds
    changed = Loading([*[*kept][:3], "epoch@exit"], manifest).seconds
    assert seconds("epoch=0@end") == seconds("epoch=2@end") < changed("epoch=0@end")
    assert changed("epoch=1@end") - seconds("epoch=1@end") == pytest.approx(1e-3, rel=0.3)
    assert read == ["epoch=2@end", "epoch=1@end", "epoch=1@end", "epoch=0@end"]
    # A suffix is loaded into what the set-up has made.
    assert seconds("epoch@exit") == pytest.approx(changed("epoch=1@end"))
    assert seconds("epoch@enter") == pytest.approx(seconds("epoch=1@end"))
    # Of a snapshot that cannot be read, or that would be there, no more is known.
    assert Loading(kept, lambda _: None).seconds("epoch=0@end") == EACH


TOOK = {"setup": 1.0, "restores": 2, "restored": 2.0, "computed": 30.0}
PARTS = Parts(3.0, 2, 2.0, 10.0)


def test_replays_correct_each_part_of_the_price() -> None:
    known = learnt.Learnt()
    known.worked("train.py", "range", False, PARTS, TOOK)
    known.handed("train.py", "range", PARTS, 0.5)
    rates = known.rates("train.py", "range", False)
    assert rates.setup.of(PARTS.setting_up) == pytest.approx(1.0)
    assert rates.loading.of(PARTS.loading) == pytest.approx(2.0)
    assert rates.computing.ratio == pytest.approx(3.0)
    assert PARTS.seconds(rates) == pytest.approx(0.5 + 1.0 + 2.0 + 30.0)
    # Of this script nothing is known but what others took beyond their own code.
    other = known.rates("other.py", "range", False)
    assert other.handing == rates.handing
    assert other.computing == learnt.Rate()
    # Another part of the code on, perhaps, another machine: half-way, in powers.
    assert known.rates("train.py", "suffix", False).computing.ratio == pytest.approx(3**0.5)


def test_what_short_set_ups_of_others_were_off_by_is_not_added_to_a_long_one() -> None:
    known = learnt.Learnt()
    known.worked("other.py", "prefix", False, Parts(0.0), {**TOOK, "setup": 0.04})
    known.worked("train.py", "prefix", False, Parts(3.0), {**TOOK, "setup": 1.0})
    rates = known.rates("train.py", "prefix", False)
    assert rates.setup.of(Parts(3.0).setting_up) == pytest.approx(1.0)


def test_one_replay_that_had_to_wait_teaches_nothing() -> None:
    known = learnt.Learnt()
    for seconds in (10.0, 11.0, 70.0, 10.0, 10.5):
        known.worked("train.py", "range", False, PARTS, {**TOOK, "computed": seconds})
    assert known.rates("train.py", "range", False).computing.ratio == pytest.approx(1.05)
    for seconds in (20.0, 20.0, 20.0):
        known.worked("train.py", "range", False, PARTS, {**TOOK, "computed": seconds})
    assert known.rates("train.py", "range", False).computing.ratio == pytest.approx(2.0)


def test_what_is_short_is_learnt_as_a_difference() -> None:
    known = learnt.Learnt()
    short = Parts(0.0, compute=0.001)
    known.worked("train.py", "suffix", False, short, {**TOOK, "restores": 0, "computed": 0.004})
    rates = known.rates("train.py", "suffix", False)
    assert rates.computing.of(short.computing) == pytest.approx(0.004)
    assert rates.computing.of(10.0) == pytest.approx(10.003)
    assert rates.loading == learnt.Rate()


def test_workers_that_compute_side_by_side_are_priced_as_they_came_out(tmp_path) -> None:
    known = learnt.Learnt()
    known.worked("train.py", "range", False, PARTS, {**TOOK, "computed": 10.0})
    for seconds in (15.0, 15.0):
        known.worked("train.py", "range", True, PARTS, {**TOOK, "computed": seconds})
    assert known.rates("train.py", "range", False).computing.ratio == 1.0
    assert known.rates("train.py", "range", True).computing.ratio == 1.5
    # Others are held up as these were.
    assert known.rates("other.py", "range", True).computing.ratio == 1.5
    learnt.save(tmp_path, known)
    assert learnt.load(tmp_path) == known


def test_scan_that_always_has_workers_side_by_side_says_nothing_of_how_they_hold_up() -> None:
    known = learnt.Learnt()
    usual = known.crowding()
    for seconds in (30.0, 15.0, 11.0, 17.0, 15.0):
        known.worked("train.py", "range", True, PARTS, {**TOOK, "computed": seconds})
    assert known.crowding() == usual
    assert known.rates("train.py", "range", True).computing.ratio == pytest.approx(1.5)
    # What is known of one worker alone and of several is the same but for how others held them up,
    # so that no plan prefers one of them for a replay that had to wait.
    assert known.rates("train.py", "range", False).computing.ratio == pytest.approx(1.5 / usual)


@pytest.mark.parametrize("text", ['{"unknown": 1}', '{"seen": {"setup": 3}}', '{"seen": []}', "["])
def test_damaged_file_of_corrections_is_as_none(tmp_path, text) -> None:
    (tmp_path / "costs.json").write_text(text)
    assert learnt.load(tmp_path) == learnt.Learnt()


def test_replay_is_learnt_from_and_the_plan_shows_the_same_numbers(sandbox, monkeypatch) -> None:
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    sandbox.run("train.py")
    sandbox.write("train.py", SCRIPT.replace(BODY, BODY + '    flor.log("h", w[0])\n'))
    _, before, report = acquire(sandbox, ["h"])
    assert not report.failures
    own = json.loads((sandbox.project.store / "costs.json").read_text())
    assert len(own["seen"]["setup|train.py|validation"]) == 1
    monkeypatch.setenv("FLORDB_PRICE_PER_DEVICE_HOUR", "3600")
    after = plan(sandbox, ["h"])
    (task,) = after.tasks
    rates = learnt.load(sandbox.project.store).rates("train.py", task.scan, False)
    assert task.seconds == task.parts.seconds(rates)
    assert after.seconds == after.start_seconds + task.seconds
    assert after.money == pytest.approx(task.seconds)
    assert before.money is None
    shown = as_json(after)
    assert shown["seconds"] == round(after.seconds, 3)
    assert shown["tasks"][0]["seconds"] == round(task.seconds, 3)
    assert not any("not known" in note for note in task.notes)


def test_statement_that_calls_something_has_an_unknown_time(sandbox) -> None:
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    sandbox.run("train.py")
    after = BODY + '    flor.log("h", sum(x for x in expensive(w)))\n'
    text = SCRIPT.replace(BODY, after).replace("w = [0]", "w = [0]\ndef expensive(x): return x")
    sandbox.write("train.py", text)
    (task,) = plan(sandbox, ["h"]).tasks
    assert any("the statement itself takes is not known" in note for note in task.notes)


def test_what_the_script_does_before_its_first_flor_call_is_set_up(sandbox) -> None:
    sandbox.write("train.py", SCRIPT.replace("w = [0]", "import time\ntime.sleep(0.4)\nw = [0]"))
    sandbox.commit()
    sandbox.run("train.py")
    (path,) = sandbox.run_files()
    found = recorded(read_run(path))
    assert found.setup >= 0.4
    lines = [line for line in read_run(path).lines if line.get("w") == "start"]
    assert found.start == pytest.approx(lines[0]["s"] - lines[0]["setup"])


def test_a_module_that_imports_for_long_is_no_set_up(sandbox) -> None:
    sandbox.write("slow.py", "import time\ntime.sleep(0.25)\nimport colorsys\n")
    sandbox.write("train.py", SCRIPT.replace("w = [0]", "import slow\nw = [0]"))
    sandbox.commit()
    sandbox.run("train.py")
    found = recorded(read_run(sandbox.run_files()[0]))
    assert found.setup < 0.25 < found.start


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not say it of a thread")
def test_time_in_which_memory_is_found_again_and_again_is_no_part_of_the_price(sandbox) -> None:
    # The kernel gives and takes back all pages of a mapping each time.
    find = 'mmap.mmap(-1, 64 << 20).write(b"1" * (64 << 20))'
    text = "import mmap\n" + SCRIPT.replace("w[0] += step", f"{find}; w[0] += step")
    sandbox.write("train.py", text.replace('flor.log("end"', f'{find}; flor.log("end"'))
    sandbox.commit()
    sandbox.run("train.py")
    run = read_run(sandbox.run_files()[0])
    lines = {line.get("w", line.get("l")): line for line in run.lines if "paging" in line}
    assert lines.keys() == {"iteration", "step", "epoch", "rest"}
    assert all(0 < line["paging"] < line["s"] for line in lines.values())
    found = recorded(run)
    loop = found.loops["epoch", 0]
    assert loop.iterations[3] == lines["iteration"]["s"] - lines["iteration"]["paging"]
    assert loop.nested[3][0].seconds == lines["step"]["s"] - lines["step"]["paging"]
    # What a broken-off iteration took is what is left of the whole.
    assert loop.seconds == lines["epoch"]["s"] - lines["epoch"]["paging"]
    assert found.rest == lines["rest"]["s"] - lines["rest"]["paging"]


def test_what_a_warm_server_has_yet_to_import_is_part_of_the_price(sandbox) -> None:
    for script, imports in (("train.py", "json"), ("other.py", "numpy")):
        sandbox.write(script, SCRIPT.replace("w = [0]", f"import {imports}\nw = [0]"))
    sandbox.commit()
    for script in ("train.py", "other.py"):
        sandbox.run(script)
    for script in ("train.py", "other.py"):
        text = (sandbox.root / script).read_text()
        sandbox.write(script, text.replace(BODY, BODY + '    flor.log("h", w[0])\n'))
    pool.close_idle()
    acquire(sandbox, ["h"], number=0)
    assert plan(sandbox, ["h"], number=0).start_seconds == 0.0
    before = plan(sandbox, ["h"], number=1)
    assert before.start_seconds > 0.0
    assert before.seconds == before.start_seconds + before.tasks[0].seconds
    _, _, report = acquire(sandbox, ["h"], number=1)
    assert not report.failures
    assert plan(sandbox, ["h"], number=1).start_seconds == 0.0
    known = learnt.load(sandbox.project.store)
    assert known.imports["numpy"] > 0.0
    # Waiting for imports taught nothing of handing over.
    assert "handing|other.py|validation" not in known.seen
    pool.close_idle()
    acquire(sandbox, ["h"], number=0)
    assert plan(sandbox, ["h"], number=1).start_seconds == known.imports["numpy"]


@pytest.mark.parametrize(
    "text",
    [
        '{"start":["x"]}',
        '{"start":5}',
        '{"start":[null]}',
        '{"start":[1e308,1e308]}',
        '{"imports":{"torch":"x"}}',
        '{"imports":{"torch":-1}}',
        '{"imports":[]}',
        '{"seen":{"computing|train.py|range":[[0.1,-5],[1,1e308]]}}',
        '{"beside":{"computing|train.py|range":[[1,true,3]]}}',
        "[]",
        "null",
        "\x00",
    ],
)
def test_damaged_file_of_what_was_learnt_teaches_nothing(tmp_path, text) -> None:
    (tmp_path / "costs.json").write_text(text)
    assert learnt.load(tmp_path) == learnt.Learnt()
