"""Manifests: which objects make up a snapshot. Written last, so that a snapshot is there whole or
not at all. The format is in ``docs/snapshots.md``.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from flordb.errors import SnapshotError
from flordb.store.objects import ObjectStore

FORMAT = 1


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor's or an array's raw bytes are: ``size`` bytes at ``offset`` of an object."""

    kind: str
    """'torch' or 'numpy'."""
    dtype: str
    shape: tuple[int, ...]
    object: str
    offset: int
    size: int
    device: str = "cpu"


@dataclass(frozen=True)
class Manifest:
    """One snapshot.

    ``boundary`` names the place (`boundary.py`); ``state`` is the object that holds the pickled
    states, in which tensors are numbers into ``tensors``; ``missing`` maps the path of what could
    not be kept to the reason; ``names`` are the variables that the snapshot binds.
    """

    boundary: str
    state: str
    tensors: tuple[TensorRef, ...]
    missing: dict[str, str]
    names: tuple[str, ...]
    info: dict[str, Any]


class SnapshotStore:
    """The manifests of one run, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, boundary: str) -> Path:
        return self.folder / f"{quote(boundary, safe='=')}.json"

    def save(self, manifest: Manifest) -> None:
        """Make a snapshot visible; its objects must be stored before. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(manifest.boundary)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"format": FORMAT, **asdict(manifest)}))
        os.replace(temporary, path)

    def boundaries(self) -> set[str]:
        """The boundaries at which this run has a snapshot."""
        if not self.folder.is_dir():
            return set()
        return {unquote(path.stem) for path in self.folder.glob("*.json")}

    def load(self, boundary: str) -> Manifest:
        """Read a manifest. Raises SnapshotError where there is none, or it is damaged."""
        path = self._path(boundary)
        try:
            fields = json.loads(path.read_text())
            if fields.pop("format") != FORMAT:
                raise SnapshotError(f"{path}: its format is not {FORMAT}; upgrade flordb.")
            fields["tensors"] = tuple(
                TensorRef(**{**tensor, "shape": tuple(tensor["shape"])})
                for tensor in fields["tensors"]
            )
            fields["names"] = tuple(fields["names"])
            return Manifest(**fields)
        except OSError as error:
            raise SnapshotError(f"no snapshot at {boundary}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise SnapshotError(f"{path}: not a snapshot's manifest ({error!r})") from error

    def has(self, boundary: str, objects: ObjectStore) -> bool:
        """Whether a snapshot is there with all its objects."""
        try:
            manifest = self.load(boundary)
        except SnapshotError:
            return False
        needed = {manifest.state, *(tensor.object for tensor in manifest.tensors)}
        return all(name in objects for name in needed)
