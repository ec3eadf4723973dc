"""One script, top to bottom: shuffling loader, dropout, batch norm, a scheduler after the loop."""
# unseeded

import random

import flordb as flor
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
lr = flor.arg("lr", 0.02)
X = torch.randn(96, 6)
Y = (X.sum(1) > 0).long()
flor.log("truth:data", X.sum().item())
loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
opt = torch.optim.Adam(net.parameters(), lr=lr)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 8)
loss_of = nn.CrossEntropyLoss()
history = []
best = None
flor.log("truth:before", net[0].weight.sum().item())
with flor.checkpointing(net=net, opt=opt):
    for epoch in flor.loop("epoch", range(5)):
        net.train()
        running = 0.0
        flor.log("truth:first", net[4].bias.sum().item())
        for x, y in flor.loop("step", loader):
            noise = torch.randn_like(x) * 0.05 + float(np.random.rand()) + random.random() * 0.1
            opt.zero_grad()
            loss = loss_of(net(x + noise), y)
            loss.backward()
            opt.step()
            running += loss.item()
            flor.log("truth:step", loss.item())
            flor.log("truth:grad", net[0].weight.grad.norm().item())
        flor.log("truth:stale", running / len(loader))
        flor.log("truth:grads", sum(p.grad.norm().item() for p in net.parameters()))
        sched.step()
        history.append(running)
        if best is None or running < min(history[:-1]):
            best = {k: v.clone() for k, v in net.state_dict().items()}
        flor.log("truth:lr", sched.get_last_lr()[0])
        net.eval()
        with torch.no_grad():
            flor.log("truth:acc", (net(X).argmax(1) == Y).float().mean().item())
flor.log("truth:history", [float(h) for h in history])
flor.log("truth:best", sum(v.double().sum().item() for v in best.values()))
flor.log("truth:last", loss.item() + epoch)
flor.log("truth:random", [random.getstate()[1][7], int(np.random.get_state()[1][7])])
flor.log("truth:torch", torch.get_rng_state().double().cumsum(0).sum().item())
