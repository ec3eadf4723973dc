"""State in the corners of a module."""

from functools import lru_cache

import torch

calls = {"scale": 0}
registry = []
_cache = {}


def scale(x, seen=[]):  # noqa: B006 (state in a default is the point)
    calls["scale"] += 1
    seen.append(float(x.sum()))
    scale.times = getattr(scale, "times", 0) + 1
    return x * (1 + 0.01 * len(seen))


@lru_cache(maxsize=None)
def slow(n):
    registry.append(n)
    return n * n


def remember(key, value):
    if key not in _cache:
        _cache[key] = value
    return _cache[key]


class Tracked(torch.nn.Module):
    made = 0
    forwards = 0

    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(3, 3)
        Tracked.made += 1

    def forward(self, x):
        Tracked.forwards += 1
        return torch.tanh(self.lin(x))
