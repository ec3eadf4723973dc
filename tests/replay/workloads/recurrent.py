"""A hidden state carried over batches and epochs, tied weights, clipping, a plain while loop."""

import flordb as flor
import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(8)
rng = np.random.default_rng(9)


class Model(nn.Module):
    def __init__(self, words=12, size=6):
        super().__init__()
        self.embed = nn.Embedding(words, size)
        self.rnn = nn.LSTM(size, size, batch_first=True)
        self.out = nn.Linear(size, words)
        self.out.weight = self.embed.weight

    def forward(self, x, hidden):
        out, hidden = self.rnn(self.embed(x), hidden)
        return self.out(out), hidden


def repackage(hidden):
    return None if hidden is None else tuple(h.detach() for h in hidden)


text = torch.from_numpy(rng.integers(0, 12, size=(2, 61)))
model = Model()
opt = torch.optim.SGD(model.parameters(), lr=0.5)
hidden = None
total = torch.zeros(())
flor.log("truth:text", text.double().mean().item())
for epoch in flor.loop("epoch", range(3)):
    at, seen = 0, 0
    flor.log("truth:carried", 0.0 if hidden is None else hidden[0].sum().item())
    for step in flor.loop("step", range(0, 60, 10)):
        length = int(rng.integers(5, 10))
        hidden = repackage(hidden)
        scores, hidden = model(text[:, step : step + length], hidden)
        loss = nn.functional.cross_entropy(scores.transpose(1, 2), text[:, step + 1 : step + 1 + length])
        opt.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        opt.step()
        seen += length
        total = total + loss.detach()
        flor.log("truth:norm", [norm.item(), loss.item(), hidden[1].sum().item()])
    while at < seen:
        at += int(rng.integers(1, 20))
    flor.log("truth:at", [at, seen, rng.bit_generator.state["state"]["state"]])
    flor.log("truth:total", [total.item(), hidden[0].sum().item(), scores.sum().item()])
    flor.log("truth:tied", model.out.weight.data_ptr() == model.embed.weight.data_ptr())
flor.log("truth:end", [hidden[1].sum().item(), model.embed.weight.sum().item(), length])
flor.log("truth:next", rng.bit_generator.state["state"]["inc"])
