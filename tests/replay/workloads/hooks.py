"""Counters that functions change which only hooks, callbacks and generators call."""

import flordb as flor
import torch
from torch import nn
from torch.utils.data import DataLoader


torch.set_num_threads(1)
torch.manual_seed(21)
outputs = gradients = weights = steps = rates = batches = drawn = squares = 0
order = []


def of_output(size):
    global outputs
    outputs += size


def of_gradient(size):
    global gradients
    gradients += size


def of_weight(size):
    global weights
    weights += size


def of_step(count):
    global steps
    steps += count


def of_rate(epoch):
    global rates
    rates += 1
    order.append(epoch)
    return 0.9**epoch


def of_batch(items):
    global batches
    batches += len(items)


def of_draw():
    global drawn
    drawn += 1


def of_square(value):
    global squares
    squares += 1
    return value**2


def count(size):
    of_output(size)


def after_forward(module, inputs, output):
    count(output.numel())


def collate(items):
    of_batch(items)
    return torch.stack(items)


def numbers():
    while True:
        of_draw()
        yield torch.rand(()).item()


class Watch:
    def __init__(self, net):
        self.seen = 0
        net.register_forward_hook(self.note)

    def note(self, module, inputs, output):
        self.more()

    def more(self):
        self.seen += 1


net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
watch = Watch(net)
net[0].register_forward_hook(after_forward)
net[2].register_full_backward_hook(lambda module, inputs, outputs: of_gradient(1))
net[0].weight.register_hook(lambda grad: of_weight(1))
opt = torch.optim.SGD(net.parameters(), lr=0.1)
opt.register_step_post_hook(lambda *given: of_step(1))
sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda epoch: of_rate(epoch))
points = [torch.full((4,), float(i)) for i in range(12)]
loader = DataLoader(points, 4, shuffle=True, collate_fn=collate)
draws = numbers()
lazy = (of_square(value) for value in range(1000))
for epoch in flor.loop("epoch", range(4)):
    for x in flor.loop("step", loader):
        loss = net(x * next(draws)).pow(2).mean() / 50
        opt.zero_grad()
        loss.backward()
        opt.step()
    next(lazy)
    sched.step()
    flor.log("truth:outputs", outputs)
    flor.log("truth:gradients", gradients)
    flor.log("truth:weights", weights)
    flor.log("truth:steps", steps)
    flor.log("truth:rates", [rates, order])
    flor.log("truth:batches", batches)
    flor.log("truth:drawn", drawn)
    flor.log("truth:squares", squares)
    flor.log("truth:watched", watch.seen)
flor.log("truth:all", [outputs, gradients, weights, steps, rates, batches, drawn, squares])
flor.log("truth:last", [batches, loss.item()])
flor.log("truth:seen", watch.seen)
