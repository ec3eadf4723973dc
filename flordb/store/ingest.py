"""Run files into tables, a column at a time.

A file's rows are a function of the file alone: a context's id is a hash of its run, rank and path,
and a value is known by (context, name, occurrence). So a file may be taken in again when it has
grown, in any order with the replays of its run, and each value is there once. Where two files
give the same value, the run's own stands before a replay's, and an earlier replay's before a later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from flordb.errors import RunFileError
from flordb.store import layout
from flordb.store.columns import Contexts, clean, log_columns, run_hash, texts
from flordb.store.names import BOOL as BOOLEAN
from flordb.store.names import (
    EXACT,
    FLOAT,
    INT64,
    INT128,
    NESTED,
    NULLS,
    ODD,
    OTHER,
    REPEATED,
    TEXT,
    WIDE,
)
from flordb.store.runfile import NULL, RunFile

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
    """A run file on its way into the tables. ``fresh``: nothing of its run and rank is there yet.

    ``mtime`` is in seconds since 1970, None for a file that is only in git.
    """

    file: RunFile
    name: str
    file_id: int
    run_id: int
    identity: Identity
    fresh: bool
    mtime: float | None

    @property
    def rank(self) -> int:
        rank = self.file.header.get("rank")
        return rank if isinstance(rank, int) and 0 <= rank < 2**31 else 0

    @property
    def source(self) -> str:
        return "replay" if self.file.is_replay else "record"


_SCHEMAS = {
    "files": pa.schema(
        [
            ("file_id", pa.int32()),
            ("file", pa.string()),
            ("source", pa.string()),
            ("run_id", pa.int32()),
            ("rank", pa.int32()),
            ("projid", pa.string()),
            ("tstamp", pa.timestamp("us")),
            ("filename", pa.string()),
        ]
    ),
    "runs": pa.schema(
        [
            ("run_id", pa.int32()),
            ("projid", pa.string()),
            ("tstamp", pa.timestamp("us")),
            ("filename", pa.string()),
            ("rank", pa.int32()),
            ("world_size", pa.int32()),
            ("file", pa.string()),
            ("version", pa.string()),
            ("branch", pa.string()),
            ("started", pa.timestamp("us")),
            ("ended", pa.timestamp("us")),
            ("state", pa.string()),
            ("status", pa.int32()),
            ("error", pa.string()),
            ("argv", pa.string()),
            ("cwd", pa.string()),
            ("host", pa.string()),
            ("user", pa.string()),
            ("python", pa.string()),
            ("packages", pa.string()),
            ("hardware", pa.string()),
            ("env", pa.string()),
            ("pid", pa.int64()),
            ("pid_start", pa.string()),
            ("last_seen", pa.timestamp("us")),
        ]
    ),
    "contexts": pa.schema(
        [
            ("seq", pa.int64()),
            ("ctx_id", pa.int64()),
            ("loop_entries", pa.int64()),
            ("loop_iteration", pa.int64()),
            ("loop_value", pa.string()),
            ("value_type", pa.int32()),
            ("number", pa.float64()),
            ("entry", pa.int64()),
            ("nest_id", pa.int32()),
            ("path", pa.list_(pa.int64())),
            ("iterations", pa.list_(pa.int64())),
            ("file_id", pa.int32()),
        ]
    ),
    "logs": pa.schema(
        [
            ("seq", pa.int64()),
            ("name_id", pa.int32()),
            ("value", pa.string()),
            ("value_type", pa.int32()),
            ("number", pa.float64()),
            ("ordinal", pa.int64()),
            ("arg", pa.string()),
            ("file_id", pa.int32()),
        ]
    ),
    "snapshots": pa.schema(
        [
            ("run_id", pa.int32()),
            ("rank", pa.int32()),
            ("ctx_id", pa.int64()),
            ("at", pa.string()),
            ("seconds", pa.float64()),
            ("bytes", pa.int64()),
            ("file_id", pa.int32()),
        ]
    ),
    "timings": pa.schema(
        [
            ("run_id", pa.int32()),
            ("rank", pa.int32()),
            ("what", pa.string()),
            ("ctx_id", pa.int64()),
            ("loop_name", pa.string()),
            ("entry", pa.int64()),
            ("iterations", pa.int64()),
            ("end", pa.string()),
            ("seconds", pa.float64()),
            ("file_id", pa.int32()),
        ]
    ),
    "acquisitions": pa.schema(
        [
            ("run_id", pa.int32()),
            ("value_name", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("statement", pa.string()),
            ("code", pa.string()),
            ("iterations", pa.list_(pa.int64())),
            ("contexts", pa.string()),
            ("seconds", pa.float64()),
            ("scan", pa.string()),
            ("tstamp_tried", pa.timestamp("us")),
            ("file_id", pa.int32()),
        ]
    ),
    "replay_anomalies": pa.schema(
        [
            ("projid", pa.string()),
            ("tstamp", pa.timestamp("us")),
            ("filename", pa.string()),
            ("run_id", pa.int32()),
            ("value_name", pa.string()),
            ("context", pa.string()),
            ("ordinal", pa.int64()),
            ("recorded", pa.string()),
            ("replayed", pa.string()),
            ("file_id", pa.int32()),
        ]
    ),
    "lineage": pa.schema(
        [
            ("run_id", pa.int32()),
            ("read_projid", pa.string()),
            ("read_tstamp", pa.timestamp("us")),
            ("read_filename", pa.string()),
            ("file_id", pa.int32()),
        ]
    ),
    "problems": pa.schema([("file", pa.string()), ("line", pa.int64()), ("reason", pa.string())]),
}

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
    """Rows of run files that go into the tables together, as columns."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.columns: dict[str, dict[str, list[Any]]] = {
            table: {name: [] for name in schema.names} for table, schema in _SCHEMAS.items()
        }
        self.large: dict[str, list[pa.Table]] = {"contexts": [], "logs": []}

    def __len__(self) -> int:
        return self.size("logs") + self.size("contexts")

    def size(self, table: str) -> int:
        if table in self.large:
            return sum(len(piece) for piece in self.large[table])
        return len(next(iter(self.columns[table].values())))

    def table(self, name: str) -> pa.Table:
        """The rows of one table, in Arrow's form."""
        schema, columns = _SCHEMAS[name], self.columns[name]
        if self.large.get(name):
            return pa.concat_tables(self.large[name])
        return pa.table([texts(columns[f.name], f.type) for f in schema], schema=schema)

    def add_row(self, table: str, **values: Any) -> None:
        for name, column in self.columns[table].items():
            column.append(values.get(name))

    def add_problem(self, file: str, line: int | None, reason: str) -> None:
        self.add_row("problems", file=file, line=line, reason=reason)

    def add(self, taken: Taken) -> None:
        """Add all that a run file says."""
        projid, tstamp, filename = taken.identity
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
        contexts = self._large(taken)
        self._others(taken, contexts)
        if not taken.file.is_replay:
            self._run(taken)

    def _large(self, taken: Taken) -> Contexts:
        """Add the contexts and the values."""

        def problem(reason: str) -> None:
            self.add_problem(taken.name, None, reason)

        start = run_hash(taken.identity, taken.rank)
        nest_of, name_of = self.numbers.nest, self.numbers.name
        contexts = Contexts(taken.file, start, self.size("contexts"), nest_of, problem)
        for columns in contexts.columns:
            self._add_large("contexts", columns, taken.file_id)
        logs = log_columns(taken.file, contexts, name_of, problem)
        if logs:
            self._add_large("logs", logs, taken.file_id)
        return contexts

    def _add_large(self, table: str, columns: dict[str, Any], file_id: int) -> None:
        schema = _SCHEMAS[table]
        count = len(columns["seq"])
        columns["file_id"] = pa.repeat(pa.scalar(file_id, pa.int32()), count)
        self.large[table].append(pa.table([columns[n] for n in schema.names], schema=schema))

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
                    ctx_id=context.id,
                    at=_text(line.get("at")),
                    seconds=_number(line.get("s")),
                    bytes=_integer(line.get("bytes")),
                    **owner,
                )
            elif kind == "time":
                self.add_row(
                    "timings",
                    what=_text(line.get("w")),
                    ctx_id=context.id,
                    seconds=_number(line.get("s")),
                    **owner,
                )
            elif kind == "loop":
                self.add_row(
                    "timings",
                    what="loop",
                    ctx_id=context.id,
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
        self.add_row(
            "runs",
            run_id=taken.run_id,
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
            status=_small(ending.get("status")) if ending is not None else None,
            error=_text(ending.get("error")) if ending is not None else None,
            argv=_json(header.get("argv")),
            cwd=_text(header.get("cwd")),
            host=_text(header.get("host")),
            user=_text(header.get("user")),
            python=_text(header.get("python")),
            packages=_json(header.get("packages")),
            hardware=_json(header.get("hardware")),
            env=_json(header.get("env")),
            pid=_integer(header.get("pid")),
            pid_start=_text(header.get("pid_start")),
            last_seen=max(seen, default=None),
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


@dataclass
class Kinds:
    """Which kinds of value were logged where; grows with each batch."""

    names: dict[tuple[int, int], int] = field(default_factory=dict)
    loops: dict[int, int] = field(default_factory=dict)


# The kinds of values (flordb/store/names.py) of rows with value_type, value and number.
_BITS = f"""CASE value_type
    WHEN 0 THEN {NULLS} WHEN 1 THEN {BOOLEAN}
    WHEN 2 THEN CASE WHEN abs(number) < 9007199254740992 THEN {EXACT}
        WHEN TRY_CAST(value AS BIGINT) IS NOT NULL THEN {INT64}
        WHEN TRY_CAST(value AS HUGEINT) IS NOT NULL THEN {INT128} ELSE {FLOAT} END
    WHEN 3 THEN {FLOAT} WHEN 5 THEN {NESTED} ELSE {TEXT} END"""

_INCOMING_LOGS = """
    SELECT f.projid, f.tstamp, f.filename, c.ctx_id, n.name AS value_name, l.value, l.value_type,
        l.number, l.ordinal, f.source, l.arg, f.run_id, f.rank, l.name_id,
        coalesce(c.nest_id, 0) AS nest_id, c.path, c.iterations, l.file_id
    FROM incoming_logs l JOIN incoming_files f USING (file_id)
    JOIN names n USING (name_id) LEFT JOIN incoming_contexts c USING (seq)"""

_INCOMING_LOOPS = """
    SELECT c.ctx_id, c.loop_entries AS entries, c.loop_value AS value, c.value_type AS type,
        c.number, c.entry, f.run_id, f.rank, c.nest_id, c.path, c.iterations, c.file_id
    FROM incoming_contexts c JOIN incoming_files f USING (file_id)"""

# `better` is true where the incoming row i stands before the row t that is there, of file f.
_BETTER = "f.kind = 'replay' AND (i.source = 'record' OR i.file < f.file)"
_SAME = (
    "t.run_id = i.run_id AND t.rank = i.rank AND t.name_id = i.name_id "
    "AND t.ctx_id IS NOT DISTINCT FROM i.ctx_id AND t.ordinal = i.ordinal"
)


def insert(db: Any, batch: Batch, kinds: Kinds, fresh: bool, again: Iterable[int] = ()) -> None:
    """Put a batch into the tables of a DuckDB connection, within its transaction.

    Parameters: ``fresh``: no row of these runs and ranks is there, and no value is there twice;
    ``again``: files that have been taken in before, of which nothing is to stay.
    """
    nests = {id_: loops for loops, id_ in batch.numbers.nests.items()}
    for table in ("files", "runs", "contexts", "logs", *OWNED, "problems"):
        db.register(f"incoming_{table}", batch.table(table))
    try:
        _new_names(db, batch.numbers)
        _runs(db)
        layout.delete(db, again, nests)
        _add_loop_kinds(db, kinds)
        if fresh:
            tables = layout.Rows(*(batch.table(name) for name in ("files", "contexts", "logs")))
            left = layout.insert(db, tables, nests, kinds.names)
            db.unregister("incoming_logs")
            db.register("incoming_logs", left)
            if len(left):
                db.execute(f"INSERT INTO odd_logs {_INCOMING_LOGS} ORDER BY l.name_id, l.seq")
        else:
            _merge_loops(db, nests)
            _merge_logs(db, nests, kinds)
        _add_kinds(db, kinds)
        for table in OWNED:
            _replace_owned(db, table)
        db.execute("DELETE FROM problems WHERE file IN (SELECT file FROM incoming_files)")
        db.execute("DELETE FROM problems WHERE file IN (SELECT file FROM incoming_problems)")
        db.execute("INSERT INTO problems SELECT * FROM incoming_problems")
    finally:
        for table in ("files", "runs", "contexts", "logs", *OWNED, "problems"):
            db.unregister(f"incoming_{table}")


def _new_names(db: Any, numbers: Numbers) -> None:
    ((known,),) = db.execute("SELECT count(*) FROM names").fetchall()
    new = [(id_, name) for name, id_ in numbers.names.items() if id_ > known]
    table = pa.table(
        [pa.array([i for i, _ in new], pa.int32()), texts([n for _, n in new], pa.string())],
        names=["name_id", "name"],
    )
    db.register("incoming_names", table)
    db.execute("INSERT INTO names (name_id, name) SELECT name_id, name FROM incoming_names")
    db.unregister("incoming_names")
    ((known,),) = db.execute("SELECT count(*) FROM nests").fetchall()
    new_nests = [(id_, list(loops)) for loops, id_ in numbers.nests.items() if id_ >= known]
    for row in new_nests:
        db.execute("INSERT INTO nests VALUES (?, ?)", row)


def _runs(db: Any) -> None:
    db.execute(
        "DELETE FROM runs t USING incoming_runs i WHERE t.run_id = i.run_id AND t.rank = i.rank"
    )
    db.execute("INSERT INTO runs BY NAME SELECT * FROM incoming_runs")
    # A replay may come before its run's own file: the run is known, and little else of it.
    db.execute(
        "INSERT INTO runs BY NAME SELECT DISTINCT run_id, projid, tstamp, filename, rank, "
        "tstamp AS started, 'lost' AS state FROM incoming_files f WHERE source = 'replay' AND "
        "NOT EXISTS (FROM runs t WHERE t.run_id = f.run_id AND t.rank = f.rank)"
    )


def _merge_loops(db: Any, nests: Mapping[int, tuple[str, ...]]) -> None:
    db.execute(
        f"CREATE OR REPLACE TEMP TABLE incoming AS SELECT l.*, f.source, f.file "
        f"FROM ({_INCOMING_LOOPS}) l JOIN incoming_files f USING (file_id) "
        "QUALIFY row_number() OVER (PARTITION BY ctx_id ORDER BY f.source, f.file) = 1"
    )
    found = db.execute("SELECT DISTINCT nest_id FROM incoming ORDER BY ALL").fetchall()
    for (nest,) in found:
        depth, table = len(nests[nest]), layout.table_of(nest)
        layout.create(db, nest, depth)
        same = f"i.nest_id = {nest} AND t.c{depth} = i.ctx_id"
        db.execute(
            f"DELETE FROM {table} t USING incoming i, files f "
            f"WHERE {same} AND f.file_id = t.file_id AND {_BETTER}"
        )
        db.execute(
            f"UPDATE {table} t SET entries = i.entries FROM incoming i WHERE {same} "
            "AND t.entries IS NULL AND i.entries IS NOT NULL"
        )
        path = ", ".join(
            f"{of}[{level}] AS {kind}{level}"
            for kind, of in (("c", "path"), ("i", "iterations"))
            for level in range(1, depth + 1)
        )
        db.execute(
            f"INSERT INTO {table} BY NAME SELECT run_id, rank, 0 AS ordinal, entry, entries, type, "
            f"number, value, file_id, {path} FROM incoming i WHERE nest_id = {nest} "
            f"AND NOT EXISTS (FROM {table} t WHERE {same}) ORDER BY path"
        )


def _merge_logs(db: Any, nests: Mapping[int, tuple[str, ...]], kinds: Kinds) -> None:
    db.execute(
        f"CREATE OR REPLACE TEMP TABLE incoming AS SELECT l.*, f.file "
        f"FROM ({_INCOMING_LOGS}) l JOIN incoming_files f USING (file_id) "
        "QUALIFY row_number() OVER (PARTITION BY l.run_id, l.rank, ctx_id, name_id, ordinal "
        "ORDER BY l.source, f.file) = 1"
    )
    # What has a column there is a run's own, which stands before all else.
    for name, nest in db.execute("SELECT DISTINCT name_id, nest_id FROM incoming").fetchall():
        if kinds.names.get((name, nest), 0) & WIDE:
            depth = len(nests[nest])
            context = f"AND t.c{depth} = i.ctx_id" if depth else ""
            db.execute(
                f"DELETE FROM incoming i USING {layout.table_of(nest)} t WHERE t.run_id = i.run_id "
                f"AND t.rank = i.rank AND i.name_id = {name} AND i.nest_id = {nest} {context} "
                f"AND t.ordinal = i.ordinal AND t.n{name} IS NOT NULL"
            )
    db.execute(
        f"DELETE FROM odd_logs t USING incoming i, files f "
        f"WHERE f.file_id = t.file_id AND {_SAME} AND {_BETTER}"
    )
    db.execute(
        "INSERT INTO odd_logs SELECT * EXCLUDE (file) FROM incoming i "
        f"WHERE NOT EXISTS (FROM odd_logs t WHERE {_SAME}) ORDER BY name_id, ordinal"
    )


def _replace_owned(db: Any, table: str) -> None:
    db.execute(f"DELETE FROM {table} WHERE file_id IN (SELECT file_id FROM incoming_files)")
    db.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming_{table}")


def _add_kinds(db: Any, kinds: Kinds) -> None:
    """Note which kinds of value came that have no column."""
    rows = db.execute(
        f"SELECT l.name_id, coalesce(c.nest_id, 0), bit_or(bits) FROM (SELECT *, {_BITS} "
        f"| CASE WHEN ordinal > 0 THEN {REPEATED} ELSE 0 END AS bits FROM incoming_logs) l "
        "LEFT JOIN incoming_contexts c USING (seq) GROUP BY ALL"
    ).fetchall()
    for name, nest, bits in rows:
        kinds.names[name, nest] = kinds.names.get((name, nest), 0) | bits | ODD


def _add_loop_kinds(db: Any, kinds: Kinds) -> None:
    rows = db.execute(
        f"SELECT nest_id, bit_or({_BITS} | CASE WHEN value_type <> {NULL} AND "
        f"(value_type <> 2 OR number <> loop_iteration) THEN {OTHER} ELSE 0 END) "
        "FROM (SELECT *, loop_value AS value FROM incoming_contexts) GROUP BY ALL"
    ).fetchall()
    for nest, bits in rows:
        kinds.loops[nest] = kinds.loops.get(nest, 0) | bits
