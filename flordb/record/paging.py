"""Seconds that a training's thread spends on having the system find memory.

glibc gives large freed blocks back, and the next step has their pages found and cleared again; or
it keeps them, as chance has it: from none to a fifth of a training's time. A replay keeps them
(`replay.memory`), so that a run has to tell what of its time this was.
"""

from __future__ import annotations

from typing import NamedTuple

try:
    from resource import RUSAGE_THREAD, getrusage
except ImportError:  # not Linux
    getrusage = None  # type: ignore[assignment]

_FAULT_SECONDS = 2e-6
"""The most that a page takes. What else a thread has the system do counts by this as little."""


class Mark(NamedTuple):
    """``seconds`` that a thread had spent in the system, and ``pages`` that it had asked for."""

    seconds: float
    pages: int


class Paging:
    """Of the thread that asks, and without what was left out."""

    def __init__(self) -> None:
        self._out = Mark(0.0, 0)

    def now(self) -> Mark:
        """A moment, for `since`."""
        if getrusage is None:
            return self._out
        used = getrusage(RUSAGE_THREAD)
        return Mark(used.ru_stime - self._out.seconds, used.ru_minflt - self._out.pages)

    def since(self, mark: Mark) -> float:
        """Seconds since a moment."""
        seconds, pages = self._past(mark)
        return max(0.0, min(seconds, pages * _FAULT_SECONDS))

    def leave_out(self, mark: Mark) -> None:
        """Do not count what was since a moment."""
        seconds, pages = self._past(mark)
        self._out = Mark(self._out.seconds + seconds, self._out.pages + pages)

    def _past(self, mark: Mark) -> Mark:
        now = self.now()
        return Mark(now.seconds - mark.seconds, now.pages - mark.pages)


def told(seconds: float) -> dict[str, float]:
    """What a run file's line says of them, where there were any."""
    paging = round(seconds, 4)
    return {"paging": paging} if paging else {}
