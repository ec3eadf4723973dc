"""Hooks that a loop registers, and views, are in no snapshot: what depends on them is run."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch

from tests.record.test_snapshots import Kept
from tests.replay.support import acquire, recorded_truths, with_hindsight

TRAIN = """\
import flordb as flor, torch
torch.manual_seed(0)
net = torch.nn.Linear(4, 4)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
x = torch.randn(8, 4)
found = {}
names = found.keys()
for epoch in flor.loop("epoch", range(5)):
    if epoch == 1:
        doubling = net.register_forward_hook(lambda module, given, out: out * 2)
    if epoch == 3:
        doubling.remove()
    adding = [net.register_forward_pre_hook(lambda module, given: (given[0] + 1,))]
    for step in flor.loop("step", range(2)):
        opt.zero_grad()
        net(x).pow(2).mean().backward()
        opt.step()
    for handle in adding:
        handle.remove()
    found[f"epoch {epoch}"] = epoch
    flor.log("epoch_done", epoch)
    flor.log("truth:out", net(x).sum().item())
    flor.log("truth:count", len(names))
"""


@pytest.mark.parametrize("iterations", [None, (2,), (4,)])
def test_replay_has_the_hooks_and_views_of_the_run(sandbox, iterations) -> None:
    sandbox.write("train.py", TRAIN)
    sandbox.run("train.py")
    sandbox.write("train.py", with_hindsight(TRAIN))
    values, _, _ = acquire(sandbox, ["h:out", "h:count"], iterations)
    truth = recorded_truths(sandbox, "out", 0) | recorded_truths(sandbox, "count", 0)
    got = {key: found for key, found in values.items() if key[1] in ("h:out", "h:count")}
    assert len(got) >= 2 * len(iterations or range(5))
    assert got == {key: truth[key] for key in got}


def test_snapshot_names_what_has_other_hooks_than_the_set_up(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(1, 1))
    first = net[0].register_forward_hook(lambda *_: None)
    kept = Kept(tmp_path)
    kept.take("epoch@enter", net=net)
    kept.take("epoch=0@end", net=net)
    second = net[0].weight.register_hook(lambda grad: grad)
    kept.take("epoch=1@end", net=net)
    second.remove()
    kept.take("epoch=2@end", net=net)
    first.remove()
    kept.take("epoch=3@end", net=net)
    everywhere = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    net[0].register_forward_hook(lambda *_: None)
    kept.take("epoch=4@end", net=net)
    everywhere.remove()
    kept.take("more@enter", net=net)
    kept.take("more=0@end", net=net)
    kept.done()
    found = [bool(kept.manifest(f"epoch={epoch}@end").missing) for epoch in range(5)]
    assert found == [False, True, False, True, True]
    assert kept.manifest("more=0@end").missing  # what the first loop left is not there, either


@pytest.mark.parametrize(
    "view",
    [memoryview(b"a"), {"a": 1}.keys(), {"a": 1}.items(), types.MappingProxyType({"a": 1})],
    ids=lambda view: type(view).__name__,
)
def test_views_of_other_objects_are_not_kept_as_copies(tmp_path: Path, view: object) -> None:
    kept = Kept(tmp_path)
    kept.take(view=view)
    kept.done()
    assert "would look at a copy" in kept.manifest().missing["view"]
