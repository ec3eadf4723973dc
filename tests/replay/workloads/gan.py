"""Two networks and two optimizers; iterators and generators kept in variables."""

import itertools

import flordb as flor
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(3)


def ramp(start):
    value = start
    while True:
        value = value * 0.95 + torch.rand(()).item() * 0.01
        yield value


gen = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Linear(8, 2))
dis = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
opt_g = torch.optim.Adam(gen.parameters(), lr=0.01, betas=(0.5, 0.9))
opt_d = torch.optim.Adam(dis.parameters(), lr=0.01, betas=(0.5, 0.9))
real = DataLoader(TensorDataset(torch.randn(40, 2) + 2), 8, shuffle=True)
fixed = torch.randn(6, 2)
weights = ramp(1.0)
numbers = itertools.count(10, 3)
bce = nn.BCEWithLogitsLoss()
flor.log("truth:fixed", fixed.sum().item())
for epoch in flor.loop("epoch", range(4)):
    it = iter(real)
    flor.log("truth:entry", gen(fixed).mean().item())
    for step in flor.loop("step", range(5)):
        (x,) = next(it)
        noise = torch.randn(len(x), 2)
        loss_d = bce(dis(x), torch.ones(len(x), 1)) + bce(dis(gen(noise).detach()), torch.zeros(len(x), 1))
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
        loss_g = bce(dis(gen(noise)), torch.ones(len(x), 1))
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()
        flor.log("truth:both", [loss_d.item(), loss_g.item(), x.sum().item()])
    weight = next(weights)
    number = next(numbers)
    flor.log("truth:weight", [weight, number])
    flor.log("truth:image", (gen(fixed) * weight).sum().item())
    flor.log("truth:dropout", dis.training)
flor.log("truth:last", [next(numbers), loss_d.item(), dis[0].bias.sum().item()])
flor.log("truth:grads", [p.grad.norm().item() for p in gen.parameters()])
