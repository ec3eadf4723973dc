"""Functions: training and validation loops of their own, early stopping, an averaged copy."""
# unseeded

import copy

import flordb as flor
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
seen = 0


def train(net, opt, loader, total=0.0):
    global seen
    net.train()
    for batch, (x, y) in enumerate(flor.loop("step", loader)):
        loss = nn.functional.mse_loss(net(x).squeeze(1), y) / 2
        loss.backward()
        seen += len(x)
        if batch % 2:
            opt.step()
            opt.zero_grad()
        total += loss.item()
        flor.log("truth:inner", total)
    flor.log("truth:seen", seen)
    return total


def validate(net, loader):
    net.eval()
    errors = []
    with torch.no_grad():
        for x, y in flor.loop("val", loader):
            errors.append((net(x).squeeze(1) - y).abs().mean().item())
            flor.log("truth:error", errors[-1])
    flor.log("truth:validated", sum(errors))
    return sum(errors) / len(errors)


def main():
    data = torch.randn(80, 5)
    target = data.sum(1) + 0.1 * torch.randn(80)
    order = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(data[:60], target[:60]), 10, shuffle=True, generator=order)
    held_out = DataLoader(TensorDataset(data[60:], target[60:]), 10)
    net = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Dropout(0.1), nn.Linear(12, 1))
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    average = copy.deepcopy(net)
    best, patience = float("inf"), 2
    for epoch in flor.loop("epoch", range(30)):
        mean = train(net, opt, loader)
        for a, p in zip(average.parameters(), net.parameters()):
            a.data.mul_(0.9).add_(p.data, alpha=0.1)
        flor.log("truth:mean", mean)
        error = validate(net, held_out)
        flor.log("truth:average", sum(p.sum().item() for p in average.parameters()))
        if error < best:
            best, patience = error, 2
        else:
            patience -= 1
        flor.log("truth:patience", patience)
        if patience == 0 or epoch == 6:
            break
    flor.log("truth:end", [epoch, best, seen])
    flor.log("truth:final", validate(average, held_out))


if __name__ == "__main__":
    main()
