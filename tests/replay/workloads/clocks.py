"""What no replay can repeat, beside what it can: clocks, process numbers, the order of sets."""
# unseeded

import os
import time
import uuid

import flordb as flor
import torch

torch.set_num_threads(1)
torch.manual_seed(18)
began = time.time()
name = f"run-{uuid.uuid4()}"
words = {"the", "cat", "sat", "on", "a", "mat", "and", "then", "another", "dog", "came"}
index = {word: i for i, word in enumerate(words)}
table = torch.randn(11, 3)
flor.log("truth:word", index["cat"])
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(4)):
        table += torch.rand_like(table)
        flor.log("truth:sum", table.sum().item())
    flor.log("truth:cat", table[index["cat"]].sum().item())
    flor.log("truth:elapsed", time.time() - began)
flor.log("truth:table", table.sum().item())
flor.log("truth:dog", table[index["dog"]].sum().item())
flor.log("truth:name", name)
flor.log("truth:pid", os.getpid())
