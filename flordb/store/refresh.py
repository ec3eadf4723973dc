"""Taking in what is new: which run files that is, in which order, in which transactions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import pyarrow as pa
from xxhash import xxh3_128_hexdigest

from flordb.errors import RunFileError
from flordb.settings import Settings
from flordb.store import ingest
from flordb.store.batch import Batch, Identity, Numbers, Taken, identity
from flordb.store.current import Known, RewrittenError, SyncReport, changed_states, known_files
from flordb.store.found import Entry, read
from flordb.store.layout import append
from flordb.store.project import Project
from flordb.store.runfile import parse_run
from flordb.store.tables import is_described, redescribe

_BATCH_ROWS = 2_000_000
"""Contexts and values that are put into the tables together; a row takes about 100 bytes."""


Place = tuple[int, int]
"""A run_id and a rank."""


@dataclass
class _Progress:
    """What a sync has done so far, and what it knows about the database as it grows."""

    settings: Settings
    known: dict[str, Known]
    runs: dict[Identity, int]
    places: dict[Place, set[str]]
    """The files of each run and rank."""
    kinds: ingest.Kinds
    numbers: Numbers
    files: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)
    last_file_id: int = 0

    def next_file_id(self) -> int:
        """A number for a file that is not known yet."""
        self.last_file_id += 1
        return self.last_file_id


def take_in(
    db: duckdb.DuckDBPyConnection, project: Project, settings: Settings, files: dict[str, Entry]
) -> SyncReport:
    """Take in what is new of the listed run files into the tables of ``db``'s current schema."""
    progress = _load(db, settings)
    stale = [
        entry
        for name, entry in files.items()
        if name not in progress.known or not progress.known[name].is_current(entry)
    ]
    if stale:
        _take_stale(db, project, files, stale, progress)
    elif changed_states(db, settings) or not is_described(db):
        _transaction(db, lambda: _settle(db, progress))
    return SyncReport(progress.files, progress.rows, tuple(progress.problems))


def _transaction(db: duckdb.DuckDBPyConnection, work: Callable[[], Any]) -> None:
    db.execute("BEGIN")
    try:
        work()
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _settle(db: duckdb.DuckDBPyConnection, progress: _Progress) -> None:
    """Bring up to date what depends on all that was taken in."""
    ranked = any(rank > 0 for _, rank in progress.places)
    redescribe(db, progress.numbers, progress.kinds, ranked)
    for run_id, rank, now in changed_states(db, progress.settings):
        db.execute("UPDATE runs SET state = ? WHERE run_id = ? AND rank = ?", [now, run_id, rank])
    _note_change(db)


def _note_change(db: duckdb.DuckDBPyConnection) -> None:
    """Give what the tables now say an id of its own: what was read under another may be stale."""
    db.execute("INSERT OR REPLACE INTO meta VALUES ('content', uuid()::VARCHAR)")


def _load(db: duckdb.DuckDBPyConnection, settings: Settings) -> _Progress:
    rows = db.execute("SELECT DISTINCT projid, tstamp, filename, run_id FROM runs").fetchall()
    known = known_files(db)
    places: dict[Place, set[str]] = {}
    for name, file in known.items():
        if file.run_id is not None and file.rank is not None:
            places.setdefault((file.run_id, file.rank), set()).add(name)
    return _Progress(
        settings=settings,
        known=known,
        runs={(row[0], row[1], row[2]): row[3] for row in rows},
        places=places,
        kinds=ingest.Kinds(
            {(r[0], r[1]): r[2] for r in db.execute("FROM name_kinds").fetchall()},
            dict(db.execute("FROM loop_kinds").fetchall()),
        ),
        numbers=Numbers(
            dict(db.execute("SELECT name, name_id FROM names").fetchall()),
            {tuple(r[1]): r[0] for r in db.execute("FROM nests").fetchall()},
        ),
        last_file_id=max((file.file_id for file in known.values()), default=0),
    )


def _take_stale(
    db: duckdb.DuckDBPyConnection,
    project: Project,
    files: dict[str, Entry],
    stale: list[Entry],
    progress: _Progress,
) -> None:
    """Runs of which nothing is there go in as they are; then what must be merged with them.

    What is to be merged with one run goes in together: nobody sees a part of it.
    """
    writer = _Writer(db, progress)
    held: dict[Place, list[_Read]] = {}
    for entry, data in read(project, stale):
        found = _read(entry, data, progress)
        if found is None:
            continue
        if found.why is not None:
            progress.problems.append(found.why)
            writer.reject(found)
        elif found.taken is None:
            writer.note(found)
        elif found.is_run and progress.places.get(found.place, {entry.name}) == {entry.name}:
            writer.add(found)
        else:
            held.setdefault(found.place, []).append(found)
            continue
        writer.write_if_full()
    for place, several in held.items():
        _take_held(project, files, place, several, progress, writer)
        writer.write_if_full()
    writer.write()


def _take_held(
    project: Project,
    files: dict[str, Entry],
    place: Place,
    held: list[_Read],
    progress: _Progress,
    writer: _Writer,
) -> None:
    """Take in files of a run that has others, too.

    Files are merged in the order of `_Read.order`. One that comes before others that are there
    already means that all of the run is taken in anew.
    """
    new = {each.entry.name for each in held}
    others = progress.places.get(place, set()) - new
    last = max((_order(progress.known[name].kind, name) for name in others), default=None)
    anew = last is not None and min(each.order for each in held) < last
    if anew:
        if not writer.entries.keys().isdisjoint(others):
            writer.write()  # so that they can be taken out
        for entry, data in read(project, [files[name] for name in others if name in files]):
            found = _read(entry, data, progress, again=True)
            if found is not None and found.taken is not None:
                held.append(found)
        writer.forget(place, [*others, *(name for name in new if name in progress.known)])
    held.sort(key=lambda each: each.order)
    if anew and held[0].is_run:
        writer.add(held.pop(0))
    for each in held:
        writer.merge(each)


def _order(kind: str, name: str) -> tuple[bool, str]:
    """What a run logged itself stands before what replays found, an earlier file before a later."""
    return kind != "run", name


@dataclass(frozen=True)
class _Read:
    """A run file that was read: its whole lines, and what became of them.

    ``taken`` is None where it says what it said before, or cannot be used (``why``).
    """

    entry: Entry
    lines: bytes
    taken: Taken | None = None
    why: str | None = None

    @property
    def place(self) -> Place:
        assert self.taken is not None
        return self.taken.run_id, self.taken.rank

    @property
    def is_run(self) -> bool:
        return self.taken is not None and not self.taken.file.is_replay

    @property
    def order(self) -> tuple[bool, str]:
        return _order("run" if self.is_run else "replay", self.entry.name)


def _read(
    entry: Entry, data: bytes | OSError, progress: _Progress, again: bool = False
) -> _Read | None:
    """A run file with its numbers; None where it cannot be read. ``again``: even if it is known."""
    if isinstance(data, OSError):
        progress.problems.append(f"{entry.path}: {data.strerror or data}")
        return None
    lines = data[: data.rfind(b"\n") + 1]
    known = progress.known.get(entry.name)
    if known is not None and xxh3_128_hexdigest(lines[: known.size]) != known.digest:
        raise RewrittenError(f"{entry.name} no longer begins as it did")
    if known is not None and known.size == len(lines) and not again:
        return _Read(entry, lines)
    try:
        file = parse_run(lines, entry.path)
        run = identity(file.header, str(entry.path))
    except RunFileError as error:
        return _Read(entry, lines, why=str(error))
    run_id = progress.runs.setdefault(run, len(progress.runs) + 1)
    file_id = known.file_id if known is not None else progress.next_file_id()
    mtime = entry.mtime_ns / 1e9 if entry.blob is None else None
    if not again:
        progress.problems += [f"{entry.path}, line {n}: {why}" for n, why in file.problems]
    return _Read(entry, lines, Taken(file, entry.name, file_id, run_id, run, mtime))


class _Writer:
    """Collects run files and writes them, with what is known of them, in one transaction."""

    def __init__(self, db: duckdb.DuckDBPyConnection, progress: _Progress) -> None:
        self.db, self.progress = db, progress
        self._start()

    def _start(self) -> None:
        heartbeat = self.progress.settings.heartbeat_seconds
        self.fresh, self.merged = (
            Batch(self.progress.numbers, heartbeat, is_fresh) for is_fresh in (True, False)
        )
        self.gone = ingest.Gone()
        self.entries: dict[str, tuple[Entry, Known]] = {}
        self.again: set[str] = set()
        """Files that are in the table `files` already."""
        self.touched: dict[str, int] = {}
        """Files that say what they said, with the time of their last change (ns since 1970)."""

    def add(self, found: _Read) -> None:
        """Take in the file of a run of which nothing else is there."""
        if found.entry.name in self.progress.known:
            self.gone.runs.add(found.place)
        self._add(found, self.fresh)

    def merge(self, found: _Read) -> None:
        """Take in a file of a run that has others, which come before it in order."""
        self._add(found, self.merged)

    def _add(self, found: _Read, batch: Batch) -> None:
        taken, name = found.taken, found.entry.name
        assert taken is not None
        if name in self.progress.known:
            self.again.add(name)
            self.gone.files[taken.file_id] = name
        batch.add(taken)
        kind = taken.file.header["k"]
        self._note(found, taken.file_id, kind, found.place)
        self.progress.places.setdefault(found.place, set()).add(name)

    def forget(self, place: Place, names: list[str]) -> None:
        """Take out all of a run, of which these files are known."""
        self.gone.runs.add(place)
        self.again.update(names)
        for name in names:
            self.gone.files[self.progress.known.pop(name).file_id] = name
        self.progress.places.pop(place, None)

    def reject(self, found: _Read) -> None:
        """Remember a file that is no run file, until it changes."""
        name = found.entry.name
        known = self.progress.known.get(name)
        if known is not None:
            self.again.add(name)
            self.gone.files[known.file_id] = name
        self.fresh.add_problem(name, None, found.why or "")
        file_id = known.file_id if known is not None else self.progress.next_file_id()
        self._note(found, file_id, "none", None)

    def note(self, found: _Read) -> None:
        """Remember that a file was touched or compressed, and says what it said."""
        entry, known = found.entry, self.progress.known[found.entry.name]
        same = replace(known, disk_size=entry.disk_size, mtime_ns=entry.mtime_ns, blob=entry.blob)
        self.entries[entry.name] = entry, same
        self.again.add(entry.name)
        if entry.mtime_ns > 0:
            self.touched[entry.name] = entry.mtime_ns
        self.progress.known[entry.name] = same

    def _note(self, found: _Read, file_id: int, kind: str, place: Place | None) -> None:
        entry, lines = found.entry, found.lines
        digest = xxh3_128_hexdigest(lines)
        on_disk = (entry.disk_size, entry.mtime_ns, entry.blob)
        run_id, rank = place if place is not None else (None, None)
        known = Known(file_id, kind, run_id, rank, *on_disk, len(lines), digest)
        self.entries[entry.name] = entry, known
        self.progress.known[entry.name] = known
        self.progress.files += 1

    def write(self) -> None:
        """Write what was collected."""
        if self.entries or self.gone:
            _transaction(self.db, self._write)
            self.progress.rows += self.fresh.values.count + self.merged.values.count
            self._start()

    def write_if_full(self) -> None:
        """Write what was collected, if that is much."""
        if len(self.fresh) + len(self.merged) >= _BATCH_ROWS:
            self.write()

    def _write(self) -> None:
        self._write_files()
        ingest.insert(self.db, self.fresh, self.merged, self.progress.kinds, self.gone)
        _settle(self.db, self.progress)

    def _write_files(self) -> None:
        rows = [{"file": name, **known.__dict__} for name, (_, known) in self.entries.items()]
        if self.again:
            self.db.execute("DELETE FROM files WHERE list_contains(?, file)", [list(self.again)])
        append(self.db, "files", pa.Table.from_pylist(rows, schema=_FILES))
        for name, mtime in self.touched.items():
            self.db.execute(
                "UPDATE runs SET last_seen = make_timestamp(? // 1000) WHERE file = ?",
                [mtime, name],
            )


_FILES = pa.schema(
    [
        ("file_id", pa.int32()),
        ("file", pa.string()),
        ("kind", pa.string()),
        ("run_id", pa.int32()),
        ("rank", pa.int32()),
        ("disk_size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("blob", pa.string()),
        ("size", pa.int64()),
        ("digest", pa.string()),
    ]
)
