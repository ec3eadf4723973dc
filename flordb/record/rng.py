"""The states of the process's random number generators: Python's, NumPy's and torch's.

Only of libraries that the script has imported; none is imported here.
"""

from __future__ import annotations

import _random
import ctypes
import pickle
import random
import sys
from collections.abc import Callable
from typing import Any

_HEADER = 16
"""Bytes of an object before its own: the count of references, which always changes, and its type.
"""
_MT19937_BYTES = 625 * 4

_last: dict[str, tuple[Any, Any]] = {}
"""By library: the memory of the generator when its state was last asked for, and the state."""


def get_states() -> dict[str, Any]:
    """The states by library, in a form that pickles. They are not to be changed."""
    return plain(take_states())


def plain(states: dict[str, Any]) -> dict[str, Any]:
    """The states in a form that pickles."""
    if "torch" not in states:
        return states
    found = states | {"torch": states["torch"].numpy().tobytes()}
    if "cuda" in states:
        found["cuda"] = [s.numpy().tobytes() for s in states["cuda"]]
    return found


def take_states() -> dict[str, Any]:
    """Copies of the states, for `plain` to be called behind the training."""
    states: dict[str, Any] = {"random": _again("random", _memory_of_python, random.getstate)}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        states["numpy"] = _again("numpy", _memory_of_numpy, numpy.random.get_state)
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.default_generator.get_state()
        states["torch_seed"] = torch.initial_seed()
        if torch.cuda.is_initialized():
            states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _again(library: str, memory_of: Callable[[], Any], get_state: Callable[[], Any]) -> Any:
    """The state as it was, where the memory of the generator is: making it takes 20 times as long
    as comparing that, and many trainings draw from torch's generator only."""
    memory = memory_of() if sys.implementation.name == "cpython" else None
    last = _last.get(library)
    if memory is not None and last is not None and last[0] == memory:
        return last[1]
    state = get_state()
    _last[library] = memory, state
    return state


def _memory_of_python() -> Any:
    """All that decides what Python's generator draws next."""
    generator: Any = random.getstate.__self__  # type: ignore[attr-defined]
    return _memory(generator, _random.Random.__basicsize__), generator.gauss_next


def _memory_of_numpy() -> Any:
    """All that decides what NumPy's generator draws next; None where it is another than usual.

    The generator's own object has the second number of a pair from a normal distribution, which is
    drawn next without a change of the bits behind it.
    """
    numpy = sys.modules["numpy"]
    generator = numpy.random.get_state.__self__
    bits = generator._bit_generator
    if type(bits) is not numpy.random.MT19937:
        return None
    state = ctypes.string_at(bits.ctypes.state_address, _MT19937_BYTES)
    return _memory(generator, type(generator).__basicsize__), state


def _memory(value: Any, size: int) -> bytes:
    return ctypes.string_at(id(value) + _HEADER, size - _HEADER)


def begin_as(states: dict[str, Any]) -> None:
    """Put torch's generator where the run's process had it at its very beginning.

    torch remembers the seed that it drew for itself; Python's and NumPy's generators do not.
    """
    torch = sys.modules.get("torch")
    if torch is not None and "torch_seed" in states:
        torch.default_generator.manual_seed(states["torch_seed"])


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The libraries whose generators are in different states in the two."""
    shared = [name for name in ("random", "numpy", "torch") if name in one and name in other]
    return [name for name in shared if pickle.dumps(one[name]) != pickle.dumps(other[name])]


def set_states(states: dict[str, Any]) -> None:
    """Put the generators into these states. A library's state is left out if it isn't imported."""
    random.setstate(states["random"])
    numpy = sys.modules.get("numpy")
    if numpy is not None and "numpy" in states:
        numpy.random.set_state(states["numpy"])
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in states:
        torch.set_rng_state(_tensor(torch, states["torch"]))
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([_tensor(torch, s) for s in states["cuda"]])


def _tensor(torch: Any, data: bytes) -> Any:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
