"""State in classes of many makings: slots, containers' subclasses, records, enums, own optimizers,
iterators; names that part company in the loop."""

import argparse
import collections
import enum
import itertools
import os
import random
import types
from typing import NamedTuple

import flordb as flor
import torch

torch.set_num_threads(1)
torch.manual_seed(42)


class Meter(dict):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def up(self, key, value):
        self[key] = self.get(key, 0) + value
        self.calls += 1


class Recent(collections.deque):
    pass


class Ordered(collections.OrderedDict):
    pass


class Slots:
    __slots__ = ("__weakref__", "items", "n")

    def __init__(self):
        self.n, self.items = 0, []

    def up(self):
        self.n += 1
        self.items.append(self.n)


class Both(Slots):
    def __init__(self):
        super().__init__()
        self.more = 0


class Mode(enum.Enum):
    WARM = "w"
    FULL = "f"


class State(NamedTuple):
    net: torch.nn.Module
    slots: Slots


class Dice(random.Random):
    thrown = 0

    def throw(self):
        self.thrown += 1
        return self.randrange(6)


class Skipping(torch.optim.SGD):
    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.steps = []

    def step(self, closure=None):
        self.steps.append(len(self.steps) % 2)
        return super().step(closure) if self.steps[-1] else None


class Stopper:
    def __init__(self):
        self.best, self.bad, self.history = 1e9, 0, []

    def step(self, value):
        self.history.append(value)
        self.bad = 0 if value < self.best else self.bad + 1
        self.best = min(self.best, value)

    def state_dict(self):
        return {"best": self.best}

    def load_state_dict(self, state):
        self.best = state["best"]


net = torch.nn.Linear(2, 1)
opt = Skipping(net.parameters())
meter, recent, ordered, both, dice, stopper = Meter(), Recent(maxlen=2), Ordered(), Both(), Dice(3), Stopper()
state = State(net, Slots())
space = types.SimpleNamespace(slots=Slots(), args=argparse.Namespace(rate=0.1, users=collections.UserDict(a=Slots())))
slots, held, user = space.slots, state.slots, space.args.users["a"]
names, numbers = itertools.cycle("abc"), iter(range(100))
mode, history, weights = Mode.WARM, [], torch.zeros(2)
best, before = history, weights
os.environ["HOLDERS_EPOCH"] = "none"
counted = 0
for epoch in flor.loop("epoch", range(4)):
    for step in flor.loop("step", range(3)):
        loss = (state.net(torch.randn(4, 2)) - 1).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        meter.up(step % 2, epoch)
        recent.append(step + epoch)
        ordered[(step + epoch) % 4] = step
        ordered.move_to_end((step + epoch) % 4, last=False)
        for each in (both, space.slots, state.slots, space.args.users["a"]):
            each.up()
        both.more += 2
        mode = Mode.FULL if (step + epoch) % 2 else Mode.WARM
        before = weights.clone()
        weights += 1
        last = [next(names), next(numbers), dice.throw()]
        globals()["counted"] += 1
    best = list(history)
    history.append(epoch)
    stopper.step(loss.item())
    space.args.rate *= 0.5
    os.environ["HOLDERS_EPOCH"] = str(epoch)
    flor.log("truth:meter", [dict(meter), meter.calls, list(recent), list(ordered.items())])
    flor.log("truth:slots", [both.n, both.more, slots.items, held.n, user.items])
    flor.log("truth:names", [best, history, before.tolist(), weights.tolist()])
    flor.log("truth:mode", [mode.name, Mode.WARM.name, Mode.WARM.value, mode is Mode.FULL])
    flor.log("truth:last", [last, dice.thrown, counted])
    flor.log("truth:opt", [opt.steps, net.weight.sum().item()])
    flor.log("truth:stop", [stopper.bad, stopper.best])
    flor.log("truth:env", os.environ["HOLDERS_EPOCH"])
flor.log("truth:xmeter", [dict(meter), meter.calls, list(recent), list(ordered.items())])
flor.log("truth:xslots", [both.n, both.more, slots.items, held.n, user.items])
flor.log("truth:xsame", [space.slots is slots, state.slots is held, best is history])
flor.log("truth:xnames", [best, history, before.tolist(), weights.tolist()])
flor.log("truth:xmode", [mode.name, Mode.WARM.name, Mode.WARM.value, mode is Mode.FULL])
flor.log("truth:xnext", [next(names), next(numbers), counted])
flor.log("truth:xopt", [opt.steps, stopper.history, stopper.bad])
flor.log("truth:xenv", [os.environ["HOLDERS_EPOCH"], space.args.rate, dice.thrown])
