"""Shuffling loaders with workers and a generator, augmentation from three libraries, dropout."""

import random

import flordb as flor
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
random.seed(4)
np.random.seed(5)
torch.manual_seed(6)


class Augmented(Dataset):
    def __init__(self, n):
        self.x = torch.randn(n, 5)
        self.y = self.x.sum(1)
        self.served = 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        self.served += 1
        noise = random.gauss(0, 0.1) + np.random.normal(0, 0.1) + torch.randn(()) * 0.1
        return self.x[i] + noise, self.y[i]


def seed_worker(number):
    np.random.seed(torch.initial_seed() % 2**32)


def main():
    data = Augmented(48)
    order = torch.Generator().manual_seed(7)
    split = DataLoader(
        data, 8, shuffle=True, num_workers=2, worker_init_fn=seed_worker, generator=order
    )
    here = DataLoader(data, 12, shuffle=True)
    net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 1))
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    flor.log("truth:before", order.initial_seed() + net[0].weight.sum().item())
    losses = []
    for epoch in flor.loop("epoch", range(4)):
        flor.log("truth:start", data.x[epoch].tolist())
        flor.log("truth:state", torch.get_rng_state().double().cumsum(0).sum().item())
        for i, (x, y) in enumerate(flor.loop("step", split)):
            opt.zero_grad()
            loss = (net(x).squeeze(1) - y).pow(2).mean()
            loss.backward()
            opt.step()
            flor.log("truth:step", [i, loss.item(), x.sum().item()])
        for x, y in flor.loop("again", here):
            opt.zero_grad()
            loss = (net(x).squeeze(1) - y).abs().mean()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            flor.log("truth:again", [losses[-1], data.served, np.random.get_state()[2]])
        flor.log("truth:served", data.served)
        flor.log("truth:mean", sum(losses) / len(losses))
        flor.log("truth:order", order.get_state().double().cumsum(0).sum().item())
    flor.log("truth:end", [losses, data.served, x.sum().item(), random.getstate()[1][3]])


if __name__ == "__main__":
    main()
