"""What people write around a loop: a mutated config, a counter in a module, AMP, averaged weights,
the best state copied and restored in the middle of the training."""

import copy
import math
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import flordb as flor
import habits_lib as lib
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, SWALR, update_bn

torch.set_num_threads(1)
torch.manual_seed(31)


@dataclass
class Config:
    epochs: int = 6
    lr: float = 0.05
    smoothing: float = 0.0
    history: list = field(default_factory=list)
    extras: dict = field(default_factory=dict)


@contextmanager
def evaluating(*modules):
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield lib.tick("eval")
    finally:
        for module, mode in zip(modules, modes):
            module.train(mode)


cfg = Config()
x = torch.randn(48, 6)
y = (x[:, 0] * x[:, 1] > 0).long()
net = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.1), nn.Linear(10, 2))
opt = torch.optim.AdamW(net.parameters(), lr=cfg.lr, weight_decay=0.01)
scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=4)
warm = 8
sched = torch.optim.lr_scheduler.LambdaLR(
    opt, lambda step: min(1.0, (step + 1) / warm) * (0.5 * (1 + math.cos(math.pi * step / 60)))
)
averaged = AveragedModel(net, avg_fn=lambda a, b, n: 0.7 * a + 0.3 * b)
best, best_state, bad = float("inf"), None, 0
restored = []
for epoch in flor.loop("epoch", range(cfg.epochs)):
    cfg.smoothing += 0.02
    if epoch == 3:
        cfg = replace(cfg, lr=cfg.lr / 2, extras={**cfg.extras, "halved": epoch})
    order = torch.randperm(48)
    total = 0.0
    for start in flor.loop("step", range(0, 48, 12)):
        batch = order[start : start + 12]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = net(x[batch])
            loss = nn.functional.cross_entropy(out.float(), y[batch], label_smoothing=cfg.smoothing)
        opt.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(opt)
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        flor.log("truth:norm", norm.item())
        scaler.step(opt)
        scaler.update()
        sched.step()
        lib.tick("step")
        total += loss.item()
        flor.log("truth:scale", [scaler.get_scale(), opt.param_groups[0]["lr"]])
    averaged.update_parameters(net)
    with evaluating(net, averaged):
        val = nn.functional.cross_entropy(net(x), y).item()
        smooth = nn.functional.cross_entropy(averaged(x), y).item()
    flor.log("loss", total)
    flor.log("truth:val", [val, smooth, net.training])
    cfg.history.append(val)
    cfg.extras[f"e{epoch}"] = lib.counts["step"]
    if val < best:
        best, bad = val, 0
        best_state = copy.deepcopy(net.state_dict())
    else:
        bad += 1
        if bad == 2:
            net.load_state_dict(best_state)
            restored.append(epoch)
            bad = 0
    flor.log("truth:best", [best, bad, restored])
    flor.log("truth:config", [cfg.lr, cfg.smoothing, cfg.history, sorted(cfg.extras)])
    flor.log("truth:ticks", dict(lib.counts))
    flor.log("truth:averaged", [int(averaged.n_averaged), averaged.module[0].weight.sum().item()])
    flor.log("truth:kept", best_state["0.weight"].sum().item())
net.load_state_dict(best_state)
update_bn([x[:24], x[24:]], averaged)
with evaluating(net):
    flor.log("truth:final", nn.functional.cross_entropy(net(x), y).item())
flor.log("truth:end", [lib.total(), cfg.extras, averaged.module[1].running_mean.sum().item()])
