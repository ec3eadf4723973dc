"""Loops that are generators, a while loop with flor.iteration, schedules by generators."""

import itertools

import flordb as flor
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(8)


def schedule():
    rate = 0.1
    while True:
        yield rate
        rate *= 0.9


def batches(x, size):
    order = torch.randperm(len(x))
    for start in range(0, len(x), size):
        yield x[order[start : start + size]]


class Trainer:
    step = 0

    def __init__(self, net):
        self.net = net
        self.opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        self.seen = []

    def epochs(self, count):
        for epoch in flor.loop("epoch", range(count)):
            yield epoch
            self.seen.append(epoch)

    def fit(self, x):
        for batch in flor.loop("batch", batches(x, 8)):
            Trainer.step += 1
            loss = (self.net(batch) - batch).pow(2).mean()
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()
            flor.log("truth:step", [Trainer.step, loss.item()])
        return loss.item()


x = torch.randn(40, 3)
trainer = Trainer(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)))
rates = schedule()
pairs = itertools.cycle(["a", "b", "c"])
last = None
for epoch in trainer.epochs(5):
    for group in trainer.opt.param_groups:
        group["lr"] = next(rates)
    last = trainer.fit(x)
    tag = next(pairs)
    flor.log("last", last)
    flor.log("truth:tag", [tag, trainer.opt.param_groups[0]["lr"]])
    flor.log("truth:count", [Trainer.step, trainer.seen])
flor.log("truth:after", [last, Trainer.step, trainer.seen, next(pairs)])

error, turn = float("inf"), 0
weights = torch.zeros(3, requires_grad=True)
while error > 0.02 and turn < 9:
    with flor.iteration("turn", None, turn):
        guess = (x * weights).sum(1)
        loss = (guess - x.sum(1)).pow(2).mean()
        (grad,) = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            weights -= 0.2 * grad
        error = loss.item()
        turn += 1
        flor.log("error", error)
        flor.log("truth:guess", [turn, guess.sum().item()])
flor.log("truth:turns", [turn, weights.tolist()])
