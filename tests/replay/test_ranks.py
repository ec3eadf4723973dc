"""Trainings that were started by ``torchrun``."""

from __future__ import annotations

import warnings

import pytest

import flordb
from flordb.errors import FlorWarning

SCRIPT = """
import flordb as flor, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group("gloo")
torch.manual_seed(0)
net = DistributedDataParallel(torch.nn.Linear(3, 1))
opt = torch.optim.SGD(net.parameters(), lr=0.1)
for epoch in flor.loop("epoch", range(2)):
    loss = net(torch.randn(4, 3)).square().mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    flor.log("loss", loss.item())
dist.destroy_process_group()
"""
LAUNCH = """
import sys
from torch.distributed.run import main
main(["--standalone", "--nproc-per-node", sys.argv[1], "train.py"])
"""


@pytest.mark.parametrize("count", [1, 2])
def test_one_process_is_replayed_and_one_of_several_is_refused(sandbox, count) -> None:
    sandbox.write("train.py", SCRIPT)
    sandbox.write("launch.py", LAUNCH)
    sandbox.commit()
    sandbox.run("launch.py", str(count))
    log = '    flor.log("loss"'
    sandbox.write("train.py", SCRIPT.replace(log, f'    flor.log("h", loss.item())\n{log}'))
    with flordb.connect(sandbox.root) as connection, warnings.catch_warnings():
        warnings.simplefilter("ignore", FlorWarning)  # of what is refused
        rows = connection.execute("SELECT h, loss FROM flor").fetchall()
        reasons = [r for (r,) in connection.execute("SELECT reason FROM acquisitions").fetchall()]
    if count == 1:
        assert len(rows) == 2
        assert all(found == logged for found, logged in rows)
    else:
        assert len(rows) == 4
        assert all(found is None for found, _ in rows)
        assert any(reason.startswith("2 processes trained together") for reason in reasons)
