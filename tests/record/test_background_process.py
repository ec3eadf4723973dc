"""``flor.background.process``: objects in a process of their own."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch.utils.tensorboard import SummaryWriter

from flordb import background
from flordb.background.memory import Ring
from flordb.errors import FlorWarning


class Kept:
    """A logger that keeps what it sees, and writes it to a file when it is flushed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[Any] = []

    def see(self, value: Any) -> None:
        self.seen.append(value)

    def spoil(self, value: Any) -> None:
        value.fill_(-1)

    def fail(self, number: int) -> None:
        raise ValueError(f"no {number}")

    def flush(self) -> None:
        torch.save(self.seen, self.path)


@pytest.fixture(autouse=True)
def _all_done() -> Iterator[None]:
    yield
    assert background.wait(30)


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process for this test alone."""
    before, background._process = background._process, None
    yield
    background.end()
    background._process.close()
    background._process = before


Seen = Callable[[], list[Any]]


def kept_in(folder: Path) -> tuple[Any, Seen]:
    """A logger in the process, and how to look at what it has seen."""
    kept = background.process(Kept, folder / "kept")

    def seen() -> list[Any]:
        kept.flush()
        return torch.load(folder / "kept", weights_only=False)

    return kept, seen


def warnings_of(recwarn: pytest.WarningsRecorder) -> list[str]:
    return [str(w.message) for w in recwarn if w.category is FlorWarning]


def events_in(folder: Path) -> list[tuple[int, bytes]]:
    """(step, values) of the one event file, by TensorBoard's own reader."""
    (path,) = folder.iterdir()
    loaded = EventFileLoader(str(path)).Load()
    return [(event.step, event.summary.SerializeToString(deterministic=True)) for event in loaded]


def test_event_files_hold_what_plain_logging_writes(tmp_path: Path) -> None:
    def log_all(writer: SummaryWriter, values: dict[str, torch.Tensor], step: int) -> None:
        for name, value in values.items():
            writer.add_histogram(name, value, step)

    def train(writer: SummaryWriter, submit: Callable[..., None]) -> None:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 1))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(5):
            loss = net(torch.randn(32, 8)).square().mean()
            loss.backward()
            writer.add_scalar("loss", loss, step)
            submit(log_all, writer, dict(net.named_parameters()), step)
            submit(log_all, writer, {n: p.grad for n, p in net.named_parameters()}, step)
            writer.add_text("step", f"the {step}th", global_step=step)
            writer.add_image("weights", net[0].weight.clamp(0, 1).expand(3, 16, 8), step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

    with SummaryWriter(str(tmp_path / "plain")) as plain:
        train(plain, lambda call, *arguments: call(*arguments))
    with background.process(SummaryWriter, str(tmp_path / "behind")) as behind:
        train(behind, background.submit)
    expected = events_in(tmp_path / "plain")
    assert len(expected) == 1 + 5 * 11
    assert events_in(tmp_path / "behind") == expected


BASE = torch.arange(24.0).reshape(2, 3, 4)
KINDS: list[Any] = [
    BASE.permute(2, 0, 1),
    BASE[:, ::2],
    BASE[1],
    torch.ones(3).expand(2, 3),
    torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    torch.tensor(7),
    torch.empty(0, 3),
    BASE.bfloat16(),
    BASE.to(torch.float8_e4m3fn),
    BASE > 3,
    torch.tensor([1 + 2j]).conj(),
    torch.tensor([1 + 2j]).imag.neg(),
    torch.eye(3).to_sparse(),
    torch.nn.Parameter(torch.randn(3)),
    torch.randn(3, requires_grad=True) * 2,
    numpy.asfortranarray(numpy.arange(6).reshape(2, 3)),
    numpy.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    numpy.arange(6)[::-2],
    numpy.array(5.0),
    numpy.empty((0, 2)),
    numpy.array(["2026-11-25"], "datetime64[D]"),
    numpy.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    numpy.array([{"a": 1}, None], dtype=object),
    numpy.ma.masked_array([1, 2], [True, False]),
    {"nested": [BASE, (numpy.arange(3), "text", 3)]},
]


def plain_bytes(value: Any) -> Any:
    """A value in a form that can be compared, with its type and shape."""
    if isinstance(value, dict):
        return {key: plain_bytes(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain_bytes(item) for item in value)
    if isinstance(value, numpy.ndarray):
        return type(value), value.dtype, value.shape, value.tolist()
    if isinstance(value, torch.Tensor):
        value = value.detach()
        dense = value.to_dense() if value.is_sparse else value
        dense = dense.float() if dense.dtype == torch.float8_e4m3fn else dense
        return value.dtype, value.layout, value.shape, dense.tolist()
    return value


def test_arrays_and_tensors_of_all_kinds_arrive_as_they_are(tmp_path: Path) -> None:
    kept, seen = kept_in(tmp_path)
    for value in KINDS:
        kept.see(value)
    got = seen()
    assert len(got) == len(KINDS)
    for found, value in zip(got, KINDS, strict=True):
        assert plain_bytes(found) == plain_bytes(value)
    assert got[0].stride() == KINDS[0].stride()
    assert got[4].stride() == KINDS[4].stride()
    assert all(v.flags.f_contiguous for v in got if type(v) is numpy.ndarray and v.shape == (2, 3))
    assert not any(v.requires_grad for v in got if isinstance(v, torch.Tensor))


def test_an_empty_tensor_and_the_next_one_are_two(tmp_path: Path) -> None:
    kept, seen = kept_in(tmp_path)
    kept.see([torch.empty(0), torch.ones(1), numpy.empty(0), numpy.ones(1)])
    ((none, one, nothing, single),) = seen()
    assert none.shape == nothing.shape == (0,)
    assert one.tolist() == single.tolist() == [1]


def test_a_tensor_that_comes_twice_in_a_call_is_one_there_too(tmp_path: Path) -> None:
    kept, seen = kept_in(tmp_path)
    tied = torch.randn(5)
    kept.see([tied, {"again": tied}])
    ((one, other),) = seen()
    assert one is other["again"]


def test_calls_see_tensors_as_they_were_and_cannot_change_them(tmp_path: Path) -> None:
    kept, seen = kept_in(tmp_path)
    weight = torch.zeros(1000)
    array = numpy.zeros(10)
    for step in range(100):
        kept.see((step, weight, array))
        kept.spoil(weight)
        weight += 1
        array += 1
    assert weight.eq(100).all()
    for step, (number, then, numbers) in enumerate(seen()):
        assert number == step
        assert then.eq(step).all()
        assert (numbers == step).all()


def test_each_logger_sees_its_calls_in_their_order_from_all_threads(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (kept, seen), (other, others) = kept_in(tmp_path), kept_in(tmp_path / "other")

    def call(thread: int) -> None:
        for number in range(100):
            kept.see((thread, number))
            background.submit(lambda a, b, *what: (a.see(what), b.see(what)), kept, other, thread)
            background.submit(other.see, (thread, number))

    threads = [threading.Thread(target=call, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found, one_by_one in (
        (seen(), lambda t, n: [(t, n), (t,)]),
        (others(), lambda t, n: [(t,), (t, n)]),
    ):
        for thread in range(3):
            own = [value for value in found if value[0] == thread]
            assert own == [value for n in range(100) for value in one_by_one(thread, n)]


def test_an_error_is_said_once_with_where_it_was_and_training_goes_on(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    kept, seen = kept_in(tmp_path)
    for number in range(3):
        kept.fail(number)
        kept.see(number)
    assert seen() == [0, 1, 2]
    (warning,) = warnings_of(recwarn)
    assert "Kept.fail failed in the process of flordb.background" in warning
    assert 'raise ValueError(f"no {number}")' in warning
    assert "ValueError: no 0" in warning


def test_what_cannot_be_pickled_is_said_once_and_training_goes_on(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    kept, seen = kept_in(tmp_path)
    for number in range(3):
        kept.see(threading.Lock())
        kept.see(number)
    assert seen() == [0, 1, 2]
    (warning,) = warnings_of(recwarn)
    assert "Kept.see failed" in warning
    assert "cannot pickle '_thread.lock' object" in warning


def test_an_object_that_could_not_be_made_takes_calls_and_does_nothing(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    missing = background.process(open, str(tmp_path / "no" / "file"), "w")
    for _ in range(3):
        missing.write("text")
    missing.close()
    (warning,) = warnings_of(recwarn)
    assert "open failed in the process" in warning
    assert "FileNotFoundError" in warning


def test_of_an_object_elsewhere_only_methods_can_be_used(tmp_path: Path) -> None:
    kept, _ = kept_in(tmp_path)
    assert "Kept of flordb.background.process" in repr(kept)
    with pytest.raises(AttributeError, match="no method of Kept"):
        kept.seen  # noqa: B018
    with pytest.raises(AttributeError):
        kept.new = 3
    # So it reaches no spawned child, as an argument or in a dataset.
    with pytest.raises(TypeError, match="belongs to the process that made it"):
        pickle.dumps({"logger": kept})
    with pytest.raises(TypeError, match="belongs to the process that made it"):
        pickle.dumps(kept.see)


def test_forked_workers_of_a_dataloader_leave_the_objects_alone(tmp_path: Path) -> None:
    kept, seen = kept_in(tmp_path)

    class Squares(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> torch.Tensor:
            first = index < 2  # of this worker
            with pytest.warns(FlorWarning, match="can make objects") if first else nullcontext():
                kept.see("from a worker")
            kept.flush()  # does not wait for what will never be
            return torch.tensor(index * index)

    loader = torch.utils.data.DataLoader(Squares(), num_workers=2, multiprocessing_context="fork")
    for batch in loader:
        kept.see(int(batch))
    assert seen() == [index * index for index in range(40)]


def test_submit_waits_where_copies_take_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_process: None
) -> None:
    class Firsts:  # here, so that its process need not import this module
        def __init__(self) -> None:
            self.file = open(tmp_path / "firsts", "w")  # noqa: SIM115

        def see(self, array: numpy.ndarray) -> None:
            assert (array == array[0]).all()
            self.file.write(f"{array[0]:.0f}\n")

        def close(self) -> None:
            self.file.close()

    def wait_for_gate(_: Firsts) -> None:
        while not gate.exists():
            time.sleep(0.01)

    gate = tmp_path / "gate"
    monkeypatch.setenv("FLORDB_BACKGROUND_BYTES", "1000000")
    firsts = background.process(Firsts)
    background.submit(wait_for_gate, firsts)
    firsts.see(numpy.zeros(50_000))  # 400 kB
    firsts.see(numpy.ones(50_000))
    third = threading.Thread(target=firsts.see, args=(numpy.full(50_000, 2.0),))
    third.start()
    third.join(0.3)
    assert third.is_alive()
    gate.touch()
    third.join(20)
    assert not third.is_alive()
    for number in range(3, 30):  # more than all, once nothing else is held; and round the ring
        size = 1_000_000 if number % 10 == 3 else 5_000 * number
        firsts.see(numpy.full(size, float(number)))
    firsts.close()
    assert (tmp_path / "firsts").read_text().split() == [str(number) for number in range(30)]


def test_signals_do_not_end_the_process(tmp_path: Path) -> None:
    kept, seen = kept_in(tmp_path)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        background.submit(lambda _, number=number: os.kill(os.getpid(), number), kept)
    kept.see("still there")
    assert seen() == ["still there"]


def test_training_goes_on_when_the_process_is_killed(
    tmp_path: Path, own_process: None, recwarn: pytest.WarningsRecorder
) -> None:
    first = background.process(open, tmp_path / "first", "w")
    background.submit(lambda _: os.kill(os.getpid(), signal.SIGKILL), first)
    assert background.wait(20)
    first.write("dropped")
    first.flush()
    (warning,) = warnings_of(recwarn)
    assert "was ended by signal 9" in warning
    assert "are dropped" in warning
    second = background.process(open, tmp_path / "second", "w")  # has a process again
    second.write("text")
    second.flush()
    assert (tmp_path / "second").read_text() == "text"


def test_without_anonymous_memory_the_thread_takes_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    kept, seen = kept_in(tmp_path)
    weight, here = torch.zeros(3), threading.current_thread()
    kept.see(weight)
    background.submit(lambda it: it.see(threading.current_thread() is here), kept)
    weight += 1
    first, second = seen()
    assert first.eq(0).all()
    assert second is False


sizes = some.integers(1, 5_000)
steps = some.lists(some.one_of(sizes, some.integers(-20, -1)), max_size=200)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_places_in_the_shared_memory_never_overlap(steps: list[int]) -> None:
    ring = Ring(10_000)
    held: dict[int, int] = {}
    try:
        for step in steps:
            if step > 0:
                start = ring.start_for(step)
                if start is not None:
                    ring.hold(start, step)
                    held[start] = start + step
                    assert 0 <= start < held[start] <= ring.size
                    places = sorted(held.items())
                    assert all(a[1] <= b[0] for a, b in pairwise(places))
                else:
                    assert held
            elif held:
                start = list(held)[min(-step - 1, len(held) - 1)]  # in any order
                del held[start]
                ring.free(start)
    finally:
        ring.close()
