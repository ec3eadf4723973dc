"""One loop entered again and again: a search over learning rates, then folds."""

import flordb as flor
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(12)
X = torch.randn(24, 4)


def train(lr, epochs):
    net = nn.Linear(4, 1)
    opt = torch.optim.SGD(net.parameters(), lr=lr)
    flor.log("truth:begin", net.weight.sum().item())
    for epoch in flor.loop("epoch", range(epochs)):
        for i in flor.loop("step", range(4)):
            x = X[torch.randint(0, 24, (6,))]
            loss = (net(x) - x.sum(1, keepdim=True)).pow(2).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            flor.log("truth:loss", loss.item())
        flor.log("truth:weight", net.weight.sum().item())
    flor.log("truth:trained", [lr, loss.item()])
    return net


results = {}
for lr in (0.01, 0.05, 0.1):
    net = train(lr, 2 + int(lr * 20))
    results[lr] = net(X).mean().item()
    flor.log("truth:result", results[lr])
best = max(results, key=results.get)
flor.log("truth:best", [best, sorted(results.items())])
for fold in flor.loop("fold", range(3)):
    mean = 0.0
    for part in range(2):
        for i in flor.loop("inner", range(3)):
            mean += torch.rand(()).item()
            flor.log("truth:inner", mean)
        flor.log("truth:part", mean)
    flor.log("truth:fold", mean)
flor.log("truth:final", mean)
