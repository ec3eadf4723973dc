"""What replays of a project have taken: corrections of the estimates, kept in ``.flor/costs.json``.

A run's timings say what its code took on its own machine at its own time. How long this machine
takes to start a worker, to load a snapshot and to compute the same is learnt from each replay, as a
moving average, by script. The file is derived: without it the defaults hold.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

_WEIGHT = 0.5
_LEAST_COMPUTED = 0.05
"""Shorter computations say nothing about speed. Seconds."""


@dataclass(frozen=True)
class Rates:
    """``task``: seconds to make a workspace, start a worker and end both; ``setup``: seconds that a
    script's set-up takes beyond what the run recorded; ``restore``: seconds to load a snapshot;
    ``speed``: seconds here for a second of the run's computing."""

    task: float = 0.15
    setup: float = 0.0
    restore: float = 0.0
    speed: float = 1.0


@dataclass
class Learnt:
    """``start``: seconds until a cold server has imported the libraries, None while unknown."""

    start: float | None = None
    task: float | None = None
    scripts: dict[str, dict[str, float]] = field(default_factory=dict)

    def rates(self, script: str, restore: float) -> Rates:
        """The rates for a script; ``restore``: seconds to load a snapshot while none is known."""
        own = self.scripts.get(script, {})
        known = Rates(restore=own.get("restore", restore))
        return replace(
            known,
            task=known.task if self.task is None else self.task,
            setup=own.get("setup", known.setup),
            speed=own.get("speed", known.speed),
        )

    def worked(self, script: str, setup: float, compute: float, took: dict[str, Any]) -> None:
        """Learn from a task: what the run had recorded, and what a worker measured (``took``)."""
        own = self.scripts.setdefault(script, {})
        _average(own, "setup", took["setup"] - setup)
        if took["restores"]:
            _average(own, "restore", took["restored"] / took["restores"])
        if compute >= _LEAST_COMPUTED:
            _average(own, "speed", took["computed"] / compute)

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
