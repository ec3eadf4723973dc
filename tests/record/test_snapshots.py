"""What snapshots hold comes back: in place and into nothing, sharing memory as it did."""

from __future__ import annotations

import copy
import ctypes
import gc
import mmap
import multiprocessing
import random
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from flordb.record.adaptive import Adaptive
from flordb.record.present import Present
from flordb.record.reach import Reach
from flordb.record.restore import load_objects, restore
from flordb.record.snapshotter import Saved, Snapshotter
from flordb.settings import Settings
from flordb.store.objects import ObjectStore
from flordb.store.snapshots import Manifest, SnapshotStore

BIG = 600_000
"""Elements of a tensor that is an object of its own."""


class Kept:
    """A snapshotter on a store in a folder, used as a recorder uses it."""

    def __init__(
        self,
        folder: Path,
        is_project: Callable[[str], bool] = lambda file: False,
        **chosen: Any,
    ) -> None:
        self.objects = ObjectStore(folder / "objects")
        self.snapshots = SnapshotStore(folder / "snapshots" / "run")
        self.saved: list[Saved] = []
        settings = Settings(**chosen)
        adaptive = Adaptive(settings.epsilon, settings.restore_ratio)
        self.snapshotter = Snapshotter(
            self.objects, self.snapshots, self.saved.append, is_project, settings, adaptive
        )

    def take(self, boundary: str = "epoch=0@end", **values: Any) -> None:
        roots = {(("checkpoint", name),): value for name, value in values.items()}
        self.snapshotter.take(boundary, Reach(roots), {})

    def done(self) -> None:
        assert self.snapshotter.close(60)

    def manifest(self, boundary: str = "epoch=0@end") -> Manifest:
        return self.snapshots.load(boundary)

    def restore(self, boundary: str = "epoch=0@end", **values: Any) -> None:
        assert (
            restore(self.manifest(boundary), ObjectStore(self.objects.folder), None, values) == {}
        )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        if one.is_sparse:
            one, other = one.to_dense(), other.to_dense()
        if one.is_quantized:
            return torch.equal(one.int_repr(), other.int_repr())
        kind = torch.int16 if one.element_size() == 2 else torch.uint8
        raw = one.element_size() < 4 and one.is_floating_point()
        return torch.equal(one.view(kind), other.view(kind)) if raw else torch.equal(one, other)
    if isinstance(one, pd.DataFrame):
        return one.equals(other)
    if isinstance(one, np.ndarray):
        return bool((one == other).all())
    # An OrderedDict keeps an order of its own, in which its values may be missing.
    return bool(one == other and list(one) == list(other))


class Tagged(torch.Tensor):
    """A tensor of a subclass."""


def _quantized(start: float) -> torch.Tensor:
    values = torch.arange(6.0) + start
    return torch.quantize_per_tensor(values, scale=0.5, zero_point=3, dtype=torch.quint8)


VALUES: dict[str, Callable[[float], Any]] = {
    "float32": lambda x: torch.full((4, 3), x),
    "bfloat16": lambda x: torch.full((4, 3), x, dtype=torch.bfloat16),
    "float8": lambda x: torch.full((5,), x).to(torch.float8_e4m3fn),
    "complex, conjugated": lambda x: torch.full((3,), complex(x, 1.5)).conj(),
    "bool": lambda x: torch.arange(4) > x,
    "no elements": lambda x: torch.empty(0, 3),
    "no dimension": lambda x: torch.tensor(x),
    "transposed": lambda x: (torch.arange(6.0) + x).reshape(2, 3).T,
    "every other row": lambda x: (torch.arange(24.0) + x).reshape(8, 3)[::2],
    "channels last": lambda x: (
        (torch.arange(48.0) + x).reshape(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    ),
    "large": lambda x: torch.arange(BIG) + x,
    "quantized": _quantized,
    "sparse": lambda x: torch.tensor([[0.0, x + 1], [2.0, 0]]).to_sparse(),
    "subclass": lambda x: torch.full((3,), x).as_subclass(Tagged),
    "array": lambda x: np.full((3, 2), x),
    "array backwards": lambda x: (np.arange(4) + x)[::-1],
    "structured array": lambda x: np.array([(x, 2)], dtype=[("a", "f8"), ("b", "i4")]),
    "dates": lambda x: np.array(["2026-01-01", "2026-01-02"], "M8[D]") + int(x),
    "ordered": lambda x: OrderedDict(b=x, a=2.0),
    "counter": lambda x: Counter(b=x, a=2),
    "deque": lambda x: deque([x, 2.0], maxlen=2),
    "frame": lambda x: pd.DataFrame({"a": [x, 2.0], "c": pd.Categorical(["x", "y"])}),
}


def test_state_of_a_module_that_was_kept_says_its_version(tmp_path) -> None:
    kept = Kept(tmp_path)
    best = torch.nn.BatchNorm1d(3).state_dict()
    kept.take(best=best)
    kept.done()
    live: OrderedDict[str, Any] = OrderedDict()
    kept.restore(best=live)
    assert list(live) == list(best)
    assert live._metadata == best._metadata


@pytest.mark.parametrize("name", list(VALUES))
def test_value_comes_back_in_place_and_in_a_place_where_nothing_is(tmp_path, name) -> None:
    make = VALUES[name]
    kept = Kept(tmp_path)
    kept.take(holder={"value": make(0.0)})
    kept.done()
    live = {"value": make(1.0)}
    before = live["value"]
    kept.restore(holder=live)
    assert _same(live["value"], make(0.0))
    assert type(live["value"]) is type(make(0.0))
    if type(before) is torch.Tensor and not before.is_conj():
        assert live["value"] is before
    empty: dict[str, Any] = {}
    kept.restore(holder=empty)
    assert _same(empty["value"], make(0.0))
    assert type(empty["value"]) is type(make(0.0))


def test_value_comes_back_in_place_where_memory_is_in_another_order(tmp_path) -> None:
    kept = Kept(tmp_path)
    images = torch.arange(48.0).reshape(1, 3, 4, 4)
    forms: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.complex(x, -x).conj().imag,  # its sign is not in its memory
        lambda x: x.clone(),
    ]
    kept.take(values=[form(images) for form in forms])
    kept.done()
    for shift in range(len(forms)):
        live = [form(images + 1) for form in forms[shift:] + forms[:shift]]
        before = list(live)
        kept.restore(values=live)
        for value, same in zip(live, before, strict=True):
            assert torch.equal(value, images)
            assert value is same


def test_what_is_there_already_need_not_be_read(tmp_path) -> None:
    kept = Kept(tmp_path)
    weights = nn.Parameter(torch.arange(BIG) + 0.5)

    def values() -> dict[str, Any]:
        frozen = nn.Parameter(torch.arange(BIG) * 2.0, requires_grad=False)
        return {"weights": weights, "frozen": frozen, "data": np.arange(BIG, dtype=np.float32)}

    kept.take("epoch@enter", **values())
    kept.done()
    live = {"weights": nn.Parameter(weights.detach().clone()), **values()}
    for folder in kept.objects.folder.iterdir():
        for path in folder.iterdir():
            if path.stat().st_size >= 4 * BIG:
                path.unlink()
    kept.restore("epoch@enter", **live)
    live["data"][7] += 1
    failed = restore(kept.manifest("epoch@enter"), kept.objects, None, live)
    assert list(failed) == ["data"]


@pytest.mark.parametrize("boundary", ["epoch@enter", "epoch=0@end"])
def test_whatever_was_written_since_the_last_restore_is_put_back(tmp_path, boundary) -> None:
    kept = Kept(tmp_path)
    values: dict[str, Any] = {
        "weights": nn.Parameter(torch.arange(BIG) + 0.5),
        "frozen": nn.Parameter(torch.arange(BIG) * 2.0, requires_grad=False),
        "tied": torch.arange(BIG).reshape(2, -1),
        "data": np.arange(BIG),
    }
    values["view"] = values["tied"][1]
    true = {name: copy.deepcopy(value) for name, value in values.items()}
    kept.take(boundary, **values)
    kept.done()
    present = Present()

    def is_restored() -> bool:
        failed = restore(kept.manifest(boundary), kept.objects, None, values, present)
        return not failed and all(bool((values[n] == true[n]).all()) for n in values)

    assert is_restored()
    for name, value in values.items():
        raw = value if isinstance(value, np.ndarray) else value.detach().numpy()
        raw.reshape(-1)[-1] += 1  # seen by no version counter
        assert is_restored(), name
    values["weights"].data, values["frozen"].data = values["frozen"].data, values["weights"].data
    assert is_restored()
    values["view"] += 1
    assert values["tied"][1, 0] == values["view"][0]
    assert is_restored()


def test_weak_references_refer_to_what_was_restored(tmp_path) -> None:
    """A recurrent network of torch has some, of its parameters."""
    net = nn.GRU(3, 4)
    kept = Kept(tmp_path)
    kept.take(net=net, h={"first": weakref.ref(net), "gone": weakref.ref(set()), "net": net})
    kept.done()
    assert kept.manifest().missing == {}
    live = nn.GRU(3, 4)
    made: dict[str, Any] = {"first": weakref.ref(nn.GRU(1, 1)), "gone": weakref.ref(live)}
    kept.restore(net=live, h=made)
    assert made["net"] is made["first"]() is live
    assert made["gone"]() is None
    assert [ref() for ref in live._flat_weight_refs] == live._flat_weights
    assert all(
        one is other for one, other in zip(live._flat_weights, live.parameters(), strict=True)
    )
    assert all(map(torch.equal, live.parameters(), net.parameters()))


def test_weak_reference_to_what_is_not_kept_is_named(tmp_path) -> None:
    class Other:
        pass

    other = Other()
    kept = Kept(tmp_path)
    kept.take(h=[1, weakref.ref(other)])
    kept.done()
    assert list(kept.manifest().missing) == ["h[1]"]


def test_what_shared_memory_shares_it_again(tmp_path) -> None:
    base = torch.arange(12.0)
    array = base.numpy()
    kept = Kept(tmp_path)
    kept.take(h={"base": base, "tail": base[6:], "grid": base.view(3, 4).T, "array": array})
    kept.done()
    assert len(kept.manifest().blocks) == 1
    made: dict[str, Any] = {}
    kept.restore(h=made)
    made["base"][7] = 100.0
    assert made["tail"][1] == 100.0
    assert made["grid"][3, 1] == 100.0
    assert made["array"][7] == 100.0


def test_what_the_loop_parted_is_restored_apart(tmp_path) -> None:
    """The best state was a view of the model's until there was a better one."""
    net = nn.Linear(300, 200)
    array = np.arange(10.0)
    kept = Kept(tmp_path)
    apart = {name: value + 1 for name, value in net.state_dict().items()}
    kept.take(best=apart, net=net, numbers=array, held=[array + 1])
    kept.done()
    live = nn.Linear(300, 200)
    numbers = np.zeros(10)
    best: dict[str, Any] = dict(live.state_dict())
    values: dict[str, Any] = {"numbers": numbers, "held": [numbers.view()]}
    kept.restore(net=live, best=best, **values)
    assert torch.equal(live.weight, net.weight)
    assert torch.equal(best["weight"], net.weight + 1)
    assert numbers.tolist() == array.tolist()
    assert values["held"][0].tolist() == (array + 1).tolist()


def test_what_the_loop_joined_is_restored_joined_and_in_place(tmp_path) -> None:
    base, numbers = torch.arange(30_000.0), np.arange(9.0)
    values: dict[str, Any] = {"base": base, "tail": base[20_000:], "numbers": numbers}
    kept = Kept(tmp_path)
    kept.take(**values, held={"part": numbers[3:6], "grid": base.view(300, 100)})
    kept.done()
    live, array, held = torch.zeros(30_000), np.zeros(9), {"part": np.zeros(3)}
    tail = torch.zeros(10_000)
    kept.restore(base=live, tail=tail, numbers=array, held=held)
    assert torch.equal(live, base)
    assert array.tolist() == numbers.tolist()
    live[20_000] = -1.0
    array[4] = -2.0
    made: dict[str, Any] = held
    assert tail[0] == made["grid"][200, 0] == -1.0
    assert made["part"].tolist() == [3.0, -2.0, 5.0]


def test_attribute_put_on_a_tensor_is_named_also_where_the_model_is_known(tmp_path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    kept = Kept(tmp_path)
    for epoch in range(4):
        if epoch == 3:
            net[0].weight.average = torch.zeros(3)  # type: ignore[assignment]
        kept.take(f"epoch={epoch}@end", net=net)
    kept.done()
    assert kept.manifest("epoch=2@end").missing == {}
    assert list(kept.manifest("epoch=3@end").missing) == ["net.average"]


def test_equal_tensors_are_stored_once_and_stay_apart(tmp_path) -> None:
    kept = Kept(tmp_path)
    kept.take(
        h={"a": torch.ones(BIG), "b": torch.ones(BIG), "c": torch.ones(5), "d": torch.ones(5)}
    )
    kept.done()
    assert kept.saved[0].bytes < 1.02 * 4 * BIG
    made: dict[str, Any] = {}
    kept.restore(h=made)
    made["a"][0] = made["c"][0] = 7.0
    assert made["b"][0] == made["d"][0] == 1.0


def test_column_does_not_store_its_matrix(tmp_path) -> None:
    kept = Kept(tmp_path)
    kept.take(column=torch.zeros(1000, 1000)[:, 0])
    kept.done()
    assert kept.saved[0].bytes < 50_000


def _mapped(folder: Path, mode: str) -> Any:
    np.arange(64, dtype=np.float32).tofile(folder / "data.bin")
    return np.memmap(folder / "data.bin", dtype=np.float32, mode=mode)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_memory_that_cannot_be_written_to_is_left_alone_where_it_is_as_it_was(tmp_path) -> None:
    kept = Kept(tmp_path)
    tensor = torch.from_numpy(_mapped(tmp_path, "r"))
    values = {"array": _mapped(tmp_path, "r"), "tensor": tensor, "part": tensor[3:5]}
    values["plain"] = np.frombuffer(bytes(range(64)), dtype=np.uint8)
    kept.take(**values)
    kept.done()
    kept.restore(**values)
    assert tensor.tolist() == list(range(64))
    # Another file is mapped there by now.
    other = torch.from_numpy(_mapped(tmp_path, "c") + 1)
    other = torch.frombuffer(other.numpy().tobytes(), dtype=torch.float32)
    kept.restore(**{**values, "tensor": other, "part": other[3:5]})
    assert other.tolist() == list(range(64))


@pytest.mark.parametrize("mode", ["r+", "c"])
def test_what_was_written_to_a_mapped_file_is_put_back(tmp_path, mode) -> None:
    kept = Kept(tmp_path)
    array, masked = _mapped(tmp_path, mode), np.ma.masked_array([1.0, 2.0, 3.0], [0, 1, 0])
    kept.take(array=array, masked=masked)
    kept.done()
    array[:], masked[0], masked[2] = 5, 7, np.ma.masked
    kept.restore(array=array, masked=masked)
    assert array.tolist() == list(range(64))
    assert (masked.data.tolist(), masked.mask.tolist()) == ([1, 2, 3], [False, True, False])


def _trained(seed: int, steps: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    net[2].weight = nn.Parameter(torch.randn(4, 8))
    tied = nn.Linear(4, 8, bias=False)
    tied.weight = net[0].weight
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    found = {
        "net": net,
        "tied": tied,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20),
        "ema": torch.optim.swa_utils.AveragedModel(net),
        "scaler": torch.amp.GradScaler("cpu", init_scale=2.0**seed, growth_interval=2),
        "python": random.Random(seed),
        "numpy": np.random.default_rng(seed),
        "legacy": np.random.RandomState(seed),
        "torch": torch.Generator().manual_seed(seed),
    }
    data = torch.utils.data.TensorDataset(torch.arange(40.0).reshape(10, 4))
    found["loader"] = torch.utils.data.DataLoader(
        data, shuffle=True, batch_size=5, generator=found["torch"]
    )
    for _ in range(steps):
        _step(found)
    return found


def _step(found: dict[str, Any]) -> list[float]:
    """One step of training; numbers that depend on the whole state."""
    (x,) = next(iter(found["loader"]))
    x = x + float(found["numpy"].random()) + found["python"].random() + found["legacy"].rand()
    loss = found["net"](x).square().mean()
    found["optimizer"].zero_grad()
    found["scaler"].scale(loss).backward()
    found["scaler"].step(found["optimizer"])
    found["scaler"].update()
    found["scheduler"].step()
    found["ema"].update_parameters(found["net"])
    shadow = next(iter(found["ema"].parameters())).sum().item()
    rate = found["optimizer"].param_groups[0]["lr"]
    return [loss.item(), shadow, rate, found["scaler"].get_scale(), found["tied"](x).sum().item()]


def test_training_goes_on_exactly_where_it_was(tmp_path) -> None:
    found = _trained(1, 3)
    kept = Kept(tmp_path)
    kept.take(**found)
    kept.done()
    expected = [_step(found) for _ in range(4)]
    other = _trained(2, 1)
    weight = other["net"][0].weight
    kept.restore(**other)
    assert other["net"][0].weight is weight
    assert [_step(other) for _ in range(4)] == expected
    assert other["tied"].weight is weight


def test_loading_into_other_objects_of_a_running_program(tmp_path) -> None:
    found = _trained(1, 3)
    kept = Kept(tmp_path)
    kept.take(**found)
    kept.done()
    net = _trained(2, 0)["net"]
    failed = load_objects(kept.manifest(), kept.objects, {"net": net})
    assert "net" not in failed
    assert _same(net[0].weight, found["net"][0].weight)


# Only what changed.


def _epochs(kept: Kept, values: dict[str, Any], change: Callable[[int], None], count: int) -> None:
    for epoch in range(count):
        change(epoch)
        for boundary in (f"epoch={epoch}/step@exit", f"epoch={epoch}@end"):
            kept.take(boundary, **values)


WRITERS: dict[str, Callable[[torch.Tensor, float], Any]] = {
    "in place": lambda t, x: t.fill_(x),
    "past the version counter": lambda t, x: t.data.fill_(x),
    "through NumPy": lambda t, x: t.numpy().fill(x),
    "one byte of an inner page": lambda t, x: ctypes.memset(t.data_ptr() + 100_000, int(x), 1),
    "the first byte": lambda t, x: ctypes.memset(t.data_ptr(), int(x), 1),
    "the last byte": lambda t, x: ctypes.memset(t.data_ptr() + 4 * BIG - 1, int(x), 1),
}


@pytest.mark.parametrize("writer", list(WRITERS))
def test_no_write_to_a_frozen_tensor_is_overlooked(tmp_path, writer) -> None:
    frozen = torch.zeros(BIG)
    states = []
    kept = Kept(tmp_path)

    def change(epoch: int) -> None:
        if epoch in (5, 6, 9):
            WRITERS[writer](frozen, epoch)
        states.append(frozen.clone())

    _epochs(kept, {"frozen": frozen}, change, 12)
    kept.done()
    for epoch, state in enumerate(states):
        for boundary in (f"epoch={epoch}/step@exit", f"epoch={epoch}@end"):
            live = torch.ones(BIG)
            kept.restore(boundary, frozen=live)
            assert torch.equal(live.view(torch.uint8), state.view(torch.uint8))


def _of_a_file(folder: Path) -> tuple[mmap.mmap, Callable[[], Any]]:
    path = folder / "weights"
    path.write_bytes(b"\1" * BIG * 4)
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return memory, lambda: path.open("r+b").write(b"\2" * BIG * 4)


def _shared(folder: Path) -> tuple[mmap.mmap, Callable[[], Any]]:
    memory = mmap.mmap(-1, BIG * 4)

    def write_in_a_child() -> None:
        child = multiprocessing.get_context("fork").Process(target=memory.write, args=(b"\2" * 9,))
        child.start()
        child.join(30)

    return memory, write_in_a_child


def _dropped(folder: Path) -> tuple[mmap.mmap, Callable[[], Any]]:
    memory = mmap.mmap(-1, BIG * 4, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"\1" * BIG * 4
    return memory, lambda: memory.madvise(mmap.MADV_DONTNEED)


@pytest.mark.parametrize("make", [_of_a_file, _shared, _dropped])
def test_memory_that_changes_without_a_write_of_this_process_is_not_overlooked(
    tmp_path, make
) -> None:
    memory, change = make(tmp_path)
    array = np.frombuffer(memory, dtype=np.uint8)
    kept = Kept(tmp_path)
    _epochs(kept, {"array": array}, lambda epoch: None, 4)
    before = array.copy()
    change()
    assert not np.array_equal(before, array)
    kept.take("epoch=9@end", array=array)
    kept.done()
    live = np.zeros(BIG * 4, np.uint8)
    kept.restore("epoch=9@end", array=live)
    assert np.array_equal(live, array)


def test_bytes_stored_are_the_bytes_changed(tmp_path) -> None:
    frozen = nn.Sequential(*(nn.Linear(700, 700) for _ in range(6)))
    changing = torch.zeros(BIG)
    kept = Kept(tmp_path)
    values = {"frozen": frozen, "changing": changing}
    _epochs(kept, values, lambda epoch: changing.add_(1.0), 6)
    kept.done()
    first, *others = [saved.bytes for saved in kept.saved]
    assert first > 6 * 4 * 700 * 700 + 4 * BIG
    assert sum(others) < 1.05 * 5 * 4 * BIG


def test_memory_that_is_used_otherwise_is_not_taken_for_what_it_was(tmp_path) -> None:
    kept = Kept(tmp_path)
    made: list[torch.Tensor] = []
    for epoch in range(20):
        # Freed and allocated anew, often at the same address, with other content.
        tensor = torch.full((BIG,), float(epoch % 3)) if epoch % 4 else torch.zeros(BIG)
        made.append(tensor[:1].clone())
        for boundary in (f"epoch={epoch}/step@exit", f"epoch={epoch}@end"):
            kept.take(boundary, tensor=tensor)
        del tensor
    kept.done()
    for epoch, first in enumerate(made):
        live = torch.ones(BIG)
        kept.restore(f"epoch={epoch}@end", tensor=live)
        assert (live == first).all()


def test_forked_child_leaves_the_parents_watched_memory_alone(tmp_path) -> None:
    frozen = torch.zeros(BIG)
    kept = Kept(tmp_path)
    _epochs(kept, {"frozen": frozen}, lambda epoch: None, 4)
    arguments = (frozen.data_ptr(), 1, 4 * BIG)  # torch's threads do not survive a fork
    child = multiprocessing.get_context("fork").Process(target=ctypes.memset, args=arguments)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    frozen[-1] = 2.0
    kept.take("epoch=9@end", frozen=frozen)
    kept.done()
    live = torch.ones(BIG)
    kept.restore("epoch=9@end", frozen=live)
    assert torch.equal(live, frozen)
    assert live[0] == 0.0


def test_memory_on_its_way_to_the_disk_is_bounded(tmp_path) -> None:
    changing = [torch.zeros(BIG) for _ in range(4)]
    kept = Kept(tmp_path, snapshot_memory_bytes=2 * 4 * BIG)
    _epochs(kept, {"h": changing}, lambda epoch: [t.fill_(epoch) for t in changing][:0], 3)
    kept.done()
    assert kept.snapshotter._buffers._allocated <= 2 * 4 * BIG + 8192
    live = [torch.ones(BIG) for _ in range(4)]
    kept.restore("epoch=2@end", h=live)
    assert all((tensor == 2).all() for tensor in live)


def test_handle_of_a_hook_still_removes_it(tmp_path) -> None:
    layer = torch.nn.Linear(1, 1)
    handle = layer.register_forward_hook(lambda *_: None)
    kept = Kept(tmp_path)
    kept.take(layer=layer, handle=handle, handles=[handle])
    kept.done()
    handles = [handle]
    kept.restore(layer=layer, handle=handle, handles=handles)
    assert handles[0] is handle
    handles[0].remove()
    assert not layer._forward_hooks


def test_weak_set_forgets_what_is_gone(tmp_path) -> None:
    class Key:
        pass

    keys = [Key(), Key()]
    known = weakref.WeakSet(keys)
    kept = Kept(tmp_path, lambda file: file == __file__)
    kept.take(keys=keys, known=known)
    kept.done()
    known.clear()
    kept.restore(keys=keys, known=known)
    assert set(known) == set(keys)
    del keys[0]
    gc.collect()
    assert len(known) == 1


class Counting:
    """An object of a library's that refers to itself, and says how it is pickled."""

    def __init__(self) -> None:
        self.count = 0
        self.bump = self._bump

    def _bump(self) -> None:
        self.count += 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def test_library_object_that_refers_to_itself_still_does(tmp_path) -> None:
    holder = {"counting": Counting()}
    holder["counting"].bump()
    kept = Kept(tmp_path)
    kept.take(holder=holder)
    kept.done()
    holder["counting"].bump()
    kept.restore(holder=holder)
    holder["counting"].bump()
    assert holder["counting"].count == 2
