"""State in corners: hooks, closures, defaults, function and class attributes, caches, partials."""

from functools import partial

import corners_lib as lib
import flordb as flor
import torch
from corners_lib import Tracked, scale

torch.set_num_threads(1)
torch.manual_seed(10)


def counter():
    count = 0

    def up(by=1):
        nonlocal count
        count += by
        return count

    return up


class Callback:
    def __init__(self):
        self.seen = []

    def __call__(self, value):
        self.seen.append(value)


activations = []
gradients = []
up = counter()
by_two = partial(up, 2)
net = Tracked()
net.register_forward_hook(lambda m, i, o: activations.append(o.mean().item()))
net.lin.weight.register_hook(lambda g: gradients.append(g.norm().item()))
opt = torch.optim.SGD(net.parameters(), lr=0.1)
temperature = {"now": 1.0}
sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda e: temperature["now"] / (1 + e))
callbacks = [Callback()]
x = torch.randn(6, 3)


def train(opt, tally={}):  # noqa: B006 (state in a default is the point)
    for i in flor.loop("step", range(6)):
        loss = scale(net(x[i])).pow(2).sum()
        opt.zero_grad()
        loss.backward()
        opt.step()
        by_two()
        lib.slow(i % 3)
        lib.remember(i, loss.item())
        tally[i] = tally.get(i, 0) + loss.item()
        for callback in callbacks:
            callback(loss.item())
        flor.log("truth:hooked", [len(activations), activations[-1], gradients[-1]])
        flor.log("truth:scaled", [lib.calls["scale"], scale.times, Tracked.forwards])
    return tally


for epoch in flor.loop("epoch", range(3)):
    flor.log("truth:start", [len(activations), Tracked.forwards, len(lib.registry)])
    tally = train(opt)
    temperature["now"] *= 0.7
    sched.step()
    flor.log("truth:count", up(0))
    flor.log("truth:activations", sum(activations))
    flor.log("truth:tally", sorted(tally.items()))
    flor.log("truth:rate", sched.get_last_lr()[0])
    flor.log("truth:times", scale.times)
    flor.log("truth:defaults", len(scale.__defaults__[0]))
    flor.log("truth:cache", sorted(lib._cache.items()))
flor.log("truth:end", [sum(activations), sum(gradients), up(0), Tracked.forwards, Tracked.made])
flor.log("truth:called", [len(callbacks[0].seen), lib.registry, lib.slow.cache_info().hits])
flor.log("truth:seen", len(train.__defaults__[0]))
