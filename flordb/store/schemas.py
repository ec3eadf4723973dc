"""The tables that run files give rows to, besides contexts and values, in Arrow's form."""

from __future__ import annotations

import pyarrow as pa

SCHEMAS = {
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
    "snapshots": pa.schema(
        [
            ("run_id", pa.int32()),
            ("rank", pa.int32()),
            ("row", pa.int64()),
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
            ("row", pa.int64()),
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
            ("flordb", pa.string()),
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
