"""When a snapshot pays: the joint invariant of adaptive checkpointing (equation 4.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from flordb.store.runfile import read_bytes

_REPLAYS_READ = 16
_RESTORE = re.compile(rb'"w":"restore","s":([0-9.e+-]+),"m":([0-9.e+-]+)')


@dataclass
class Adaptive:
    """Decides for each iteration of a top-level loop whether its snapshots are taken.

    The dissertation's block is one iteration here. With n·C the time computed so far and k·M the
    time that snapshots took from the training, equation 4.4, M/C < n/(k+1)·min(1/(1+c), ε), says
    that the time taken, the next snapshot included, stays below that share of the computing.

    M is measured: the seconds that the training was held up, plus the processor time that was
    used behind it, where no core was free for that. So it is small where little has changed.

    ``epsilon``: ε, the tolerated share. ``restore_ratio``: c, restore over materialization time,
    until `observe` knows better.
    """

    epsilon: float
    restore_ratio: float
    spent: float = 0.0
    """Seconds that snapshots of iterations have taken from the training."""
    _held: float = 0.0
    _behind: float = 0.0
    _behind_last: float = 0.0

    @property
    def share(self) -> float:
        return min(1 / (1 + self.restore_ratio), self.epsilon)

    @property
    def expected(self) -> float:
        """Seconds that the next iteration's snapshots are expected to take (M)."""
        return self._held + max(self._behind, self._behind_last)

    def observe(self, ratio: float | None) -> None:
        """Take c from the project's replays, where there were any."""
        self.restore_ratio = self.restore_ratio if ratio is None else ratio

    def pays(self, computed: float) -> bool:
        """Whether to take the snapshots of an iteration after ``computed`` seconds of training.

        With ε of 1 or more all are taken, whatever they cost.
        """
        return self.epsilon >= 1 or self.spent + self.expected < computed * self.share

    def begins(self) -> None:
        """The snapshots of an iteration are to be taken: what they take is measured anew."""
        self._held = 0.0
        self._behind, self._behind_last = 0.0, self._behind

    def expect(self, seconds: float) -> None:
        """Expect an iteration's snapshots to take this long, until one was taken."""
        self._held = self._held or seconds

    def held_up(self, seconds: float) -> None:
        """A snapshot of an iteration held up the training."""
        self.spent += seconds
        self._held += seconds

    def took_behind(self, seconds: float) -> None:
        """Storing a snapshot used a processor that the training would have used."""
        self.spent += seconds
        self._behind += seconds


def observed_ratio(runs: Path) -> float | None:
    """c as the latest replays of a project saw it: what restoring took over what M was.

    Parameters: ``runs``, the folder of run files; those of replays tell it. None: there are none.
    """
    restored = materialized = 0.0
    for path in sorted(runs.glob("*.replay-*"))[-_REPLAYS_READ:]:
        try:
            text = read_bytes(path)
        except OSError:
            continue  # moved or deleted meanwhile
        for seconds, held in _RESTORE.findall(text):
            restored += float(seconds)
            materialized += float(held)
    return restored / materialized if materialized > 0 else None
