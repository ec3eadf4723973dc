"""Hindsight statements only look: what they log is the run's own, and the replay goes on as it."""

from __future__ import annotations

import ast
import textwrap
from typing import Any

import pytest
import torch
from torch import nn

import flordb as flor
from flordb.replay.looks import only_look, operands
from tests.replay.support import acquire

SCRIPT = """
import copy
import flordb as flor, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(flor.arg("seed", 5))
x = torch.randn(96, 8)
data = TensorDataset(x, (x.sum(1) > 0).long())
train, val = DataLoader(data, 32, shuffle=True), DataLoader(data, 48)
net = nn.Sequential(
    nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2)
)
opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
with flor.checkpointing(net=net, opt=opt):
    for epoch in flor.loop("epoch", range(4)):
        for image, label in flor.loop("step", train):
            out = net(image)
            loss = nn.functional.cross_entropy(out, label)
            opt.zero_grad()
            loss.backward()
            opt.step()
            flor.log("loss", loss.item())
        # here
flor.log("end", sum(p.sum().item() for p in net.parameters()))
"""
EVALUATION = """
net.eval()
with torch.no_grad():
    right = 0
    for image, label in val:
        right += (net(image).argmax(1) == label).sum().item()
flor.log("right", right)
net.train()
"""
FORWARD = """
flor.log("forward", net(x).sum().item())
"""
TRUTH = """
state = torch.get_rng_state()
original, net = net, copy.deepcopy(net)
{piece}
net = original
torch.set_rng_state(state)
"""


def _with(piece: str) -> str:
    lines = "".join(f"        {line}\n" for line in piece.strip().splitlines())
    return SCRIPT.replace("        # here\n", lines)


def _true(sandbox, piece: str, name: str) -> list[float]:
    """What a training logs whose statement works on a copy and puts the random numbers back."""
    sandbox.write("truth.py", _with(TRUTH.replace("{piece}", piece.strip())))
    sandbox.run("truth.py")
    return sandbox.logged(name)


def test_an_evaluation_in_hindsight_gives_what_the_run_would_have_logged(sandbox) -> None:
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    sandbox.run("train.py")
    ends = sandbox.logged("end")
    sandbox.write("train.py", _with(EVALUATION + FORWARD))
    values, _, report = acquire(sandbox, ["right", "forward"])
    assert (report.failures, report.anomalies) == ((), ())
    for piece, name in ((EVALUATION, "right"), (FORWARD, "forward")):
        true = _true(sandbox, piece, name)
        assert [values[(f"epoch={n}", name)] for n in range(4)] == [[v] for v in true]
    assert set(sandbox.logged("end")) == set(ends)


def test_a_helper_in_hindsight_needs_no_more_than_the_iterations_that_are_wanted(sandbox) -> None:
    sandbox.write("train.py", SCRIPT)
    sandbox.commit()
    sandbox.run("train.py")
    helper = """
def score(net, loader):
    net.eval()
    counts = torch.zeros(2)
    for image, label in loader:
        with torch.no_grad():
            counts.index_add_(0, label, (net(image).argmax(1) == label).float())
    net.train()
    return counts.tolist()
"""
    text = _with('flor.log("score", score(net, val))')
    text = text.replace("\nnet = nn", f"\n{helper}\n\nnet = nn", 1)
    sandbox.write("train.py", text)
    values, chosen, report = acquire(sandbox, ["score"], iterations=(2,))
    assert (report.failures, report.anomalies) == ((), ())
    assert [(task.steps.scan, task.steps.iterations) for task in chosen.tasks] == [
        ("validation", (2,))
    ]
    truth = (
        textwrap.dedent(helper)
        + "\n"
        + _with(TRUTH.replace("{piece}", 'flor.log("score", score(net, val))'))
    )
    sandbox.write("truth.py", truth.replace("\ndef score", "\nimport torch\n\n\ndef score", 1))
    sandbox.run("truth.py")
    assert values == {("epoch=2", "score"): [sandbox.logged("score")[2]]}


STEPPING = """
import flordb as flor, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def learn(net, opt, image, label):
    loss = nn.functional.cross_entropy(net(image), label)
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss.item()


torch.manual_seed(flor.arg("seed", 5))
x = torch.randn(96, 8)
train = DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), 32, shuffle=True)
net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 2))
opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
with flor.checkpointing(net=net, opt=opt):
    for epoch in flor.loop("epoch", range(4)):
        for image, label in flor.loop("step", train):
            learn(net, opt, image, label)
    flor.log("end", sum(p.sum().item() for p in net.parameters()))
"""


def test_logging_what_a_step_returns_makes_no_step_more(sandbox) -> None:
    sandbox.write("train.py", STEPPING)
    sandbox.commit()
    sandbox.run("train.py")
    (end,) = sandbox.logged("end")
    call = "learn(net, opt, image, label)\n    flor"
    sandbox.write("train.py", STEPPING.replace(call, f'flor.log("loss", {call[:29]})\n    flor'))
    values, chosen, report = acquire(sandbox, ["loss"])
    assert (report.failures, report.anomalies) == ((), ())
    assert {task.scan for task in chosen.tasks} == {"range"}
    sandbox.run("train.py")
    assert sorted(v for found in values.values() for v in found) == sorted(sandbox.logged("loss"))
    assert sandbox.logged("end") == [end]


class Noisy(nn.Linear):
    """Draws where nobody expects it."""

    def named_parameters(self, *given: Any, **named: Any) -> Any:
        torch.rand(1)
        return super().named_parameters(*given, **named)


class Loud(torch.Tensor):
    """A tensor of a subclass, which may do anything."""


def _values() -> dict[str, Any]:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    loud = torch.ones(2).as_subclass(Loud)
    return {
        "flor": flor,
        "net": net,
        "ps": list(net.parameters()),
        "loss": torch.tensor(1.0),
        "noisy": nn.Sequential(Noisy(3, 2)),
        "louds": [loud],
        "draw": torch.rand,
        "k": [1, 2],
        "odd": type("Odd", (nn.Sequential,), {"__getitem__": lambda s, i: torch.rand(1)})(),
    }


@pytest.mark.parametrize(
    ("value", "looks"),
    [
        ("loss.item()", True),
        ("net[0].weight.grad", True),
        ("net[-2].bias.sum().item() / 2", True),
        ("sum(p.norm().item() for p in ps)", True),
        ("max([p.grad.norm().item() for p in net.parameters() if p.grad is not None])", True),
        ("[(n, p.mean().item()) for n, p in net.named_parameters()]", True),
        ("[x * loss.item() for x in k]", True),
        ("draw(1)", False),
        ("odd[0]", False),
        ("net(loss)", False),
        ("[draw(1) for p in ps]", False),
        ("[p.made for p in ps]", False),
        ("sum(p.norm() for p in louds)", False),
        ("sum(p.norm() for p in noisy.parameters())", False),
        ("[p.item() for p in draw(3)]", False),
        ("[q.item() for p in ps for q in p]", False),
        ("[draw for draw.made in ps]", False),
    ],
)
def test_what_runs_the_code_of_others_does_not_only_look(value, looks) -> None:
    body = ast.parse(f'flor.log("h", {value})').body
    call = ast.Tuple(operands(body), ast.Load())
    found = eval(compile(ast.fix_missing_locations(ast.Expression(call)), "", "eval"), _values())
    assert (bool(found) and only_look(*found)) == looks
