"""What one replay is told to do, as data: the planner writes it, a worker carries it out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flordb.replay.namespace import Layers

DEVICES = "CUDA_VISIBLE_DEVICES"
"""A recorded variable that a replay does not take over: its machine has devices of its own."""


def package_of(module: str) -> str:
    """The package that a module is of."""
    return module.partition(".")[0]


@dataclass(frozen=True)
class Steps:
    """Which parts of the script a replay executes.

    ``before``: top-level loops that are skipped, their state loaded from the snapshot at their
    exit. ``loops``: the top-level loops that are iterated, in order; ``iterations``: the indexes
    whose values are wanted (None: all that the run completed). ``run_nested``: loops nested in
    them that are executed; the others are skipped where they have a snapshot. ``go_on``: whether
    the script goes on after the last of the loops. ``from_start``: every iteration from the first
    is executed, because a snapshot could not give all that the statement depends on. ``finish``:
    loops whose last iteration is run even where nothing in it is wanted, because the way in which
    the code left them decides what comes next.
    """

    scan: str
    before: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()
    iterations: tuple[int, ...] | None = None
    run_nested: tuple[str, ...] = ()
    go_on: bool = False
    from_start: bool = False
    finish: tuple[str, ...] = ()

    def wholly(self) -> Steps:
        """The same values by running every iteration from the first on."""
        return replace(self, scan="range", from_start=True)


@dataclass(frozen=True)
class Job:
    """A replay of one run in a worker.

    Paths are absolute; ``script`` and ``cwd`` are relative to ``workspace``, where the script finds
    the patched version: ``layers`` of an overlay there, or (None) a folder of links in ``outer``.
    ``env``: the variables of the run's environment that were recorded. ``imports``: libraries that
    are imported before the script begins, as the run had them at its first flor call.
    ``observed``: the inserted statements' lines by file, (first, last). ``needed``: the names that
    the statement depends on. ``exact_or_nothing``: without snapshots, a value that differs from the
    record makes the replay void. ``tolerance``: how far what is logged again may be from the
    record, see `flordb.replay.checks`. ``at_work``: when the run began and ended, in seconds since
    1970. ``absent``: what the run did not find in its project, and this replay is not to find
    there; ``older``: files that it found with other contents than they have, if they are there.
    ``pythonpath``: the run's, folders in the project relative to it.
    ``began``: from when on what is written is the replay's own, the version's files among it.
    """

    run_file: str
    workspace: str
    outer: str
    layers: Layers | None
    project: str
    script: str
    cwd: str
    argv: tuple[str, ...]
    module: str | None
    env: dict[str, str]
    imports: tuple[str, ...]
    names: tuple[str, ...]
    steps: Steps
    needed: tuple[str, ...]
    observed: dict[str, list[tuple[int, int]]]
    snapshots: str
    objects: str
    out: str
    header: dict[str, Any] = field(default_factory=dict)
    exact_or_nothing: bool = False
    tolerance: str = ""
    at_work: tuple[float, float] = (float("inf"), float("inf"))
    absent: tuple[str, ...] = ()
    older: tuple[str, ...] = ()
    pythonpath: tuple[str, ...] = ()
    began: float = float("inf")

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def load(path: Path) -> Job:
        fields = json.loads(path.read_text())
        steps = fields.pop("steps")
        for name in ("before", "loops", "run_nested", "finish"):
            steps[name] = tuple(steps[name])
        if steps["iterations"] is not None:
            steps["iterations"] = tuple(steps["iterations"])
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        if fields["layers"] is not None:
            fields["layers"] = Layers(**fields["layers"])
        return Job(steps=Steps(**steps), **fields)
