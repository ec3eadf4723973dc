"""What loading a run's snapshots takes, by what they hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from flordb.store.snapshots import Manifest

# Processor time of the worker, measured on one machine; what replays took there then corrects it.
_EACH_SECONDS = 0.5e-3
_TENSOR_SECONDS = 35e-6
_COPIED_BYTES_PER_SECOND = 3e9
"""Read, verified, and copied into the live objects."""
_PRESENT_BYTES_PER_SECOND = 16e9
"""Hashed where they are, and found to be what is wanted."""


class Loading:
    """Seconds expected of loading each snapshot of a run.

    Of those at one place of the script, all iterations alike, the last is looked at, and as memory
    that it comes into the one before it; at the end of a top-level loop, that at its beginning.

    Parameters: ``boundaries`` at which there are snapshots; ``manifest`` reads one (None: it
    cannot be read).
    """

    def __init__(
        self, boundaries: Iterable[str], manifest: Callable[[str], Manifest | None]
    ) -> None:
        self._manifest = manifest
        self._places: dict[str, list[str]] = {}
        for boundary in sorted(boundaries):
            self._places.setdefault(_place(boundary), []).append(boundary)
        self._seconds: dict[str, float] = {}

    def seconds(self, boundary: str) -> float:
        """Of the snapshot at this boundary, or of one that would be there."""
        place = _place(boundary)
        if place not in self._seconds:
            at = self._places.get(place, [])
            before = at[-2:-1] or self._places.get(place.replace("@exit", "@enter"), [])
            own, other = (self._manifest(b[-1]) if b else None for b in (at, before))
            self._seconds[place] = _EACH_SECONDS if own is None else _of(own, other)
        return self._seconds[place]


def _of(manifest: Manifest, other: Manifest | None) -> float:
    """Of a snapshot, when memory holds what another one holds."""
    there = set() if other is None else {block.contents for block in other.blocks}
    sizes = {block.contents: block.size for block in manifest.blocks}
    present = sum(size for digest, size in sizes.items() if digest in there)
    copied = sum(sizes.values()) - present
    return (
        _EACH_SECONDS
        + len(manifest.tensors) * _TENSOR_SECONDS
        + copied / _COPIED_BYTES_PER_SECOND
        + present / _PRESENT_BYTES_PER_SECOND
    )


def _place(boundary: str) -> str:
    """A boundary without the iterations that it is in."""
    return re.sub(r"=\d+", "=", boundary)
