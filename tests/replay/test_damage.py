"""Snapshots that are damaged, gone, or in storage that cannot be reached: no wrong value, and what
can be had otherwise is had."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from flordb.store import retention
from flordb.store.objects import ObjectStore
from flordb.store.snapshots import SnapshotStore
from tests.replay.support import acquire, recorded_truths, with_hindsight

TRAIN = """\
import os, flordb as flor, torch
torch.manual_seed(7)
w = torch.rand(400_000) + int(os.environ.get("SHIFT", 0))
with flor.checkpointing(w=w):
    for epoch in flor.loop("epoch", range(4)):
        for step in flor.loop("step", range(2)):
            w += torch.rand(400_000)
        flor.log("w", w[0].item())
        flor.log("truth:w", w[1].item())
"""


@pytest.fixture
def trained(sandbox):
    sandbox.write("train.py", TRAIN)
    sandbox.run("train.py")
    sandbox.write("train.py", with_hindsight(TRAIN))
    return sandbox


def had(sandbox) -> tuple[int, str]:
    """How many values a replay gives, each of which must be the run's; and why no more."""
    values, _, report = acquire(sandbox, ["h:w"])
    truth = recorded_truths(sandbox, "w", 0)
    for key, found in values.items():
        assert key[1] != "h:w" or found == truth[key]
    return report.acquired, " ".join(failure.reason for failure in report.failures)


def damage(sandbox, boundary: str) -> None:
    """Flip a bit in each object that only this snapshot needs."""
    (folder,) = sandbox.project.snapshots.iterdir()
    store, objects = SnapshotStore(folder), ObjectStore(sandbox.project.objects)
    others = [store.load(b).objects for b in store.boundaries() if b != boundary]
    own = store.load(boundary).objects.difference(*others)
    assert own
    for name in own:
        data = bytearray(objects.path(name).read_bytes())
        data[len(data) // 2] ^= 16
        objects.path(name).write_bytes(data)


def test_replays_do_without_a_damaged_snapshot_once_one_met_it(trained) -> None:
    damage(trained, "epoch=2/step@exit")
    count, why = had(trained)
    assert count < 4
    assert "damaged" in why
    assert "tried again" in why
    assert had(trained) == (4, "")
    trained.write("train.py", TRAIN)
    trained.run("train.py")  # which writes anew what was found damaged
    objects = ObjectStore(trained.project.objects)
    for folder in trained.project.snapshots.iterdir():
        store = SnapshotStore(folder)
        for boundary in store.boundaries():
            assert all(objects.get(name) for name in store.load(boundary).objects)


def test_damaged_beginning_gives_no_value_but_the_reason(trained) -> None:
    damage(trained, "epoch@enter")
    count, why = had(trained)
    assert count == 0
    assert "epoch@enter cannot be used" in why
    assert "tried again" not in why


def test_what_is_lost_of_a_beginning_is_not_taken_from_the_set_up(trained) -> None:
    source = (trained.root / "train.py").read_text()
    trained.write("train.py", TRAIN)
    trained.run("train.py", SHIFT="1")  # a set-up that a replay, without SHIFT, does not repeat
    trained.write("train.py", source)
    folder = sorted(trained.project.snapshots.iterdir())[-1]
    objects = ObjectStore(trained.project.objects)
    for block in SnapshotStore(folder).load("epoch@enter").blocks:
        objects.path(block.object).unlink(missing_ok=True)
    values, _, report = acquire(trained, ["h:w"])
    assert not [key for key in values if key[1] == "h:w"]
    assert "epoch@enter cannot be used" in report.failures[0].reason


def test_storage_that_cannot_be_reached_is_asked_again_by_the_next_query(trained) -> None:
    bucket = Path(trained.root).parent / "bucket"
    retention.move(trained.project, f"file://{bucket}", 0, dry_run=False)
    os.rename(bucket, f"{bucket}.away")
    count, why = had(trained)
    assert count == 0
    assert "cannot be read" in why
    assert "tried again" in why
    shutil.move(f"{bucket}.away", bucket)
    assert had(trained) == (4, "")
    shutil.rmtree(bucket)  # what was needed is in the store again
    trained.write("train.py", with_hindsight(TRAIN).replace("h:w", "again"))
    _, _, report = acquire(trained, ["again"])
    assert report.acquired == 4


def test_replay_that_found_no_room_is_tried_again_by_the_next_query(sandbox, monkeypatch) -> None:
    full = "if os.environ.get('FULL'): raise OSError(28, 'No space left on device', 'x.pt')\n"
    text = TRAIN.replace("with flor", f"{full}with flor")
    sandbox.write("train.py", text)
    sandbox.run("train.py")
    sandbox.write("train.py", with_hindsight(text))
    monkeypatch.setenv("FULL", "1")
    count, why = had(sandbox)
    assert count == 0
    assert "No space left on device: 'x.pt'" in why
    assert "tried again" in why
    monkeypatch.delenv("FULL")
    assert had(sandbox) == (4, "")
