"""Run files as columns: what a batch of them gives to each table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from flordb.errors import RunFileError
from flordb.store import state
from flordb.store.columns import clean, texts
from flordb.store.contexts import ContextRows, Contexts
from flordb.store.incoming import Files, Incoming, Numbered
from flordb.store.runfile import RunFile
from flordb.store.schemas import SCHEMAS
from flordb.store.values import ValueRows

Identity = tuple[str, datetime, str]

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


def identity(header: Mapping[str, Any], where: str) -> Identity:
    """(projid, tstamp, filename) of a run file's first line. Raises RunFileError."""
    try:
        tstamp = _utc(datetime.fromisoformat(header["tstamp"]))
    except ValueError as error:
        raise RunFileError(
            f"{where}, line 1: {header['tstamp']!r} is no time. Nothing was taken from it."
        ) from error
    return header["projid"], tstamp, header["filename"]


def _utc(time: datetime) -> datetime:
    """Without a time zone, as the column TIMESTAMP holds it."""
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


@dataclass(frozen=True)
class Taken:
    """A run file on its way into the tables.

    ``mtime`` is in seconds since 1970, None for a file that is only in git.
    """

    file: RunFile
    name: str
    file_id: int
    run_id: int
    identity: Identity
    mtime: float | None

    @property
    def rank(self) -> int:
        rank = self.file.header.get("rank")
        return rank if isinstance(rank, int) and 0 <= rank < 2**31 else 0

    @property
    def source(self) -> str:
        return "replay" if self.file.is_replay else "record"


OWNED = ("snapshots", "timings", "acquisitions", "replay_anomalies", "lineage")
"""Tables whose rows belong to one file and are replaced when that is taken in again."""


class Numbers:
    """Numbers for names and nests, as the database knows them; new ones continue from there."""

    def __init__(self, names: dict[str, int], nests: dict[tuple[str, ...], int]) -> None:
        self.names = names
        self.nests = nests or {(): 0}

    def name(self, name: str) -> int:
        number = self.names.get(name)
        if number is None:
            number = self.names.setdefault(clean(name), len(self.names) + 1)
        return number

    def nest(self, loops: tuple[str, ...]) -> int:
        """The number of a nest. Parents come before children, so every prefix has one, too."""
        return self.nests.setdefault(loops, len(self.nests))


class Batch:
    """Rows of run files that go into the tables together, as columns.

    Parameters: ``numbers`` of names and nests; ``heartbeat``, seconds of silence after which a run
    counts as lost; ``is_fresh``: the files are runs of which nothing is there yet, else each file
    is to be merged with what is there of its run.
    """

    def __init__(self, numbers: Numbers, heartbeat: float, is_fresh: bool) -> None:
        self.numbers, self._heartbeat, self.is_fresh = numbers, heartbeat, is_fresh
        self.columns: dict[str, dict[str, list[Any]]] = {
            table: {name: [] for name in schema.names} for table, schema in SCHEMAS.items()
        }
        self.contexts = ContextRows()
        self.values = ValueRows(numbers.name)

    def __len__(self) -> int:
        """How many contexts and values there are."""
        return self.contexts.count + self.values.count

    def size(self, table: str) -> int:
        return len(next(iter(self.columns[table].values())))

    def table(self, name: str) -> pa.Table:
        """The rows of one table, in Arrow's form."""
        schema, columns = SCHEMAS[name], self.columns[name]
        return pa.table([texts(columns[f.name], f.type) for f in schema], schema=schema)

    def incoming(self) -> Incoming:
        """The files, their contexts and their values, as arrays."""
        own = self.columns["files"]
        ids, runs, ranks = (np.array(own[n], np.int32) for n in ("file_id", "run_id", "rank"))
        files = Files(ids, runs, ranks, np.array(own["tstamp"], "datetime64[us]"))
        nests = {id_: loops for loops, id_ in self.numbers.nests.items()}
        numbered = Numbered(self.contexts.arrays(), nests)
        return Incoming(files, numbered, self.values.arrays(), own["source"])

    def add_row(self, table: str, **values: Any) -> None:
        for name, column in self.columns[table].items():
            column.append(values.get(name))

    def add_problem(self, file: str, line: int | None, reason: str) -> None:
        self.add_row("problems", file=file, line=line, reason=reason)

    def add(self, taken: Taken) -> None:
        """Add all that a run file says."""
        projid, tstamp, filename = taken.identity
        place = self.size("files")
        self.add_row(
            "files",
            file_id=taken.file_id,
            file=taken.name,
            source=taken.source,
            run_id=taken.run_id,
            rank=taken.rank,
            projid=projid,
            tstamp=tstamp,
            filename=filename,
        )
        for number, reason in taken.file.problems:
            self.add_problem(taken.name, number, reason)

        def problem(reason: str) -> None:
            self.add_problem(taken.name, None, reason)

        contexts = Contexts(taken.file, self.contexts, place, self.numbers.nest, problem)
        self.values.add(taken.file, place, contexts, problem)
        self._others(taken, contexts)
        if self.is_fresh:
            self._run(taken)

    def _others(self, taken: Taken, contexts: Contexts) -> None:
        owner = {"run_id": taken.run_id, "rank": taken.rank, "file_id": taken.file_id}
        header = taken.file.header
        for line in taken.file.lines:
            kind = line["k"]
            if kind in ("log", "logs", "ctx", "ctxs"):
                continue
            number = line.get("p", line.get("c")) if kind == "loop" else line.get("c")
            context = contexts.get(_integer(number) or 0) or contexts.root
            if kind == "snap":
                self.add_row(
                    "snapshots",
                    row=context.row,
                    at=_text(line.get("at")),
                    seconds=_number(line.get("s")),
                    bytes=_integer(line.get("bytes")),
                    **owner,
                )
            elif kind == "time":
                self.add_row(
                    "timings",
                    what=_text(line.get("w")),
                    row=context.row,
                    seconds=_number(line.get("s")),
                    **owner,
                )
            elif kind == "loop":
                self.add_row(
                    "timings",
                    what="loop",
                    row=context.row,
                    loop_name=_text(line.get("l")),
                    entry=_integer(line.get("e", 0)),
                    iterations=_integer(line.get("n")),
                    end=_text(line.get("end")),
                    seconds=_number(line.get("s")),
                    **owner,
                )
            elif kind == "outcome":
                self.add_row(
                    "acquisitions",
                    value_name=_text(line.get("n")),
                    status=_text(line.get("status")),
                    reason=_text(line.get("reason")),
                    statement=_text(line.get("statement")),
                    code=_text(line.get("code")),
                    iterations=_integers(line.get("iterations")),
                    contexts=_json(line.get("contexts")),
                    seconds=_number(line.get("seconds")),
                    scan=_text(line.get("scan") or header.get("scan")),
                    flordb=_text(line.get("flordb")),
                    tstamp_tried=_time(header.get("started")),
                    **owner,
                )
            elif kind == "anomaly":
                projid, tstamp, filename = taken.identity
                self.add_row(
                    "replay_anomalies",
                    projid=projid,
                    tstamp=tstamp,
                    filename=filename,
                    value_name=_text(line.get("n")),
                    context=context.text,
                    ordinal=_integer(line.get("o", 0)),
                    recorded=_text(line.get("recorded")),
                    replayed=_text(line.get("replayed")),
                    **owner,
                )
            elif kind == "read":
                for read in _identities(line.get("runs")):
                    self.add_row(
                        "lineage",
                        read_projid=read[0],
                        read_tstamp=read[1],
                        read_filename=read[2],
                        **owner,
                    )

    def _run(self, taken: Taken) -> None:
        header = taken.file.header
        projid, tstamp, filename = taken.identity
        version = next(taken.file.of_kind("version"), {})
        ending = next(taken.file.of_kind("exit"), None)
        seconds = [n for line in taken.file.lines if (n := _number(line.get("t"))) is not None]
        ended = _after(tstamp, _number(ending.get("t"))) if ending is not None else None
        if ending is not None and ended is None:
            ended = _after(tstamp, max(seconds, default=0.0))
        seen = [time for time in [_after(tstamp, max(seconds, default=0.0))] if time]
        if taken.mtime is not None:
            seen.append(datetime.fromtimestamp(taken.mtime, UTC).replace(tzinfo=None))
        last_seen = max(seen, default=None)
        status = _small(ending.get("status")) if ending is not None else None
        error = _text(ending.get("error")) if ending is not None else None
        host, pid_start = _text(header.get("host")), _text(header.get("pid_start"))
        pid = _integer(header.get("pid"))
        at = last_seen.replace(tzinfo=UTC).timestamp() if last_seen is not None else None
        signs = state.Signs(ended is not None, status, error, host, pid, pid_start, at)
        self.add_row(
            "runs",
            run_id=taken.run_id,
            state=state.derive(signs, self._heartbeat),
            projid=projid,
            tstamp=tstamp,
            filename=filename,
            rank=taken.rank,
            world_size=_small(header.get("world_size")),
            file=taken.name,
            version=_text(version.get("commit")),
            branch=_text(version.get("branch")),
            started=tstamp,
            ended=ended,
            status=status,
            error=error,
            argv=_json(header.get("argv")),
            cwd=_text(header.get("cwd")),
            host=host,
            user=_text(header.get("user")),
            python=_text(header.get("python")),
            packages=_json(header.get("packages")),
            hardware=_json(header.get("hardware")),
            env=_json(header.get("env")),
            pid=pid,
            pid_start=pid_start,
            last_seen=last_seen,
        )


def _fits(value: int) -> bool:
    return _SMALLEST <= value <= _LARGEST


# Run files may have been edited by hand: a field of the wrong type counts as left out.
def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e300 else None


def _integer(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and _fits(value) else None


def _small(value: Any) -> int | None:
    number = _integer(value)
    return number if number is not None and abs(number) < 2**31 else None


def _integers(value: Any) -> list[int] | None:
    if not isinstance(value, list):
        return None
    return [number for item in value if (number := _integer(item)) is not None]


def _time(value: Any) -> datetime | None:
    try:
        return _utc(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return None


def _after(start: datetime, seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else start + timedelta(seconds=seconds)
    except OverflowError:
        return None


def _identities(runs: Any) -> Iterable[tuple[str | None, datetime | None, str | None]]:
    for run in runs if isinstance(runs, list) else []:
        if isinstance(run, dict):
            run = [run.get("projid"), run.get("tstamp"), run.get("filename")]
        if isinstance(run, list) and len(run) == 3:
            yield _text(run[0]), _time(run[1]), _text(run[2])
