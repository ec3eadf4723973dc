"""What is known of a model from the last snapshot leads a loop to no fewer objects."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flordb.record.frames import Uses
from flordb.record.reach import reach
from tests.record.test_snapshots import Kept

TABLE = [1]
SEEN: dict[str, int] = {}


class Own(nn.Module):
    """Its method uses a global."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.callbacks: list[Any] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        TABLE.append(1)
        return self.layer(x)


def _count(*_: Any) -> None:
    SEEN["calls"] = SEEN.get("calls", 0) + 1


class Callback:
    """An object of the project's, with a method that uses a global."""

    def call(self) -> None:
        _count()


CHANGES: dict[str, Callable[[nn.Module, torch.optim.Optimizer], Any]] = {
    "nothing": lambda net, opt: None,
    "a hook": lambda net, opt: net[1].register_forward_hook(_count),
    "a hook of the optimizer": lambda net, opt: opt.register_step_post_hook(_count),
    "a method over another": lambda net, opt: setattr(net[0], "forward", _count),
    "a method over the optimizer's": lambda net, opt: setattr(opt, "zero_grad", _count),
    "a module of the project's": lambda net, opt: net.append(Own()),
    "a function in a list": lambda net, opt: net[1].callbacks.append(_count),
    "an object in a list": lambda net, opt: net[1].callbacks.append(Callback()),
    "an attribute": lambda net, opt: setattr(net[0], "more", Callback()),
    "a module less": lambda net, opt: net.pop(1),
}


def _is_project(file: str) -> bool:
    return file == __file__


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_model_leads_to_is_found_also_when_its_structure_is_known(
    tmp_path: Path, change: str
) -> None:
    net = nn.Sequential(nn.Linear(2, 2), Own(), nn.Linear(2, 2))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    torch.optim.lr_scheduler.StepLR(opt, 1)  # puts a method over the optimizer's
    kept = Kept(tmp_path, _is_project)
    uses = Uses(frozenset(("net", "opt")), frozenset(), frozenset())
    frame = sys._getframe()
    known = 0
    for epoch in range(7):
        if epoch in (4, 5):
            CHANGES[change](net, opt)
        boundary = f"epoch={epoch}@end"
        below = kept.snapshotter.known(boundary)
        found = reach(frame, uses, {}, _is_project, below)
        known += below.known(net) is not None
        expected = reach(frame, uses, {}, _is_project)
        assert {id(value) for value in found.roots.values()} >= {
            id(value) for value in expected.roots.values()
        }
        kept.snapshotter.take(boundary, found, {})
    kept.done()
    assert known >= 2
