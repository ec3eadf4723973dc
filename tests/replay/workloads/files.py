"""Checkpoints of the user's own: written in the loop, read after it and in it."""

import json
import os

import flordb as flor
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(flor.arg("seed", 13))
os.makedirs("out", exist_ok=True)
net = nn.Linear(4, 1)
opt = torch.optim.Adam(net.parameters(), lr=0.1)
X = torch.randn(20, 4)
best = float("inf")
flor.log("truth:before", net.weight.sum().item())
for epoch in flor.loop("epoch", range(4)):
    for i in flor.loop("step", range(5)):
        loss = (net(X[i * 4 : i * 4 + 4]) - 1).pow(2).mean() + torch.rand(()) * 0.1
        opt.zero_grad()
        loss.backward()
        opt.step()
        flor.log("truth:step", loss.item())
    if loss.item() < best:
        best = loss.item()
        torch.save(net.state_dict(), "out/best.pt")
    with open("out/log.json", "w") as file:
        json.dump({"epoch": epoch, "loss": loss.item()}, file)
    flor.log("truth:epoch", json.load(open("out/log.json"))["loss"])
    flor.log("truth:best", best)
kept = torch.load("out/best.pt")
flor.log("truth:kept", kept["weight"].sum().item())
net.load_state_dict(kept)
flor.log("truth:test", net(X).mean().item())
