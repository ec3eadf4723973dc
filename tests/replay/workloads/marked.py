"""Attributes that the loop puts on tensors: no snapshot keeps them, so what needs them is run."""
import flordb as flor
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(1)
net = nn.Linear(8, 8)
x, y = torch.randn(32, 8), torch.randn(32, 8)
opt = torch.optim.SGD(net.parameters(), lr=0.01)
total = torch.zeros(3)
total.recent = 0.0
for epoch in flor.loop("epoch", range(6)):
    for step in flor.loop("step", range(3)):
        loss = nn.functional.mse_loss(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        total.recent = total.recent * 0.5 + loss.item()
        if epoch == 1:
            net.weight.average = net.weight.detach().clone()
    flor.log("truth:recent", total.recent)
    flor.log("truth:average", net.weight.average.sum().item() if epoch > 1 else None)
    flor.log("truth:w", net.weight.sum().item())
flor.log("truth:last", total.recent)
flor.log("truth:kept", net.weight.average.sum().item())
flor.log("truth:end", net.weight.sum().item())
