"""When a snapshot pays: the joint invariant of adaptive checkpointing (equation 4.4)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Adaptive:
    """Decides for each iteration of a top-level loop whether its snapshots are taken.

    The dissertation's block is one iteration here. With n·C the time computed so far and k·M the
    time that snapshots have held up the training, equation 4.4, M/C < n/(k+1)·min(1/(1+c), ε), says
    that the time held up, the next snapshot included, stays below that share of the computing.

    ``epsilon``: ε, the tolerated share. ``restore_ratio``: c, restore over materialization time.
    """

    epsilon: float
    restore_ratio: float
    spent: float = 0.0
    """Seconds that snapshots of iterations have held up the training."""
    expected: float = 0.0
    """Seconds that the next iteration's snapshots are expected to take (M)."""

    @property
    def share(self) -> float:
        return min(1 / (1 + self.restore_ratio), self.epsilon)

    def pays(self, computed: float) -> bool:
        """Whether to take the snapshots of an iteration after ``computed`` seconds of training.

        With ε of 1 or more all are taken, whatever they cost.
        """
        if self.epsilon >= 1:
            return True
        return self.spent + self.expected < computed * self.share

    def took(self, seconds: float) -> None:
        """An iteration's snapshots held up the training for ``seconds``."""
        self.spent += seconds
        self.expected = seconds
