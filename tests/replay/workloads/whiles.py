"""While-style loops through flor.iteration, with a loop inside."""

import flordb as flor
import torch

torch.set_num_threads(1)
torch.manual_seed(11)
w = torch.zeros(3)
error, rounds = 1.0, 0
flor.log("truth:before", w.sum().item())
while error > 0.05 and rounds < 5:
    with flor.iteration("round", rounds):
        flor.log("truth:enter", w.sum().item())
        for step in flor.loop("step", range(3)):
            w += torch.rand(3) * 0.1
            flor.log("truth:step", w.tolist())
        error = (w - 1).abs().mean().item()
        rounds += 1
        flor.log("truth:error", error)
flor.log("truth:end", [rounds, error, w.tolist()])
for epoch in flor.loop("epoch", range(3)):
    count = 0
    while count < 2:
        with flor.iteration("try", None):
            w *= torch.rand(3)
            count += 1
            flor.log("truth:try", w.tolist())
    flor.log("truth:w", w.sum().item())
flor.log("truth:last", w.tolist())
