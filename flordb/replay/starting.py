"""How long it takes until servers have imported what the runs of a plan import."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from flordb.replay import pool
from flordb.replay.environment import server_variables
from flordb.replay.learnt import Learnt
from flordb.replay.recorded import Recorded
from flordb.replay.task import package_of

_QUICK = {"flordb", "flor", *sys.stdlib_module_names}
"""What servers have, or import in no time."""


def start_seconds(records: Iterable[Recorded], imports: Sequence[str], known: Learnt) -> float:
    """Seconds until all servers for these runs have imported these modules, side by side."""
    by_server: dict[pool.Environment, list[Recorded]] = {}
    for record in records:
        by_server.setdefault(server_variables(record.header), []).append(record)
    return max((_of_one(*each, imports, known) for each in by_server.items()), default=0.0)


def _of_one(
    variables: pool.Environment,
    records: Sequence[Recorded],
    imports: Sequence[str],
    known: Learnt,
) -> float:
    """A new server, or what an idle one lacks: what no server has imported yet takes at most what
    the run took to import all that this one has not."""
    lacking = pool.lacking(variables, imports)
    usual = known.starting()
    whole = max(record.start + record.imports for record in records)
    if lacking is None:
        return whole if usual is None else usual
    lacking -= _QUICK
    seconds = sum(known.imports.get(package, 0.0) for package in lacking)
    if lacking <= known.imports.keys():
        return seconds
    there = {package_of(name) for name in imports} - lacking
    return max(seconds, whole - sum(known.imports.get(package, 0.0) for package in there))
