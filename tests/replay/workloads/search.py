"""A search with cross-validation in NumPy; state of classes, functions and modules."""

import itertools
import random
from collections import Counter, OrderedDict, namedtuple

import flordb as flor
import numpy as np
import search_lib as lib
from search_lib import SHARED

rng = np.random.RandomState(4)
random.seed(4)
Point = namedtuple("Point", "score params")


class Base:
    shifts = []

    def note(self, shift):
        self.shifts.append(round(shift, 3))


def tally(k):
    tally.counts[k] = tally.counts.get(k, 0) + 1
    return tally.counts[k]


tally.counts = {}


class Registry(Base):
    made = []
    cache = OrderedDict()

    def __init__(self, k):
        self.k = k
        Registry.made.append(k)

    def fit(self, data):
        self.centers = data[rng.choice(len(data), self.k, replace=False)]
        for step in flor.loop("step", range(6)):
            near = np.abs(data[:, None] - self.centers[None]).argmin(1)
            own = [data[near == i] for i in range(self.k)]
            moved = np.array([o.mean() if len(o) else c for o, c in zip(own, self.centers)])
            shift = float(np.abs(moved - self.centers).max())
            self.centers = moved
            self.note(shift)
            flor.log("truth:shift", shift)
            if shift < 1e-3:
                break
        return self

    def score(self, data):
        key = (self.k, len(Registry.cache))
        value = float(np.abs(data[:, None] - self.centers[None]).min(1).mean())
        Registry.cache[key] = value
        Registry.cache.move_to_end(key, last=False)
        return value


def folds(n, k):
    order = rng.permutation(n)
    return [order[i::k] for i in range(k)]


data = np.concatenate([rng.normal(c, 0.3, 12) for c in (-2, 0, 3)])
grid = list(itertools.product((2, 3, 4), (0.0, 0.1)))
random.shuffle(grid)
history, votes, best = [], Counter(), None
for number, (k, noise) in enumerate(flor.loop("config", grid)):
    scores = []
    for fold in flor.loop("fold", folds(len(data), 3)):
        train = np.delete(data, fold) + noise * rng.normal(size=len(data) - len(fold))
        model = Registry(k).fit(train)
        scores.append(model.score(data[fold]))
        flor.log("truth:score", [scores[-1], len(Registry.made)])
    point = Point(float(np.mean(scores)), {"k": k, "noise": noise})
    history.append(point)
    votes[k] += 1
    tally(k)
    lib.STATE["n"] += 1
    lib.LOG.append(k)
    SHARED["last"] = k
    if best is None or point.score < best.score:
        best = point
    flor.log("score", point.score)
    flor.log("truth:best", [best.score, best.params])
    flor.log("truth:cache", [list(Registry.cache.items())[:2], len(Registry.cache)])
    flor.log("truth:votes", votes.most_common())
    flor.log("truth:number", number)
    flor.log("truth:tally", [tally.counts, number])
    flor.log("truth:shifts", [len(Base.shifts), Registry.shifts[-2:]])
    flor.log("truth:state", [lib.STATE, lib.LOG, dict(SHARED)])
flor.log("truth:history", [h.score for h in history])
flor.log("truth:end", [best.params, list(votes), Registry.made[-3:], lib.STATE, tally.counts])
flor.log("truth:draw", [SHARED, float(rng.rand())])
