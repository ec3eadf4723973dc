"""The script's own resuming: it looks for a checkpoint and a cache of its own, which the run made."""

import json
import os
import pathlib

import flordb as flor
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(flor.arg("seed", 43))
out = pathlib.Path("out")
out.mkdir(exist_ok=True)
net = nn.Linear(2, 1)
opt = torch.optim.Adam(net.parameters(), lr=0.1)
start, history = 0, []
if os.path.exists("out/resumes.pt"):
    found = torch.load("out/resumes.pt")
    net.load_state_dict(found["net"])
    opt.load_state_dict(found["opt"])
    start, history = found["epoch"] + 1, found["history"]
try:
    runs = json.loads((out / "resumes.json").read_text())
except FileNotFoundError:
    runs = 0
(out / "resumes.json").write_text(json.dumps(runs + 1))
flor.log("truth:start", [start, runs])
for epoch in flor.loop("epoch", range(start, 4)):
    for _ in flor.loop("step", range(3)):
        loss = (net(torch.randn(4, 2)) - 1).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        flor.log("truth:loss", loss.item())
    history.append(loss.item())
    state = {"net": net.state_dict(), "opt": opt.state_dict(), "epoch": epoch, "history": history}
    torch.save(state, "out/resumes.pt")
    with open("out/resumes.csv", "a") as file:
        file.write(f"{epoch},{loss.item()}\n")
    flor.log("truth:epoch", [runs, net.weight.sum().item(), len(history)])
    flor.log("truth:lines", len((out / "resumes.csv").read_text().splitlines()))
flor.log("truth:end", [start, history])
flor.log("truth:kept", len((out / "resumes.csv").read_text().splitlines()))
