"""No torch: lists shuffled in place, NumPy arrays, a stream as the loop's iterable, a library's object."""

import random

import flordb as flor
import numpy as np

random.seed(15)
np.random.seed(16)
order = list(range(12))
table = np.zeros((3, 4))
view = table[1]
weights = {"a": [0.5, 0.25], "b": np.arange(3.0)}
queue = [1, 2]
visited = set()
walk = np.random.RandomState(17)


def stream(n):
    for i in range(n):
        random.shuffle(order)
        yield order[0] + i


flor.log("truth:before", order)
for item in flor.loop("item", stream(4)):
    total = 0.0
    for i in flor.loop("step", order):
        table[i % 3] += np.random.rand(4) * item
        view *= 0.99
        total += float(table.sum())
        weights["b"][i % 3] += walk.normal()
        visited.add(i * item)
        flor.log("truth:total", total)
    weights["a"].append(total)
    flor.log("truth:table", table.tolist())
    flor.log("truth:view", view.sum())
    flor.log("truth:order", list(order))
flor.log("truth:weights", [weights["a"], weights["b"].tolist(), sorted(visited)])
for n in flor.loop("queue", queue):
    if n < 6:
        queue.append(n + 2)
    walk.normal(size=n)
    flor.log("truth:queue", [n, len(queue), walk.normal() if False else walk.get_state()[2]])
flor.log("truth:end", [queue, view.sum() == table[1].sum()])
