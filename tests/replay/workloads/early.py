"""Early stopping by break with an else, by return, and in the nested loop; small states."""

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

import flordb as flor
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(2)


@dataclass
class State:
    step: int = 0
    best: float = float("inf")
    bad: int = 0
    history: list = field(default_factory=list)


class Early:
    def __init__(self):
        self.net = nn.Linear(3, 1)
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.2)
        self.state = State()
        self.recent = deque(maxlen=3)
        self.counts = Counter()
        self.metrics = defaultdict(list)
        self.why = "not begun"

    def fit(self, x, y):
        for epoch in flor.loop("epoch", range(20)):
            flor.log("truth:bad", self.state.bad)
            for i in flor.loop("step", range(8)):
                loss = (self.net(x[i]) - y[i]).pow(2).mean()
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
                self.state.step += 1
                self.recent.append(loss.item())
                self.metrics["loss"].append(loss.item())
                self.counts["big" if loss.item() > 0.1 else "small"] += 1
                flor.log("truth:recent", list(self.recent))
                if self.counts["small"] % 5 == 4:
                    skipped = i
                    break
            else:
                self.counts["whole"] += 1
                skipped = -1
            flor.log("truth:counts", [dict(self.counts), skipped, i])
            mean = sum(self.recent) / len(self.recent)
            if mean < self.state.best - 0.01:
                self.state.best, self.state.bad = mean, 0
            else:
                self.state.bad += 1
            self.state.history.append(mean)
            flor.log("truth:state", [self.state.best, self.state.step, len(self.metrics["loss"])])
            if self.state.bad >= 2:
                self.why = "no progress"
                return epoch
        self.why = "all epochs"
        return -1


model = Early()
x = torch.randn(8, 3)
stopped = model.fit(x, x.sum(1, keepdim=True))
flor.log("truth:stopped", [stopped, model.why])
for again in flor.loop("again", range(6)):
    with torch.no_grad():
        model.net.weight.mul_(0.9)
    flor.log("truth:weight", model.net.weight.sum().item())
    if again == 3:
        break
else:
    model.why = "nobody broke"
flor.log("truth:why", [model.why, again, model.net.weight.sum().item()])
