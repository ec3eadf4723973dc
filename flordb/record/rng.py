"""The states of the process's random number generators: Python's, NumPy's and torch's.

Only of libraries that the script has imported; none is imported here.
"""

from __future__ import annotations

import pickle
import random
import sys
from typing import Any


def get_states() -> dict[str, Any]:
    """The states by library, in a form that pickles."""
    states: dict[str, Any] = {"random": random.getstate()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        states["numpy"] = numpy.random.get_state()
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state().numpy().tobytes()
        states["torch_seed"] = torch.initial_seed()
        if torch.cuda.is_initialized():
            states["cuda"] = [s.numpy().tobytes() for s in torch.cuda.get_rng_state_all()]
    return states


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
