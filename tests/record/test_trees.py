"""A snapshot that goes by what the last one knew of a model holds what one without that holds."""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.record.test_snapshots import Kept


class Part(nn.Module):
    """A module with attributes of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3)
        self.norm = nn.BatchNorm1d(2)
        self.activation = nn.functional.relu
        self.seen: list[Any] = [1, 2.5]
        self.table = {"a": [1], "b": torch.zeros(3)}
        self.pair = (self.seen, nn.Linear(1, 1))
        self.rest = [1, [2], 3]
        self.scale = 0.5
        self.kind = torch.float32
        self.foreign: Any = frozenset((1, 2))
        self.recurrent = nn.GRU(2, 2)
        self.weak: Any = weakref.ref(self.layer)
        self.ordered = OrderedDict(a=1)
        self.ordered.version = 1  # type: ignore[attr-defined]
        self.average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        self.method: Any = torch.no_grad().clone


def _training() -> dict[str, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Part(), nn.Linear(4, 2), nn.Linear(4, 2))
    opt = torch.optim.Adam([net[0].weight, net[3].weight, net[4].weight], lr=0.1)
    _step(net, opt)
    return {"net": net, "opt": opt, "loose": torch.ones(3, 2)}


def _step(net: nn.Module, opt: torch.optim.Optimizer) -> None:
    opt.zero_grad()
    x = torch.relu(net[0](torch.ones(1, 3)))
    (net[3](x) + net[4](x)).sum().backward()
    opt.step()


def _swap(v: dict[str, Any]) -> None:
    v["net"][3], v["net"][4] = v["net"][4], v["net"][3]


def _rename(v: dict[str, Any]) -> None:
    state = v["net"]._modules
    state["new"] = state.pop("0")


def _rename_last(v: dict[str, Any]) -> None:
    state = v["net"]._modules
    state["new"] = state.pop(next(reversed(state)))


def _to_buffers(v: dict[str, Any]) -> None:
    layer = v["net"][4]
    bias = layer._parameters.pop("bias")
    layer._buffers["bias"] = bias


def _retype(v: dict[str, Any]) -> None:
    v["net"][1].__class__ = nn.Sigmoid


def _new_memory(v: dict[str, Any]) -> None:
    for parameter in v["net"].parameters():
        parameter.data = parameter.data.clone()


def _cell(v: dict[str, Any]) -> Any:
    return v["net"][2].average.__wrapped__.__closure__[0]


def _infer(v: dict[str, Any]) -> None:
    with torch.inference_mode():
        v["loose"] = torch.ones(3, 2)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a step": lambda v: _step(v["net"], v["opt"]),
    "evaluation": lambda v: v["net"].eval(),
    "frozen": lambda v: v["net"].requires_grad_(False),
    "gradients gone": lambda v: v["opt"].zero_grad(set_to_none=True),
    "in place past the counter": lambda v: v["net"][0].weight.data.mul_(2),
    "new memory": _new_memory,
    "transposed": lambda v: setattr(v["net"][0].weight, "data", torch.ones(3, 4).t()),
    "another type": lambda v: v["net"].double(),
    "another shape": lambda v: setattr(v["net"][0], "bias", nn.Parameter(torch.ones(1, 4))),
    "no gradient wanted": lambda v: v["net"][3].bias.requires_grad_(False),
    "a graph": lambda v: v["net"][2].table["b"].add_(v["net"][3].bias.sum()),
    "a negative view": lambda v: v["net"][0].weight.data.set_(torch._neg_view(torch.ones(4, 3))),
    "swapped modules": _swap,
    "renamed module": _rename,
    "renamed last module": _rename_last,
    "a constant less before an object": lambda v: v["net"][2].rest.pop(0),
    "tied weights": lambda v: setattr(v["net"][4], "weight", v["net"][3].weight),
    "one module twice": lambda v: v["net"].append(v["net"][0]),
    "a module less": lambda v: v["net"].pop(1),
    "another class": _retype,
    "parameter to buffer": _to_buffers,
    "a constant": lambda v: setattr(v["net"][2], "scale", 1),
    "a constant of equal value": lambda v: setattr(v["net"][2], "scale", 1 / 2),
    "a new attribute": lambda v: setattr(v["net"][2], "more", 1),
    "another function": lambda v: setattr(v["net"][2], "activation", nn.functional.gelu),
    "a longer list": lambda v: v["net"][2].seen.append(3),
    "a deeper list": lambda v: v["net"][2].table["a"].append([4]),
    "a tensor in a dict": lambda v: v["net"][2].table.update(b=torch.ones(4)),
    "another order of a dict": lambda v: v["net"][2].table.update(a=v["net"][2].table.pop("a")),
    "a list in a tuple": lambda v: v["net"][2].pair[0].append(7),
    "another tuple": lambda v: setattr(v["net"][2], "pair", ([9], v["net"][0])),
    "a foreign object": lambda v: setattr(v["net"][2], "foreign", frozenset((3, 4))),
    "a learning rate": lambda v: v["opt"].param_groups[0].update(lr=0.2),
    "one more group": lambda v: v["opt"].add_param_group({"params": [v["net"][0].bias]}),
    "state dropped": lambda v: v["opt"].state.pop(v["net"][3].weight),
    "state replaced": lambda v: v["opt"].state[v["net"][3].weight].update(step=torch.tensor(9.0)),
    "state of another kind": lambda v: v["opt"].state[v["net"][3].weight].update(step=[1, 2]),
    "a weak reference elsewhere": lambda v: setattr(v["net"][2], "weak", weakref.ref(v["net"][3])),
    "a weak reference gone": lambda v: setattr(v["net"][2], "weak", weakref.ref(set())),
    "a weak reference outside": lambda v: setattr(v["net"][2], "weak", weakref.ref(v["opt"])),
    "weights of a recurrent network": lambda v: v["net"][2].recurrent.reset_parameters(),
    "another weight of a recurrent network": lambda v: setattr(
        v["net"][2].recurrent, "weight_ih_l0", nn.Parameter(torch.ones(6, 2))
    ),
    "an attribute of a dict": lambda v: setattr(v["net"][2].ordered, "version", 2),
    "another order of an ordered dict": lambda v: (
        v["net"]._modules["2"].table.update(a=v["net"][2].table.pop("a"))
    ),
    "a hook": lambda v: v["net"][0].register_forward_hook(lambda *_: None),
    "a buffer set to None": lambda v: setattr(v["net"][2].norm, "running_mean", None),
    "a buffer more": lambda v: v["net"][2].register_buffer("more", torch.ones(2)),
    "another buffer": lambda v: setattr(v["net"][2].norm, "running_mean", torch.ones(2)),
    "a large number": lambda v: setattr(v["net"][2], "scale", v["net"][2].scale + 10_000),
    "a large number in a list": lambda v: v["net"][2].rest.__setitem__(
        0, v["net"][2].rest[0] + 999
    ),
    "a module replaced": lambda v: v["net"].__setitem__(0, nn.Linear(3, 4)),
    "a parameter replaced": lambda v: setattr(v["net"][4], "bias", nn.Parameter(torch.ones(2))),
    "a parameter replaced by None": lambda v: v["net"][4].register_parameter("bias", None),
    "state of one parameter more": lambda v: v["opt"].state[v["net"][3].weight].update(more=1),
    "other defaults": lambda v: v["opt"].defaults.update(lr=v["opt"].defaults["lr"] + 1000),
    "another attribute's name": lambda v: v["net"][2].__dict__.update(
        other=v["net"][2].__dict__.pop("scale")
    ),
    "what the optimizer keeps in a variable": lambda v: v.update(
        held=v["opt"].state[v["net"][3].weight]["exp_avg"]
    ),
    "an attribute of the optimizer": lambda v: setattr(v["opt"], "more", [v["net"][3]]),
    "a variable of a closure": lambda v: setattr(_cell(v), "cell_contents", 0.5),
    "an object in a closure": lambda v: setattr(_cell(v), "cell_contents", [v["net"][3]]),
    "an attribute of a closure": lambda v: setattr(v["net"][2].average, "more", 1),
    "a default of a closure": lambda v: setattr(
        v["net"][2].average.__wrapped__, "__defaults__", (None,)
    ),
    "the code of a closure": lambda v: setattr(
        v["net"][2].average.__wrapped__,
        "__code__",
        torch.optim.swa_utils.get_swa_multi_avg_fn().__wrapped__.__code__.replace(
            co_freevars=("decay",)
        ),
    ),
    "another closure": lambda v: setattr(
        v["net"][2], "average", torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    ),
    "a global that a closure uses": lambda v: setattr(
        torch.optim.swa_utils, "torch", torch.nn.functional
    ),
    "a method of another object": lambda v: setattr(v["net"][2], "method", v["net"][3].forward),
    "a loose tensor in place": lambda v: v["loose"].add_(1),
    "another loose tensor": lambda v: v.update(loose=torch.full((3, 2), 7.0)),
    "a loose tensor of another shape": lambda v: v.update(loose=torch.ones(2, 3)),
    "a loose tensor reshaped in place": lambda v: v["loose"].t_(),
    "a loose tensor of another type": lambda v: v.update(loose=torch.ones(3, 2).double()),
    "a loose tensor with a hole": lambda v: v.update(loose=torch.ones(3, 4)[:, :2]),
    "a loose tensor with a gradient": lambda v: setattr(
        v["loose"].requires_grad_(), "grad", torch.ones(3, 2)
    ),
    "a loose tensor that requires a gradient": lambda v: v["loose"].requires_grad_(),
    "a loose tensor with a graph": lambda v: v["loose"].add_(v["net"][3].bias.sum()),
    "a loose tensor with an attribute": lambda v: setattr(v["loose"], "more", 1),
    "a loose tensor that is negative": lambda v: v.update(loose=torch._neg_view(torch.ones(3, 2))),
    "a loose parameter": lambda v: v.update(loose=nn.Parameter(torch.ones(3, 2), False)),
    "a loose tensor of inference": lambda v: _infer(v),
    "a loose tensor that is sparse": lambda v: v.update(loose=torch.eye(3).to_sparse()),
    "a loose tensor that is a weight": lambda v: v.update(loose=v["net"][0].weight),
    "a loose view of a weight": lambda v: v.update(loose=v["net"][0].weight.data[:3, :2]),
    "a loose array": lambda v: v.update(loose=np.ones((3, 2), np.float32)),
    "a loose tensor less": lambda v: v.pop("loose"),
    "one more loose tensor before": lambda v: v.update(
        {"before": torch.zeros(2)} | {name: v.pop(name) for name in list(v)}
    ),
    "two names of a loose tensor": lambda v: v.update(other=v["loose"]),
    "an outer reference": lambda v: v.update(held=v["net"][3]),
}


def _held(kept: Kept, boundary: str) -> Any:
    """All that a snapshot holds, with the bytes of its blocks."""
    manifest = kept.manifest(boundary)
    blocks = [
        bytes(kept.objects.get(block.object)[block.offset : block.offset + block.size])
        for block in manifest.blocks
    ]
    state = bytes(kept.objects.get(manifest.state))
    # Which hooks its loop began with, one without a history does not know.
    missing = {path: why for path, why in manifest.missing.items() if "hooks" not in why}
    return state, manifest.tensors, blocks, missing, manifest.names


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("guards", [True, False], ids=["guards", "one by one"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_known_of_a_model_leads_to_no_other_snapshot(
    tmp_path: Path, change: str, guards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not guards:  # another torch
        monkeypatch.delattr(torch._C._dynamo.guards, "TensorGuards")
    monkeypatch.setattr(torch.optim.swa_utils, "torch", torch)  # put back after the test
    values = _training()
    kept = Kept(tmp_path / "kept")
    for epoch in range(3):
        kept.take(f"epoch={epoch}@end", **values)
    expected = {}
    for epoch in range(3, 6):
        try:
            CHANGES[change](values)
        except (KeyError, ValueError, IndexError, RuntimeError):
            assert epoch > 3, "the change must be possible once"
        boundary = f"epoch={epoch}@end"
        kept.take(boundary, **values)
        without = Kept(tmp_path / str(epoch))
        without.take(boundary, **values)
        without.done()
        expected[boundary] = _held(without, boundary)
    kept.done()
    assert {boundary: _held(kept, boundary) for boundary in expected} == expected


def test_what_is_known_with_gradients_does_not_count_without_them(tmp_path: Path) -> None:
    """torch's check of many tensors sees none that requires a gradient where gradients are off."""
    values = _training()
    kept = Kept(tmp_path / "kept")
    for epoch in range(6):
        with torch.set_grad_enabled(epoch % 2 == 0):
            kept.take(f"epoch={epoch}@end", **values)
    values["net"].requires_grad_(False)
    without = Kept(tmp_path / "without")
    with torch.no_grad():
        kept.take("epoch=6@end", **values)
        without.take("epoch=6@end", **values)
    kept.done()
    without.done()
    assert _held(kept, "epoch=6@end") == _held(without, "epoch=6@end")


def test_a_model_that_was_dropped_is_not_kept_alive_by_its_snapshots(tmp_path: Path) -> None:
    values = _training()
    kept = Kept(tmp_path)
    for epoch in range(3):
        kept.take(f"epoch={epoch}@end", **values)
    kept.done()
    watched = [weakref.ref(p) for p in (*values["net"].parameters(), values["loose"])]
    values.clear()
    gc.collect()
    assert all(ref() is None for ref in watched)
