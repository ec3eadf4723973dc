"""What is known of a model from the last snapshot leads a loop to no fewer objects."""

from __future__ import annotations

import sys
import types
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


class Added:
    """A class of the project's that a library's class gets as its base later."""

    def call(self) -> None:
        TABLE.append(1)


def test_a_class_that_becomes_the_projects_is_followed_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = types.ModuleType("some_library")
    exec("class Base: pass\nclass Held(Base): pass", vars(library))
    monkeypatch.setitem(sys.modules, "some_library", library)
    held = library.Held()  # noqa: F841 (found by its name)
    frame = sys._getframe()
    uses = Uses(frozenset(("held",)), frozenset(), frozenset())
    kept = Kept(tmp_path, _is_project)
    table = (("global", f"{__name__}:TABLE"),)
    for epoch in range(6):
        if epoch == 4:
            library.Held.__bases__ = (Added,)
        boundary = f"epoch={epoch}@end"
        found = reach(frame, uses, {}, _is_project, kept.snapshotter.known(boundary))
        assert (table in found.roots) == (epoch >= 4)
        kept.snapshotter.take(boundary, found, {})
    kept.done()
    assert "TABLE" in kept.manifest("epoch=5@end").names


def test_an_object_that_changes_its_class_is_followed_from_then_on(tmp_path: Path) -> None:
    """What was known of its former class, or of what it held, does not count."""
    held: list[Any] = [types.SimpleNamespace(), {}, []]
    frame = sys._getframe()
    uses = Uses(frozenset(("held",)), frozenset(), frozenset())
    kept = Kept(tmp_path, _is_project)
    seen = (("global", f"{__name__}:SEEN"),)
    changes: list[Callable[[], Any]] = [
        lambda: setattr(held[0], "call", _count),
        lambda: held[1].update(call=Callback()),
        lambda: held[2].append(Callback().call),
        lambda: held.__setitem__(0, Callback()),
    ]
    for number, change in enumerate(changes):
        for value in (vars(held[0]), held[1], held[2]):
            value.clear()
        held[0] = types.SimpleNamespace()
        for at, expected in enumerate((False, True)):
            if expected:
                change()
            boundary = f"epoch={2 * number + at}@end"
            found = reach(frame, uses, {}, _is_project, kept.snapshotter.known(boundary))
            assert (seen in found.roots) == expected
            kept.snapshotter.take(boundary, found, {})
    kept.done()
