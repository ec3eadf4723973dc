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
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from flordb.errors import DamageError, SnapshotError
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
    """A manifest: its boundary, the objects that it refers to, and its size."""

    path: Path
    boundary: str
    objects: frozenset[str]
    size: int


@dataclass
class Survey:
    """What a project's store holds. ``runs``: snapshots by the name of their run's folder."""

    objects: dict[str, Object] = field(default_factory=dict)
    spooled: dict[str, Object] = field(default_factory=dict)
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
    """Look at everything that the store holds.

    Raises SnapshotError where a later flordb has written of it: what that needs is not known.
    """
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
            note = Object(path, 0, status.st_mtime)
            found.spooled[name.removesuffix(spooling.SUFFIX)] = note
        else:
            found.objects[name] = Object(path, status.st_size, status.st_mtime)
    _add_snapshots(project, found)
    return found


def _add_snapshots(project: Project, found: Survey) -> None:
    for path in _files(project.snapshots):
        try:
            status = path.stat()
            if path.suffix == ".tmp":
                found.leftovers.append(Object(path, status.st_size, status.st_mtime))
                continue
            manifest = read_manifest(path)
        except FileNotFoundError:
            continue
        except DamageError:
            found.leftovers.append(Object(path, status.st_size, status.st_mtime))
            continue
        needed = frozenset(manifest.objects)
        snapshot = Snapshot(path, manifest.boundary, needed, status.st_size)
        found.runs.setdefault(path.parent.name, []).append(snapshot)


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


def thinning(run: str, snapshots: list[Snapshot], keep: int) -> Removal | None:
    """Thin a run to the snapshots of ``keep`` evenly spaced iterations of each top-level loop.

    Those outside of iterations always stay. None where there is nothing to remove.
    """
    surplus: list[Snapshot] = []
    for iterations in _by_iteration(snapshots).values():
        kept = evenly(sorted(iterations), max(keep, FEWEST_ITERATIONS))
        surplus += [s for index, ss in iterations.items() if index not in kept for s in ss]
    if not surplus:
        return None
    return _of_snapshots(f"{len(surplus)} of the {len(snapshots)} snapshots of {run}", surplus)


def _by_iteration(snapshots: list[Snapshot]) -> dict[str, dict[int, list[Snapshot]]]:
    """The snapshots in iterations of each top-level loop."""
    loops: dict[str, dict[int, list[Snapshot]]] = defaultdict(lambda: defaultdict(list))
    for snapshot in snapshots:
        match = re.match(r"([^/]*)=(\d+)[/@]", snapshot.boundary)
        if match:
            loops[match[1]][int(match[2])].append(snapshot)
    return loops


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
    away = found.spooled.items()
    gone = tuple(o.path for name, o in away if name not in references and o.used < before)
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


@contextlib.contextmanager
def _alone(project: Project) -> Iterator[None]:
    """Nobody else removes or spools meanwhile. Raises SnapshotError where another does so now."""
    lock = acquire(project.store / "gc.lock", exclusive=True, wait_seconds=0)
    if lock is None:
        raise SnapshotError(
            "another flordb gc or flordb spool is at work in this project; try again when it ends"
        )
    try:
        yield
    finally:
        lock.release()


def collect(project: Project, chosen: Settings, keep: int | None, dry_run: bool) -> Report:
    """Remove what is not needed, thin runs to ``keep`` iterations, and keep within the budget.

    Raises SnapshotError where another process does so now, or the place to spool to refuses.
    """
    with _alone(project):
        found = survey(project)
        planned = orphans(project, found)
        found = without(found, planned)
        if keep is not None:
            steps = [thinning(run, found.runs[run], keep) for run in sorted(found.runs)]
            thinned = [step for step in steps if step is not None]
            planned, found = planned + thinned, without(found, thinned)
        if not chosen.spool:
            more = to_thin(found, chosen.snapshot_budget_bytes)
            planned, found = planned + more, without(found, more)
        for removal in () if dry_run else planned:
            carry_out(project, removal)
        if not dry_run:
            found = _with_new_snapshots(project, found)
        unused = unreferenced(found)
        for removal in () if dry_run else unused:
            carry_out(project, removal)
        planned, found = planned + unused, without(found, unused)
        if chosen.spool:
            chosen_objects = to_spool(found, chosen.snapshot_budget_bytes)
            spooled = _spool(project, chosen_objects, chosen.spool, dry_run)
            planned, found = planned + spooled, without(found, spooled)
        return Report(planned, found.size)


def _with_new_snapshots(project: Project, found: Survey) -> Survey:
    """A survey with the snapshots that are there now: a run may have taken some meanwhile, which
    refer to objects that nothing else needs."""
    now = replace(found, runs={}, leftovers=list(found.leftovers))
    _add_snapshots(project, now)
    return replace(found, runs=now.runs)


def move(project: Project, url: str, keep_bytes: int, dry_run: bool) -> Removal | None:
    """Spool the least recently used objects, all but ``keep_bytes``. None where there are none.

    Raises SnapshotError where another process does so now, or the place refuses.
    """
    with _alone(project):
        moved = _spool(project, to_spool(survey(project), keep_bytes), url, dry_run)
        return moved[0] if moved else None


def _spool(project: Project, objects: list[Object], url: str, dry_run: bool) -> list[Removal]:
    if not objects:
        return []
    if not dry_run:
        spooler = spooling.Spooler(project.store, url)
        damaged = [o for o in objects if spooler.move(o.path) is None]
        if damaged:
            raise SnapshotError(
                f"{len(damaged)} objects are damaged, and so were not moved to {url}: "
                f"{damaged[0].path} does not hold what its name says. Delete it; the others "
                f"({len(objects) - len(damaged)}) were moved."
            )
    size = sum(item.size for item in objects)
    what = f"{len(objects)} least recently used objects, moved to {url}"
    return [Removal(what, tuple(item.path for item in objects), size)]


def carry_out(project: Project, removal: Removal) -> None:
    """Delete the files, and the folders of runs that this empties.

    One that is gone already is no error, and what has just been used stays. Raises OSError for
    others, and SnapshotError where spooled ones cannot be deleted.
    """
    since = time.time() - GRACE_SECONDS
    for path in removal.paths:
        if path.suffix == spooling.SUFFIX:
            note = None
            with contextlib.suppress(SnapshotError):  # a damaged note: nobody knows where it is
                note = spooling.spooled(path.with_suffix(""))
            if note is not None:
                spooling.remove(note, spooling.owner(project.store))
        elif path.is_relative_to(project.objects) and _used(path) >= since:
            continue
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in removal.paths if path.suffix == ".json"}:
        with contextlib.suppress(OSError):  # not empty, or in use again
            folder.rmdir()


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def without(found: Survey, removals: list[Removal]) -> Survey:
    """What the store holds once these files are removed."""
    gone = {path for removal in removals for path in removal.paths}
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
    references = found.references()
    size = sum(o.size for name, o in found.objects.items() if name in references)
    runs = dict(sorted(found.runs.items()))
    counts = {run: _iterations(snapshots) for run, snapshots in runs.items()}
    while size > budget_bytes:
        most = max(counts.values(), default=0)
        if most <= FEWEST_ITERATIONS:
            break
        # The oldest of those with the most snapshots, so that no run pays for the others.
        run = next(r for r, n in counts.items() if n * 2 > most and n > FEWEST_ITERATIONS)
        step = thinning(run, runs[run], max(FEWEST_ITERATIONS, counts[run] // 2))
        if step is None:
            break
        removals.append(step)
        gone = set(step.paths)
        for name in (n for s in runs[run] if s.path in gone for n in s.objects):
            references[name] -= 1
            if not references[name] and name in found.objects:
                size -= found.objects[name].size
        runs[run] = [s for s in runs[run] if s.path not in gone]
        counts[run] = _iterations(runs[run])
    return removals


def _iterations(snapshots: list[Snapshot]) -> int:
    return max(map(len, _by_iteration(snapshots).values()), default=0)
