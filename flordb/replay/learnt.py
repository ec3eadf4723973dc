"""What replays of a project have taken: corrections of the estimates, kept in ``.flor/costs.json``.

A run's timings say what its code took on its own machine at its own time. How long this machine
takes to start a worker, to load a snapshot and to compute the same is learnt from each replay, as a
moving average, by script and scan. The file is derived: without it the defaults hold.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flordb.replay.cost import Parts

_WEIGHT = 0.5
_SPEED = "speed "
_LEAST_COMPUTED = 0.05
"""Shorter computations say nothing about speed. Seconds."""
_LEAST_HELD = 0.005


@dataclass(frozen=True)
class Rates:
    """``task``: seconds to make a workspace, start a worker and end both; ``setup``: seconds that a
    script's set-up takes beyond what the run recorded; ``load``: seconds to begin to load a
    snapshot; ``restore``: seconds of loading for a second that it had held up the training;
    ``speed``: seconds here for a second of the run's computing."""

    task: float = 0.02
    setup: float = 0.008
    load: float = 0.0015
    restore: float = 0.5
    speed: float = 1.0


@dataclass
class Learnt:
    """``start``: seconds until a cold server has imported the libraries, None while unknown;
    ``crowd``: how much longer a worker computes while others do; ``scripts``: by script, "setup",
    "restore" and, by scan, the speeds."""

    start: float | None = None
    task: float | None = None
    crowd: float = 1.05
    scripts: dict[str, dict[str, float]] = field(default_factory=dict)

    def rates(self, script: str, scan: str, together: bool) -> Rates:
        """The rates for a scan of a script.

        Parameters: ``together``, whether other workers run at the same time.
        """
        own = self.scripts.get(script, {})
        known = Rates()
        return Rates(
            task=known.task if self.task is None else self.task,
            setup=own.get("setup", known.setup),
            restore=own.get("restore", known.restore),
            speed=self._speed(own, scan) * (self.crowd if together else 1.0),
        )

    def _speed(self, own: dict[str, float], scan: str) -> float:
        """What is known of this scan, which runs this part of the code; or half, in powers, of
        what other scans let expect: this machine may be another than the run's."""
        speeds = {k.partition(" ")[2]: v for k, v in own.items() if k.startswith(_SPEED)}
        if scan in speeds:
            return speeds[scan]
        return math.prod(speeds.values()) ** (0.5 / len(speeds)) if speeds else 1.0

    def worked(
        self, script: str, scan: str, together: bool, parts: Parts, took: Mapping[str, float]
    ) -> None:
        """Learn from a task: what the run had recorded, and what a worker measured (``took``)."""
        own = self.scripts.setdefault(script, {})
        _average(own, "setup", took["setup"] - parts.setup)
        loading = took["restored"] - took["restores"] * Rates().load
        if took["held"] >= _LEAST_HELD:
            _average(own, "restore", max(0.0, loading) / took["held"])
        if parts.compute < _LEAST_COMPUTED:
            return
        speed, key = took["computed"] / parts.computing, _SPEED + scan
        if together and key in own:
            crowd = {"": self.crowd}
            _average(crowd, "", max(1.0, speed / own[key]))
            self.crowd = crowd[""]
        else:
            _average(own, key, speed / (self.crowd if together else 1.0))

    def began(self, start: float | None, task: float | None) -> None:
        """Learn what a server's start and a task's beginning and end took, where known."""
        values = {k: v for k, v in (("start", self.start), ("task", self.task)) if v is not None}
        if start is not None:
            _average(values, "start", max(0.0, start))
        if task is not None:
            _average(values, "task", max(0.0, task))
        self.start, self.task = values.get("start"), values.get("task")


def _average(values: dict[str, float], name: str, value: float) -> None:
    known = values.get(name)
    values[name] = value if known is None else known + _WEIGHT * (value - known)


def load(store: Path) -> Learnt:
    """What is known in a project's ``.flor`` folder; nothing where that cannot be read."""
    try:
        return Learnt(**json.loads((store / "costs.json").read_text()))
    except (OSError, ValueError, TypeError):
        return Learnt()  # never learnt, or written by another version


def save(store: Path, learnt: Learnt) -> None:
    """Keep it. That another process learns at the same time costs one lesson; failing, all."""
    temporary = store / f"costs.{os.getpid()}.part"
    with suppress(OSError):
        temporary.write_text(json.dumps(asdict(learnt)))
        os.replace(temporary, store / "costs.json")
