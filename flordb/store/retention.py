"""How much is kept: which objects are still needed, and how a project keeps within its budget.

Objects that no snapshot refers to are removed. Beyond the budget, the least recently used ones are
spooled (`spool`) where a place for them is set; otherwise runs are thinned, the oldest first, to
snapshots of evenly spaced iterations, never fewer than two a run. All of it can be repeated,
stopped and run beside training: what is gone already is no error.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

from flordb.errors import SnapshotError
from flordb.settings import Settings
from flordb.store import spool as spooling
from flordb.store.lock import acquire
from flordb.store.project import Project
from flordb.store.snapshots import read_manifest

GRACE_SECONDS = 60.0
"""Younger objects stay: a snapshot that is being written may be about to refer to them."""

FEWEST_ITERATIONS = 2


@dataclass(frozen=True)
class Object:
    """A file of the object store; ``size`` is 0 for one that is spooled. Times are POSIX."""

    path: Path
    size: int
    used: float


@dataclass(frozen=True)
class Snapshot:
    """A manifest, the objects that it refers to, and its size."""

    path: Path
    objects: frozenset[str]
    size: int

    @property
    def boundary(self) -> str:
        return unquote(self.path.stem)


@dataclass
class Survey:
    """What a project's store holds. ``runs``: snapshots by the name of their run's folder."""

    objects: dict[str, Object] = field(default_factory=dict)
    spooled: dict[str, Path] = field(default_factory=dict)
    runs: dict[str, list[Snapshot]] = field(default_factory=dict)
    leftovers: list[Object] = field(default_factory=list)
    """What a killed process left behind, and manifests that cannot be read."""

    @property
    def size(self) -> int:
        """Bytes here, manifests included."""
        manifests = sum(s.size for snapshots in self.runs.values() for s in snapshots)
        return sum(o.size for o in self.objects.values()) + manifests

    def references(self) -> Counter[str]:
        """How many snapshots refer to each object."""
        snapshots = (s for found in self.runs.values() for s in found)
        return Counter(name for s in snapshots for name in s.objects)


@dataclass(frozen=True)
class Removal:
    """Something to remove: ``what`` for people, the files, and the bytes that this frees."""

    what: str
    paths: tuple[Path, ...]
    size: int


def survey(project: Project) -> Survey:
    """Look at everything that the store holds."""
    found = Survey()
    for path in _files(project.objects):
        name = path.parent.name + path.name
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if path.suffix == ".tmp":
            found.leftovers.append(Object(path, status.st_size, status.st_mtime))
        elif path.suffix == spooling.SUFFIX:
            found.spooled[name.removesuffix(spooling.SUFFIX)] = path
        else:
            found.objects[name] = Object(path, status.st_size, status.st_mtime)
    for path in _files(project.snapshots):
        try:
            status = path.stat()
            if path.suffix == ".tmp":
                found.leftovers.append(Object(path, status.st_size, status.st_mtime))
                continue
            manifest = read_manifest(path)
        except FileNotFoundError:
            continue
        except SnapshotError:
            found.leftovers.append(Object(path, status.st_size, status.st_mtime))
            continue
        snapshot = Snapshot(path, frozenset(manifest.objects), status.st_size)
        found.runs.setdefault(path.parent.name, []).append(snapshot)
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.is_file())


def size_of(objects: Path) -> int:
    """Bytes of the objects below a folder; quick, for use while a run is recorded."""
    total = 0
    try:
        folders = [entry.path for entry in os.scandir(objects) if entry.is_dir()]
        for folder in folders:
            total += sum(entry.stat().st_size for entry in os.scandir(folder))
    except FileNotFoundError:
        return total  # gc removed something meanwhile
    return total


def orphans(project: Project, found: Survey) -> list[Removal]:
    """Snapshots of runs whose run file is gone."""
    kept = {path.name.partition(".jsonl")[0] for path in project.runs.glob("*.jsonl*")}
    return [
        _of_snapshots(f"the snapshots of {run}, whose run file is gone", snapshots)
        for run, snapshots in found.runs.items()
        if run not in kept
    ]


def thinning(found: Survey, run: str, keep: int) -> Removal | None:
    """Thin a run to the snapshots of ``keep`` evenly spaced iterations of each top-level loop.

    Those outside of iterations always stay. None where there is nothing to remove.
    """
    loops: dict[str, dict[int, list[Snapshot]]] = defaultdict(lambda: defaultdict(list))
    for snapshot in found.runs[run]:
        match = re.match(r"([^/]*)=(\d+)[/@]", snapshot.boundary)
        if match:
            loops[match[1]][int(match[2])].append(snapshot)
    surplus: list[Snapshot] = []
    for iterations in loops.values():
        kept = evenly(sorted(iterations), max(keep, FEWEST_ITERATIONS))
        surplus += [s for index, ss in iterations.items() if index not in kept for s in ss]
    if not surplus:
        return None
    return _of_snapshots(
        f"{len(surplus)} of the {len(found.runs[run])} snapshots of {run}", surplus
    )


def evenly(items: list[int], keep: int) -> set[int]:
    """``keep`` of these, evenly spaced, the first and the last among them."""
    if len(items) <= keep:
        return set(items)
    return {items[round(i * (len(items) - 1) / (keep - 1))] for i in range(keep)}


def _of_snapshots(what: str, snapshots: list[Snapshot]) -> Removal:
    return Removal(what, tuple(s.path for s in snapshots), sum(s.size for s in snapshots))


def unreferenced(found: Survey, now: float | None = None) -> list[Removal]:
    """Objects that no snapshot refers to, and what killed processes left behind."""
    before = (time.time() if now is None else now) - GRACE_SECONDS
    references = found.references()
    unused = [o for n, o in found.objects.items() if n not in references and o.used < before]
    left = [o for o in found.leftovers if o.used < before]
    removals = []
    if unused:
        paths = tuple(o.path for o in unused)
        size = sum(o.size for o in unused)
        removals.append(Removal(f"{len(unused)} objects that no snapshot needs", paths, size))
    gone = tuple(path for name, path in found.spooled.items() if name not in references)
    if gone:
        removals.append(Removal(f"{len(gone)} spooled objects that no snapshot needs", gone, 0))
    if left:
        paths = tuple(o.path for o in left)
        what = f"{len(left)} unfinished or damaged files"
        removals.append(Removal(what, paths, sum(o.size for o in left)))
    return removals


@dataclass(frozen=True)
class Report:
    """What `collect` removed or would remove; ``left``: bytes in the store afterwards."""

    removals: list[Removal]
    left: int

    @property
    def freed(self) -> int:
        return sum(removal.size for removal in self.removals)


def collect(project: Project, chosen: Settings, keep: int | None, dry_run: bool) -> Report:
    """Remove what is not needed, thin runs to ``keep`` iterations, and keep within the budget.

    Raises SnapshotError where another process does so now, or the place to spool to refuses.
    """
    lock = acquire(project.store / "gc.lock", exclusive=True, wait_seconds=0)
    if lock is None:
        raise SnapshotError("another flordb gc is at work in this project")
    try:
        found = survey(project)
        planned = orphans(project, found)
        for run in sorted(found.runs) if keep is not None else ():
            step = thinning(found, run, keep or FEWEST_ITERATIONS)
            planned += [step] if step is not None else []
        for removal in planned:
            found = without(found, removal)
        if not chosen.spool:
            more = to_thin(found, chosen.snapshot_budget_bytes)
            planned += more
            for removal in more:
                found = without(found, removal)
        planned += unreferenced(found)
        for removal in planned:
            found = without(found, removal)
            if not dry_run:
                carry_out(removal)
        if chosen.spool:
            spooled, found = _spool(found, chosen, dry_run)
            planned += spooled
        return Report(planned, found.size)
    finally:
        lock.release()


def _spool(found: Survey, chosen: Settings, dry_run: bool) -> tuple[list[Removal], Survey]:
    objects = to_spool(found, chosen.snapshot_budget_bytes)
    if not objects:
        return [], found
    if not dry_run:
        for item in objects:
            spooling.spool(item.path, chosen.spool)
    size = sum(item.size for item in objects)
    what = f"{len(objects)} least recently used objects, moved to {chosen.spool}"
    removal = Removal(what, tuple(item.path for item in objects), size)
    return [removal], without(found, removal)


def carry_out(removal: Removal) -> None:
    """Delete the files, and the folders of runs that this empties.

    One that is gone already is no error. Raises OSError for others.
    """
    for path in removal.paths:
        if path.suffix == spooling.SUFFIX:
            note = spooling.spooled(path.with_suffix(""))
            if note is not None:
                spooling.remove(note)
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in removal.paths if path.suffix == ".json"}:
        with contextlib.suppress(OSError):  # not empty, or in use again
            folder.rmdir()


def without(found: Survey, removal: Removal) -> Survey:
    """What the store holds once these files are removed."""
    gone = set(removal.paths)
    runs = {
        run: [s for s in snapshots if s.path not in gone] for run, snapshots in found.runs.items()
    }
    objects = {name: o for name, o in found.objects.items() if o.path not in gone}
    return replace(found, objects=objects, runs=runs)


def to_spool(found: Survey, budget_bytes: int) -> list[Object]:
    """The least recently used objects that have to go for the store to be within the budget."""
    excess = found.size - budget_bytes
    chosen: list[Object] = []
    for item in sorted(found.objects.values(), key=lambda o: (o.used, o.path)):
        if excess <= 0:
            break
        chosen.append(item)
        excess -= item.size
    return chosen


def to_thin(found: Survey, budget_bytes: int) -> list[Removal]:
    """Which snapshots have to go for the store to be within the budget: of the oldest runs first,
    half of the iterations of each at a time. Fewer than needed where all runs are at two."""
    removals: list[Removal] = []
    while _needed_size(found) > budget_bytes:
        step = _thin_once(found)
        if step is None:
            break
        removals.append(step)
        found = without(found, step)
    return removals


def _needed_size(found: Survey) -> int:
    references = found.references()
    return sum(o.size for name, o in found.objects.items() if name in references)


def _thin_once(found: Survey) -> Removal | None:
    counts = {run: _iterations(snapshots) for run, snapshots in found.runs.items()}
    most = max(counts.values(), default=0)
    for run in sorted(found.runs):
        # The oldest of those with the most snapshots, so that no run pays for the others.
        if counts[run] * 2 > most and counts[run] > FEWEST_ITERATIONS:
            return thinning(found, run, max(FEWEST_ITERATIONS, counts[run] // 2))
    return None


def _iterations(snapshots: list[Snapshot]) -> int:
    per_loop: dict[str, set[int]] = defaultdict(set)
    for snapshot in snapshots:
        match = re.match(r"([^/]*)=(\d+)[/@]", snapshot.boundary)
        if match:
            per_loop[match[1]].add(int(match[2]))
    return max((len(indexes) for indexes in per_loop.values()), default=0)
