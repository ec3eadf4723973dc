"""Schedulers stepped in the step, after the nested loop, on a plateau; accumulation; EMA; copies."""

import copy

import flordb as flor
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

torch.set_num_threads(1)
torch.manual_seed(1)
X, held_out = torch.randn(60, 4), torch.randn(20, 4)
net = nn.Sequential(nn.Linear(4, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 1))
ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
opt = torch.optim.AdamW(net.parameters(), lr=0.02)
fast = OneCycleLR(opt, max_lr=0.05, total_steps=30)
slow = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)
step_lr = StepLR(slow, 2, 0.5)
third = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)
plateau = ReduceLROnPlateau(third, patience=0, factor=0.3)
best, best_error = None, float("inf")
flor.log("truth:before", [fast.get_last_lr(), step_lr.get_last_lr()])
for epoch in flor.loop("epoch", range(5)):
    net.train()
    flor.log("truth:lr_before", fast.get_last_lr()[0])
    for step in flor.loop("step", range(0, 60, 10)):
        x = X[step : step + 10]
        loss = (net(x).squeeze(1) - x.sum(1)).pow(2).mean() / 2
        loss.backward()
        if step % 20:
            opt.step()
            opt.zero_grad()
            fast.step()
            ema.update_parameters(net)
        flor.log("truth:momentum", opt.param_groups[0]["betas"][0])
        flor.log("truth:grad", [p.grad.sum().item() for p in net.parameters() if p.grad is not None])
    step_lr.step()
    flor.log("truth:slow", step_lr.get_last_lr()[0])
    net.eval()
    errors = 0.0
    with torch.no_grad():
        for i in flor.loop("val", range(0, 20, 5)):
            errors += (net(held_out[i : i + 5]).squeeze(1) - held_out[i : i + 5].sum(1)).abs().sum().item()
            flor.log("truth:errors", errors)
    plateau.step(errors)
    flor.log("truth:plateau", [plateau.num_bad_epochs, third.param_groups[0]["lr"], plateau.best])
    if errors < best_error:
        best, best_error = copy.deepcopy(net), errors
    flor.log("truth:ema", sum(p.double().sum().item() for p in ema.parameters()))
    flor.log("truth:best", [best_error, best[1].running_mean.sum().item(), best.training])
flor.log("truth:final", [best(held_out).sum().item(), ema.n_averaged.item(), net[1].num_batches_tracked.item()])
flor.log("truth:opt", sum(s["exp_avg"].double().sum().item() for s in opt.state.values()))
