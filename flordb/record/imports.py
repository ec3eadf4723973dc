"""How long a script imports while it sets itself up: a replay's worker has done that before."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

_MOST_SECONDS = 0.5
"""Of one module's own; whoever needs longer until the next import computes."""


class ImportClock:
    """Sees each module that is looked for, finds none, and adds up the time between them.

    Imports come in bursts: the first optimizer imports 800 modules of torch, which takes a second.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last: float | None = None
        sys.meta_path.insert(0, self)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        now = time.perf_counter()
        if self._last is not None and now - self._last < _MOST_SECONDS:
            self.seconds += now - self._last
        self._last = now

    def stop(self) -> float:
        """Stop watching. Returns the seconds."""
        with suppress(ValueError):
            sys.meta_path.remove(self)
        return self.seconds
