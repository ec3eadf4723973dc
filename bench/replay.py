"""What replays take, side by side with running the whole script again; and the estimates.

Records a small torch training, then times each scan through planner and worker pool, with the
time that it was estimated to take.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import flordb

SCRIPT = """
import flordb as flor
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(flor.arg("seed", 1))
X = torch.randn(4000, 256)
Y = (X.sum(1) > 0).long()
net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))
opt = torch.optim.Adam(net.parameters())
with flor.checkpointing(net=net, opt=opt):
    for epoch in flor.loop("epoch", range(16)):
        for step in flor.loop("step", range(0, 4000, 20)):
            loss = nn.functional.cross_entropy(net(X[step : step + 20]), Y[step : step + 20])
            opt.zero_grad()
            loss.backward()
            opt.step()
        flor.log("loss", loss.item())
flor.log("end", loss.item())
"""
SCANS = {
    "suffix": ('flor.log("end", loss.item())\n', 'flor.log("h_s", loss.item())\n', ""),
    "validation": (
        '        flor.log("loss", loss.item())\n',
        '        flor.log("h_v", loss.item())\n',
        "",
    ),
    "range of 1": (
        "            opt.step()\n",
        '            flor.log("h_r", loss.item())\n',
        " WHERE epoch = 9",
    ),
    "range of all": (
        "            opt.step()\n",
        '            flor.log("h_a", loss.item())\n',
        "",
    ),
}


def main() -> None:
    """Record, replay, print."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.chdir(root)
        subprocess.run(["git", "init", "--quiet"], check=True)
        script = root / "train.py"
        script.write_text(SCRIPT)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "train.py"], env={**os.environ, "FLORDB_EPSILON": "1"}, check=True
        )
        whole = time.perf_counter() - began
        print(f"{'the whole run':14} {whole:6.2f} s")
        for name, (after, line, where) in SCANS.items():
            script.write_text(SCRIPT.replace(after, after + line))
            column = line.split('"')[1]
            with flordb.connect(acquire="always") as connection:
                query = f"SELECT {column} FROM flor{where}"
                estimate = connection.plan(query).seconds
                began = time.perf_counter()
                rows = len(connection.execute(query).fetchall())
                seconds = time.perf_counter() - began
            print(
                f"{name:14} {seconds:6.2f} s  {whole / seconds:5.1f} x faster  "
                f"estimated {estimate:5.2f} s  {rows} rows"
            )


if __name__ == "__main__":
    main()
