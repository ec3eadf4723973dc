"""Callbacks and observers that a library holds: nothing in the loop names what they change."""

import functools
import operator

import flordb as flor
import pluggy
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(41)
hook = pluggy.HookimplMarker("trainer")
spec = pluggy.HookspecMarker("trainer")


class Spec:
    @spec
    def on_epoch_end(self, epoch, loss):
        """An epoch has ended."""


class History:
    def __init__(self):
        self.losses, self.best = [], None

    @hook
    def on_epoch_end(self, epoch, loss):
        self.losses.append(loss)
        self.best = loss if self.best is None else min(self.best, loss)
        flor.log("truth:inside", [epoch, self.best, len(self.losses)])


class Ema:
    def __init__(self, net):
        self.net, self.updates = net, 0
        self.shadow = {name: value.clone() for name, value in net.state_dict().items()}

    @hook
    def on_epoch_end(self, epoch):
        self.updates += 1
        for name, value in self.net.state_dict().items():
            self.shadow[name].mul_(0.5).add_(value, alpha=0.5)

    def state_dict(self):  # does not say how often
        return self.shadow

    def load_state_dict(self, state):
        self.shadow.update(state)


class Total:
    def __init__(self):
        self.sum, self.seen = 0.0, []

    def add(self, value):
        self.sum += value
        self.seen.append(round(value, 4))


def deep(function):
    return lambda value: function(value)


def fit(trainer, net, opt):
    for epoch in flor.loop("epoch", range(4)):
        for _ in flor.loop("step", range(3)):
            loss = (net(torch.randn(4, 2)) - 1).pow(2).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            flor.log("truth:loss", loss.item())
        flor.log("truth:first", [len(history.losses), ema.updates])
        trainer.hook.on_epoch_end(epoch=epoch, loss=loss.item())
        for call in calls.values():
            call(loss.item())
        push(epoch)
        enter(f"e{epoch}", epoch)
        flor.log("truth:ema", ema.shadow["weight"].sum().item())
        flor.log("truth:sums", [bound.sum, given.sum, closed.sum, called.sum])


flor.log("truth:before", torch.initial_seed())
net = nn.Linear(2, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
trainer = pluggy.PluginManager("trainer")
trainer.add_hookspecs(Spec)
history, ema = History(), Ema(net)
trainer.register(history)
trainer.register(ema)
bound, given, closed, called = Total(), Total(), Total(), Total()
calls = {
    "bound": bound.add,
    "given": functools.partial(Total.add, given),
    "closed": deep(deep(closed.add)),
}
calls["called"] = lambda value: operator.methodcaller("add", value)(called)
epochs, table = [], {}
push, enter = epochs.append, table.__setitem__
fit(trainer, net, opt)
flor.log("truth:history", history.losses)
flor.log("truth:best", history.best)
flor.log("truth:shadow", [ema.updates, ema.shadow["weight"].sum().item()])
flor.log("truth:bound", bound.seen)
flor.log("truth:given", given.seen)
flor.log("truth:closed", closed.seen)
flor.log("truth:called", called.seen)
flor.log("truth:pushed", [epochs, table])
