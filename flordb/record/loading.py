"""``flor.loading``: a recorded run's objects, loaded from its snapshots into live ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from flordb.errors import RunFileError, SnapshotError
from flordb.record.context import end_of, exit_of
from flordb.record.restore import load_objects
from flordb.store.objects import ObjectStore
from flordb.store.project import Project, find_project
from flordb.store.runfile import RunFile, read_run
from flordb.store.snapshots import SnapshotStore


@contextmanager
def load(objects: Mapping[str, Any], row: Any) -> Iterator[None]:
    """See `flordb.loading`."""
    fields = _fields(row)
    project = find_project()
    run = _run_of(project, fields)
    snapshots = SnapshotStore(project.snapshots / run.path.name.partition(".jsonl")[0])
    boundary = _boundary(run, fields)
    store = ObjectStore(project.objects)
    failed = load_objects(snapshots.load(boundary), store, objects)
    wrong = {name: reason for name, reason in failed.items() if name in objects}
    if wrong:
        raise SnapshotError(f"the snapshot at {boundary} cannot give {wrong}")
    yield


def _fields(row: Any) -> dict[str, Any]:
    if hasattr(row, "iloc") and hasattr(row, "columns"):
        if row.empty:
            raise SnapshotError(
                "flor.loading needs a row that names a run; this dataframe has none"
            )
        row = row.iloc[0]
    fields = dict(row)
    if "tstamp" not in fields:
        raise SnapshotError("flor.loading needs a row with tstamp (and filename)")
    return fields


def _run_of(project: Project, fields: Mapping[str, Any]) -> RunFile:
    tstamp = fields["tstamp"]
    moment = datetime.fromisoformat(str(tstamp))
    for path in sorted(project.runs.glob(f"{moment:%Y%m%dT%H%M%S.%f}-*")):
        try:
            run = read_run(path)
        except RunFileError:
            continue  # sync reports it
        if (
            not run.is_replay
            and fields.get("filename", run.header["filename"]) == (run.header["filename"])
        ):
            return run
    raise SnapshotError(f"no run of {tstamp} in {Path(project.runs)}")


def _boundary(run: RunFile, fields: Mapping[str, Any]) -> str:
    for line in run.of_kind("loop"):
        if line.get("c") == 0:
            name = line["l"]
            index = fields.get(name)
            if index is not None and index == index:
                return end_of(f"{name}={int(index)}")
            return exit_of("", name, line.get("e", 0))
    raise SnapshotError("this run did not come to the end of a top-level flor.loop")
