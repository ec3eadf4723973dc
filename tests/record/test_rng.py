"""The states of the generators: what is asked for again is the state as it is now."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy
import pytest
import torch

from flordb.record.rng import differing, get_states, set_states

DRAWS: dict[str, Callable[[], object]] = {
    "random": random.random,
    "random.gauss": lambda: random.gauss(0, 1),
    "random.seed": lambda: random.seed(3),
    "numpy": numpy.random.rand,
    "numpy.randn": numpy.random.randn,  # every second one changes only that it was drawn
    "numpy.shuffle": lambda: numpy.random.shuffle([1, 2, 3]),
    "numpy.seed": lambda: numpy.random.seed(3),
    "numpy.set_state": lambda: numpy.random.set_state(numpy.random.RandomState(5).get_state()),
    "torch": lambda: torch.rand(1),
    "torch.manual_seed": lambda: torch.manual_seed(4),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_a_state_is_never_an_earlier_one(draw: str) -> None:
    numpy.random.seed(0)
    random.seed(0)
    torch.manual_seed(0)
    for _ in range(4):
        before = get_states()
        DRAWS[draw]()
        after = get_states()
        drawn = random.random(), random.gauss(0, 1), numpy.random.randn(), torch.rand(1).item()
        if not draw.endswith(("seed", "set_state")):
            assert differing(before, after) == [draw.partition(".")[0]]
        set_states(after)
        again = random.random(), random.gauss(0, 1), numpy.random.randn(), torch.rand(1).item()
        assert again == drawn
        set_states(after)


@pytest.mark.filterwarnings("ignore:get_state and legacy")
def test_another_kind_of_generator_behind_numpy_is_seen() -> None:
    usual = numpy.random.get_bit_generator()
    try:
        numpy.random.set_bit_generator(numpy.random.PCG64(1))
        before = get_states()["numpy"]
        numpy.random.rand()
        after = get_states()["numpy"]
    finally:
        numpy.random.set_bit_generator(usual)
    assert before != after
    assert get_states()["numpy"][0] == "MT19937"
