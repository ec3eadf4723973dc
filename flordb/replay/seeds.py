"""Finds unseeded random numbers in the replay of a run that has no snapshots.

With the snapshot at its start a run's generators are known. Without it, only those are that the
script seeds before it draws from them.
"""

from __future__ import annotations

import functools
import random
import sys
from typing import Any

from flordb.record import rng

_SEEDING = {"random": ("random", "seed"), "numpy": ("numpy.random", "seed")}


class Seeds:
    """Watches the process's generators from now on."""

    def __init__(self) -> None:
        torch = sys.modules.get("torch")
        if torch is not None:
            # Other than any other process's, so that it is seen whether the script seeds it.
            torch.default_generator.manual_seed(random.SystemRandom().getrandbits(62))
        self._begun = rng.get_states()
        self._seeded: set[str] = set()
        for library, (module, name) in _SEEDING.items():
            if module in sys.modules:
                self._watch(library, sys.modules[module], name)

    def _watch(self, library: str, module: Any, name: str) -> None:
        original = getattr(module, name)

        @functools.wraps(original)
        def seed(*args: Any, **options: Any) -> Any:
            given = bool(options) or (bool(args) and args[0] is not None)
            if given and library not in self._drawn(rng.get_states()):
                self._seeded.add(library)
            return original(*args, **options)

        setattr(module, name, seed)

    def _drawn(self, now: dict[str, Any]) -> set[str]:
        """The libraries whose generators are no longer where they began, and not seeded either."""
        moved = set(rng.differing(self._begun, now)) - self._seeded
        if now.get("torch_seed") != self._begun.get("torch_seed"):
            moved.discard("torch")
        return moved

    def unseeded(self) -> list[str]:
        """The libraries from which the script has drawn numbers without having seeded them."""
        return sorted(self._drawn(rng.get_states()))
