"""What a replay writes: the wanted values, and where what it logs again differs from the record."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any

from flordb.record.context import Context
from flordb.record.encoder import fields_of
from flordb.record.values import freeze, store_array
from flordb.replay.checks import Tolerances, same
from flordb.replay.recorded import Recorded
from flordb.replay.task import Job
from flordb.store.encoding import decode_value, encode_value

Write = Callable[[dict[str, Any]], None]

_MOST_ANOMALIES = 100


class Output:
    """The lines of a replay file.

    Parameters: ``write``, takes each of them. ``anomalies``: how many differences there were.
    """

    def __init__(self, job: Job, record: Recorded, write: Write) -> None:
        self.anomalies = 0
        self._names = frozenset(job.names)
        self._record = record
        self._write = write
        self._contexts = 0
        self._occurrences: dict[tuple[str, str], int] = {}
        self._tolerances = Tolerances.parse(job.tolerance)
        self._different: set[str] = set()

    def is_wanted(self, name: str) -> bool:
        return name in self._names

    def keep(self, context: Context, name: str, value: Any) -> None:
        """Write a wanted value."""
        fields = fields_of(freeze(value), partial(store_array, put=partial(self._send, context)))
        self._write({"k": "log", "c": self._number(context), "n": name, **fields})

    def compare(self, context: Context, name: str, value: Any) -> None:
        """Write how a value that the run logged, too, differs from what it was then."""
        fields = fields_of(freeze(value), partial(store_array, put=_let_go))
        key = (context.path, name)
        occurrence = self._occurrences.get(key, 0)
        self._occurrences[key] = occurrence + 1
        known = self._record.values.get(key, [])
        if occurrence >= len(known):
            return
        replayed = decode_value(fields)
        if same(known[occurrence], replayed, self._tolerances.of(name)):
            return
        self.anomalies += 1
        first = name not in self._different
        self._different.add(name)
        if first or self.anomalies <= _MOST_ANOMALIES:
            line = {"k": "anomaly", "c": self._number(context), "n": name}
            line |= {"o": occurrence, "at": key[0]}
            line["recorded"] = encode_value(known[occurrence])["v"]
            line["replayed"] = fields["v"]
            self._write(line)

    def loaded(self, seconds: float, held: float) -> None:
        """Write how long a snapshot took to load: later recordings know c of equation 4.4 by it."""
        self._write({"k": "time", "w": "restore", "s": round(seconds, 6), "m": held})

    def _number(self, context: Context) -> int:
        if context.number is None:
            assert context.parent is not None
            parent = self._number(context.parent)
            self._contexts += 1
            context.number = self._contexts
            self._write(context.line(parent))
        return context.number

    def _send(self, context: Context, digest: str, data: memoryview) -> None:
        """Hand over a large array's bytes: the store may be out of this process's reach."""
        line = {"k": "object", "c": self._number(context), "n": digest}
        self._write(line | {"data": b64encode(data).decode()})


def _let_go(digest: str, data: memoryview) -> None:
    """A value that is only compared with the record is not kept: its reference says enough."""
