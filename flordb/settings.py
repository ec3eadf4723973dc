"""Every tunable of FlorDB: one name, one home, one precedence.

Call argument > command line > environment (``FLORDB_…``) > ``[tool.flordb]`` in the project's
``pyproject.toml`` > user file (``$XDG_CONFIG_HOME/flordb/config.toml``) > default. Loading never
fails: a value that cannot be read is reported once as a warning and the default stands.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from flordb.errors import warn_in_training


@dataclass(frozen=True)
class Settings:
    """The tunables. Sizes are in bytes, times in seconds."""

    disabled: bool = False
    """Record nothing (every call becomes a pass-through)."""
    epsilon: float = 0.0667
    """ε of equation 4.4: the share of the training time that snapshots may take; 1: take all."""
    restore_ratio: float = 1.38
    """c of equation 4.4: restore time over materialization time, until it has been observed."""
    flush_seconds: float = 0.05
    """How often the flusher writes the run file."""
    heartbeat_seconds: float = 5.0
    """How often a run without new records shows that it is alive."""
    exit_wait_seconds: float = 5.0
    """How long the end of a run may wait for the flusher and for git."""
    snapshot_wait_seconds: float = 60.0
    """How long the end of a run may wait for its last snapshots to be written."""
    max_untracked_bytes: int = 5_000_000
    """Untracked, not ignored files up to this size belong to a version."""
    max_variable_bytes: int = 256_000_000
    """Larger variables are left out of snapshots (objects given to checkpointing are not)."""
    snapshot_memory_bytes: int = 2_000_000_000
    """Copies of changed tensors on their way to the disk; with more, the training waits."""
    compress_bytes: int = 1_000_000
    """A run file that grows beyond this goes on compressed."""
    background_bytes: int = 1_000_000_000
    """How much `flordb.background` may hold in copies before it makes the training wait."""
    snapshot_budget_bytes: int = 50_000_000_000
    """What all snapshots of a project may take here; beyond it they are spooled or thinned."""
    disk_reserve_bytes: int = 1_000_000_000
    """Snapshots leave this much free on their file system (of a small one, 2 %)."""
    spool: str = ""
    """Where snapshots are spooled to (s3://bucket/prefix, file:///…); empty: they are thinned."""
    max_value_bytes: int = 1_000_000
    """A logged value whose JSON is longer is cut to a description."""
    acquire: str = "auto"
    """'auto' (replay within the budget), 'always' (whatever it costs) or 'never'."""
    price_per_device_hour: float = 0.0
    """What an hour of a worker costs, in any currency; plans then show their price, too."""
    tolerance: str = ""
    """How far replayed values may be from the record: ``loss=1e-6, seconds=inf, *=0``."""
    budget_seconds: float = 60.0
    """A plan estimated above this is refused under acquire='auto'."""
    workers: int = 0
    """Replays at the same time; 0 is one a core."""
    task_timeout_seconds: float = 0.0
    """A replay that runs longer is stopped; 0 is ten times its estimate plus five minutes."""
    server_idle_seconds: float = 300.0
    """How long a process with the imports of the last replays waits for the next ones."""
    worker_start: str = "fresh" if sys.platform == "darwin" else "fork"
    """'fork' (of a process that has done the imports) or 'fresh' (an interpreter a replay)."""
    workspaces: str = "auto"
    """'overlay' (a view of its own for each replay), 'links', or 'auto': what the kernel allows."""
    isolated: bool = False
    """Replay each run in an environment with the packages that it had."""
    on: str = "local"
    """Where replays run: 'local' or 'ray'."""
    lock_wait_seconds: float = 2.0
    """How long to wait for another process to let go of the database."""
    serve_host: str = "127.0.0.1"
    """The address that `flordb serve` listens on."""
    serve_quack_port: int = 9494
    """The port of the Quack protocol (DuckDB's shell); 0: any free one; -1: do not serve it."""
    serve_postgres_port: int = 5433
    """The port of the PostgreSQL protocol; 0: any free one; -1: do not serve it."""
    serve_refresh_seconds: float = 0.5
    """How old, at most, what a served statement sees of run files and code may be."""
    serve_connections: int = 250
    """Connections of the PostgreSQL protocol at the same time."""
    serve_patience_seconds: float = 30.0
    """How long a client may take to log in, or to read what was sent to it."""
    serve_max_message_bytes: int = 16_000_000
    """A longer message of the PostgreSQL protocol ends the connection."""
    serve_tls_certificate: str = ""
    """A file with the certificate (PEM) for TLS; empty: no TLS."""
    serve_tls_key: str = ""
    """A file with the certificate's key (PEM); empty: it is in the same file."""


def load(root: Path | None = None, **overrides: Any) -> Settings:
    """The settings in force for the project at ``root``.

    Parameters: ``root``, the project's root folder (None: no project file); ``overrides``, call
    arguments by field name, None meaning "not given".
    """
    settings = Settings()
    for where, values in _sources(root):
        settings = _apply(settings, values, where)
    given = {name: value for name, value in overrides.items() if value is not None}
    return replace(settings, **given)


def _sources(root: Path | None) -> list[tuple[str, Mapping[str, Any]]]:
    """(where, values) from the weakest source to the strongest."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    user = _user_file()
    if user is not None:
        found.append((str(user), _read_toml(user)))
    if root is not None:
        project = root / "pyproject.toml"
        found.append((str(project), _read_toml(project).get("tool", {}).get("flordb", {})))
    prefix = "FLORDB_"
    environment = {
        name[len(prefix) :].lower(): value
        for name, value in os.environ.items()
        if name.startswith(prefix)
    }
    found.append(("the environment", environment))
    return found


def _user_file() -> Path | None:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # An empty or relative value is to be ignored (XDG base directory specification 0.8).
    folder = Path(base) if base and os.path.isabs(base) else None
    try:
        return (folder or Path.home() / ".config") / "flordb" / "config.toml"
    except RuntimeError:  # no home folder
        return None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError:
        return {}  # most projects and users have none
    except tomllib.TOMLDecodeError as error:
        warn_in_training(f"{path} is ignored: {error}")
        return {}


def _apply(settings: Settings, values: Mapping[str, Any], where: str) -> Settings:
    types = {field.name: type(getattr(settings, field.name)) for field in fields(settings)}
    known: dict[str, Any] = {}
    for name, value in values.items():
        if name not in types:
            continue
        try:
            known[name] = _convert(_plain(name, value), types[name])
        except ValueError:
            warn_in_training(
                f"{name} = {value!r} from {where} is ignored: "
                f"expected a value of type {types[name].__name__}"
            )
    return replace(settings, **known)


def _plain(name: str, value: Any) -> Any:
    """A budget may be written with its unit."""
    return seconds_of(value) if name == "budget_seconds" and isinstance(value, str) else value


def _convert(value: Any, to: type) -> Any:
    if to is bool:
        text = str(value).strip().lower()
        if text in ("1", "true", "yes", "on"):
            return True
        if text in ("0", "false", "no", "off", ""):
            return False
        raise ValueError(value)
    if isinstance(value, (bool, list, dict)):
        raise ValueError(value)
    return to(value)


_UNITS = {
    "ms": 0.001,
    "": 1.0,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
}
_UNITS |= {"h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE)


def seconds_of(value: str | float) -> float:
    """A duration in seconds: a number of them, or a text such as ``'90 s'``, ``'5 min'``, ``'2h'``.

    Raises ValueError for anything else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(value)
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    unit = found[2].lower() if found is not None else None
    if unit not in _UNITS and unit is not None:
        unit = unit.removesuffix("s")
    if found is None or unit not in _UNITS:
        raise ValueError(
            f"{value!r} is no duration: expected seconds, or a text such as '90 s', '5 min', '2 h'"
        )
    return float(found[1]) * _UNITS[unit]
