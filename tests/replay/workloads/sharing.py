"""Memory that is shared before the loop and not in it, and the other way round: a best state that is
the model's until there is a better one, exchanged arrays with a view, a copy that was none."""

import copy

import flordb as flor
import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(17)

x, y = torch.randn(32, 200), torch.randn(32, 100)
net, rival = nn.Linear(200, 100), nn.Linear(200, 100)
best_net = net
opt = torch.optim.SGD([*net.parameters(), *rival.parameters()], lr=0.01)
best_state, best = net.state_dict(), float("inf")
history = []
shown = history
shadow = None
now, following = np.zeros(20_000), np.ones(20_000)
view = now[:5]
for epoch in flor.loop("epoch", range(5)):
    for step in flor.loop("step", range(3)):
        loss = nn.functional.mse_loss(net(x), y) + nn.functional.mse_loss(rival(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    history.append(loss.item() + 5 * (epoch == 3))
    if history[-1] < best:
        best, best_state = history[-1], copy.deepcopy(net.state_dict())
    if epoch == 2:
        best_net, shown, shadow = copy.deepcopy(net), list(history), net.state_dict()
    with torch.no_grad():
        net.weight.add_(0.01)
    following[:] = now * 0.5 + epoch
    now, following = following, now
    net, rival = rival, net
    if epoch == 3:
        view += 1
    flor.log("truth:nets", [net.weight.sum().item(), rival.weight.sum().item()])
    flor.log("truth:best", [best_state["weight"].sum().item(), best_net.weight.sum().item()])
    flor.log("truth:shadow", shadow and shadow["weight"].sum().item())
    flor.log("truth:arrays", [now.sum(), following.sum(), view.sum()])
    flor.log("truth:lists", [len(history), len(shown)])
flor.log("truth:end", [net.weight.sum().item(), rival.weight.sum().item(), shadow["bias"].sum().item()])
flor.log("truth:kept", [best_state["weight"].sum().item(), best_net.weight.sum().item()])
with torch.no_grad():
    rival.weight.mul_(2)
    net.weight.mul_(3)
view += 1
flor.log("truth:after", [shadow["weight"].sum().item(), best_state["weight"].sum().item(), now.sum(), following.sum()])
