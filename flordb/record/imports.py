"""How long a script imports while it sets itself up: a replay's worker has done that before."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

_MOST_SECONDS = 0.5
"""Of one module's own, within another's import; whoever needs longer until the next computes."""
_BETWEEN_SECONDS = 0.02
"""The same between imports of the script's own: more is the script's work between them."""


class ImportClock:
    """Sees each module that is looked for, finds none, and adds up the time between them.

    Imports come in bursts: the first optimizer imports 800 modules of torch, which takes a second.
    ``began``: when it began to watch, by `time.perf_counter`.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.began = time.perf_counter()
        self._last: float | None = None
        sys.meta_path.insert(0, self)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        now = time.perf_counter()
        if self._last is not None:
            gap = now - self._last
            if gap < _BETWEEN_SECONDS or (gap < _MOST_SECONDS and _is_importing()):
                self.seconds += gap
        self._last = now

    def stop(self) -> float:
        """Stop watching. Returns the seconds."""
        with suppress(ValueError):
            sys.meta_path.remove(self)
        return self.seconds


def _is_importing() -> bool:
    """Whether a module is being looked for by another one that is being imported."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "_load_unlocked" and code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
