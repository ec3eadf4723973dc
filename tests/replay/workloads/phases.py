"""Several phases: frozen layers, new heads and optimizers made in the loop, groups added."""

import flordb as flor
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(14)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        return self.head(self.body(x))


net = Net()
X = torch.randn(30, 4)
for p in net.body.parameters():
    p.requires_grad_(False)
opt = torch.optim.SGD(net.head.parameters(), lr=0.05)
frozen = True


def step(x):
    loss = (net(x) - x.sum(1, keepdim=True)).pow(2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss.item()


flor.log("truth:before", sum(p.requires_grad for p in net.parameters()))
for warm in flor.loop("warm", range(2)):
    loss = step(X)
    flor.log("truth:warm", loss)
flor.log("truth:between", [net.head.weight.sum().item(), frozen])
for epoch in flor.loop("epoch", range(5)):
    if epoch == 1:
        for p in net.body.parameters():
            p.requires_grad_(True)
        opt.add_param_group({"params": list(net.body.parameters()), "lr": 0.01})
        frozen = False
    if epoch == 3:
        net.head = nn.Linear(6, 1)
        opt = torch.optim.Adam(net.parameters(), lr=0.02)
    flor.log("truth:groups", [len(opt.param_groups), type(opt).__name__, net.head.weight.sum().item()])
    for i in flor.loop("step", range(0, 30, 10)):
        loss = step(X[i : i + 10])
        flor.log("truth:loss", loss)
    flor.log("truth:trainable", sum(p.requires_grad for p in net.parameters()))
    flor.log("truth:body", net.body[0].weight.sum().item())
    flor.log("truth:points", all(any(q is p for g in opt.param_groups for q in g["params"]) for p in net.head.parameters()))
flor.log("truth:after", [net.head.bias.item(), frozen, loss])
for test in flor.loop("test", range(0, 30, 15)):
    with torch.no_grad():
        flor.log("truth:test", net(X[test : test + 15]).mean().item())
flor.log("truth:end", [opt.param_groups[0]["lr"], i, test])
