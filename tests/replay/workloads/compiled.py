"""A compiled module, a wrapper around items as tqdm's, meters, averaged weights in a dict."""

import flordb as flor
import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(3)
np.random.seed(3)


class Meter:
    def __init__(self):
        self.reset()

    def reset(self):
        self.total, self.count = 0.0, 0

    def update(self, value, n=1):
        self.total += value * n
        self.count += n

    @property
    def mean(self):
        return self.total / max(1, self.count)


class Progress:
    """Wraps an iterable as tqdm does."""

    def __init__(self, items):
        self.items = items
        self.done = 0

    def __iter__(self):
        for item in self.items:
            yield item
            self.done += 1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 8)
        self.b = nn.Linear(8, 1)
        self.seen = 0

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


net = Net()
fast = torch.compile(net, backend="eager")
opt = torch.optim.AdamW(fast.parameters(), lr=0.01)
sched = torch.optim.lr_scheduler.OneCycleLR(opt, 0.05, total_steps=24)
x = torch.randn(30, 5)
y = x.sum(1, keepdim=True)
meters = {"train": Meter(), "val": Meter()}
metrics = {}
ema = {k: v.clone() for k, v in net.state_dict().items()}
for epoch in flor.loop("epoch", range(4)):
    for meter in meters.values():
        meter.reset()
    order = np.random.permutation(30)
    fast.train()
    bar = Progress(range(0, 30, 5))
    for start in flor.loop("step", bar):
        index = order[start : start + 5]
        loss = (fast(x[index]) - y[index]).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        net.seen += len(index)
        meters["train"].update(loss.item(), len(index))
        with torch.no_grad():
            for k, v in net.state_dict().items():
                ema[k].lerp_(v, 0.1)
        flor.log("truth:loss", [loss.item(), meters["train"].mean])
    fast.eval()
    with torch.no_grad():
        for start in flor.loop("val", range(0, 30, 15)):
            off = fast(x[start : start + 15]) - y[start : start + 15]
            meters["val"].update(off.abs().mean().item(), 15)
            flor.log("truth:val", meters["val"].mean)
    metrics.setdefault("val", []).append(meters["val"].mean)
    metrics["best"] = min(metrics["val"])
    flor.log("mean", meters["train"].mean)
    flor.log("truth:metrics", metrics)
    flor.log("truth:ema", ema["a.weight"].sum().item())
    flor.log("truth:seen", [net.seen, bar.done, sched.get_last_lr()])
    flor.log("truth:out", fast(x).sum().item())
flor.log("truth:end", [metrics, net.seen, fast(x).mean().item(), ema["b.bias"].item()])
flor.log("truth:left", order.tolist())
