"""``flor.background``: calls behind the training."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Iterator

import numpy
import pytest
import torch

import flordb
from flordb import background
from flordb.errors import FlorWarning


@pytest.fixture(autouse=True)
def _all_done() -> Iterator[None]:
    yield
    assert background.wait(20)


def test_a_call_sees_its_arguments_as_they_were() -> None:
    seen, gate = [], threading.Event()
    net = torch.nn.Linear(2, 2)
    array, nested = numpy.zeros(3), {"w": [net.weight, (net.bias, 7)]}
    before = net.weight.detach().clone()

    def look(weight: torch.Tensor, array: numpy.ndarray, *, nested: dict) -> None:
        gate.wait(10)
        seen.append((weight, array, nested, threading.current_thread()))

    background.submit(look, net.weight, array, nested=nested)
    with torch.no_grad():
        net.weight.fill_(9)
    array[:] = 9
    nested["w"].clear()
    gate.set()
    assert background.wait(10)
    ((weight, kept, inside, thread),) = seen
    assert torch.equal(weight, before)
    assert not weight.requires_grad
    assert kept.tolist() == [0, 0, 0]
    assert torch.equal(inside["w"][0], before)
    assert inside["w"][1][1] == 7
    assert thread is not threading.current_thread()


def test_calls_are_made_in_their_order() -> None:
    seen: list[int] = []
    for number in range(200):
        background.submit(seen.append, number)
    assert background.wait(10)
    assert seen == list(range(200))


def test_an_error_is_said_once_a_callable_and_the_others_go_on(
    recwarn: pytest.WarningsRecorder,
) -> None:
    seen: list[int] = []

    def bad(number: int) -> None:
        raise ValueError(f"no {number}")

    for number in range(3):
        background.submit(bad, number)
        background.submit(seen.append, number)
    assert background.wait(10)
    (warning,) = [w for w in recwarn if w.category is FlorWarning]
    assert "bad failed in the background" in str(warning.message)
    assert "ValueError: no 0" in str(warning.message)
    assert seen == [0, 1, 2]


def test_submit_waits_where_copies_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORDB_BACKGROUND_BYTES", "1000000")
    monkeypatch.setattr(background, "_thread", background.Thread())
    gate = threading.Event()
    done: list[int] = []

    def slow(tensor: torch.Tensor, number: int) -> None:
        gate.wait(10)
        done.append(number)

    background.submit(slow, torch.zeros(100_000), 0)  # 400 kB
    background.submit(slow, torch.zeros(100_000), 1)
    third = threading.Thread(target=background.submit, args=(slow, torch.zeros(100_000), 2))
    third.start()
    third.join(0.3)
    assert third.is_alive()
    gate.set()
    third.join(10)
    assert not third.is_alive()
    background.submit(slow, torch.zeros(1_000_000), 3)  # more than all: once nothing else is held
    assert background.wait(10)
    assert done == [0, 1, 2, 3]


def test_threads_change_more_often_while_a_call_runs_and_only_then() -> None:
    before, inside, gate = sys.getswitchinterval(), [], threading.Event()

    def look() -> None:
        inside.append(sys.getswitchinterval())
        gate.wait(10)

    def choose(seconds: float) -> None:
        sys.setswitchinterval(seconds)

    background.submit(look)
    gate.set()
    assert background.wait(10)
    assert inside[0] < before
    assert sys.getswitchinterval() == before
    try:
        background.submit(choose, 0.02)  # what the user sets stays
        assert background.wait(10)
        assert sys.getswitchinterval() == 0.02
    finally:
        sys.setswitchinterval(before)


def test_a_call_may_submit_another() -> None:
    seen: list[int] = []
    background.submit(lambda: background.submit(seen.append, 1))
    assert background.wait(10)
    assert seen == [1]


def test_values_logged_in_a_call_belong_where_it_was_submitted(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, torch, time\n"
        "def norm(w, n):\n    time.sleep(0.05)\n    flor.log('norm', w.norm().item())\n"
        "w = torch.ones(4)\n"
        "for epoch in flor.loop('epoch', range(2)):\n"
        "    for step in flor.loop('step', range(3)):\n"
        "        w *= 2\n"
        "        flor.background.submit(norm, w, step)\n",
    )
    sandbox.run("train.py")
    contexts = {line["c"]: line for line in sandbox.lines() if line["k"] == "ctx"}
    found = []
    for line in sandbox.lines():
        if line["k"] == "log":
            step = contexts[line["c"]]
            found.append((contexts[step["p"]]["i"], step["i"], line["v"]))
    assert sorted(found) == [(e, s, 2.0 ** (3 * e + s + 2)) for e in range(2) for s in range(3)]


def test_exit_waits_for_calls_but_not_for_ever(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, time, sys\n"
        "def work(n):\n    time.sleep(n)\n    print('done', n, flush=True)\n"
        "flor.background.submit(work, 0.3)\n"
        "if sys.argv[1:]: flor.background.submit(work, 60)\n",
    )
    assert sandbox.run("train.py").stdout == "done 0.3\n"
    began = time.monotonic()
    done = sandbox.run("train.py", "long", FLORDB_EXIT_WAIT_SECONDS="1")
    assert time.monotonic() - began < 30
    assert done.stdout == "done 0.3\n"
    assert "1 calls that were submitted to flordb.background had not run" in done.stderr
    assert not sandbox.project.runs.exists()  # nothing was recorded because of it


def test_children_that_are_forked_have_a_queue_of_their_own(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, os, time\n"
        "flor.background.submit(time.sleep, 0.2)\n"
        "if os.fork() == 0:\n"
        "    flor.background.submit(print, 'in the child', flush=True)\n"
        "    assert flor.background.wait(5)\n"
        "    os._exit(0)\n"
        "os.wait(); print('parent', flor.background.wait(5))\n",
    )
    assert sandbox.run("train.py").stdout == "in the child\nparent True\n"


def test_it_is_reached_through_flor_and_is_not_imported_with_it() -> None:
    assert flordb.background is background
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        background.submit(len, "x")
