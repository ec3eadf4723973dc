"""Manifests: which objects make up a snapshot. Written last, so that a snapshot is there whole or
not at all. The format is in ``docs/snapshots.md``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from flordb.errors import DamageError, SnapshotError
from flordb.store.objects import ObjectStore, digest

FORMAT = 2
_LONGEST_NAME = 240
"""Bytes of a file's name without its ending: file systems take 255, ending and all."""
_HASHED = "+"
"""Begins the name of a file that is called by the hash of its boundary: quoting leaves none."""
_DIGEST = ',"digest":"'
_END = '"}'


class BlockRef(NamedTuple):
    """Where bytes are: ``size`` at ``offset`` of an object.

    ``digest`` is theirs, where the object holds others too.
    """

    object: str
    offset: int
    size: int
    digest: str

    @property
    def contents(self) -> str:
        """The digest of its bytes."""
        return self.digest or self.object


class TensorRef(NamedTuple):
    """A tensor or an array: a view of a block, ``offset`` bytes in, with ``strides`` in bytes."""

    kind: str
    """'torch' or 'numpy'."""
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: int
    """The block's number; -1 for a tensor without elements."""
    offset: int
    device: str


@dataclass(frozen=True)
class Manifest:
    """One snapshot.

    ``boundary`` names the place (`boundary.py`); ``state`` is the object that holds the pickled
    states, in which tensors are numbers into ``tensors``; ``missing`` maps the path of what could
    not be kept to the reason; ``names`` are the variables that the snapshot binds.
    """

    boundary: str
    state: str
    blocks: tuple[BlockRef, ...]
    tensors: tuple[TensorRef, ...]
    missing: dict[str, str]
    names: tuple[str, ...]
    info: dict[str, Any]
    held: float = 0.0
    """Seconds that taking it held up the training."""

    @property
    def objects(self) -> set[str]:
        """The objects that the snapshot needs."""
        return {self.state, *(block.object for block in self.blocks)}


class SnapshotStore:
    """The manifests of one run, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, boundary: str) -> Path:
        name = quote(boundary, safe="=")
        if len(name) > _LONGEST_NAME:
            name = _HASHED + digest(boundary.encode())
        return self.folder / f"{name}.json"

    def save(self, manifest: Manifest) -> int:
        """Make a snapshot visible; its objects must be stored before. Returns the file's size.

        Raises OSError.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(manifest.boundary)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        text = json.dumps({"format": FORMAT, **vars(manifest)}, separators=(",", ":"))
        text = f"{text[:-1]}{_DIGEST}{digest(text.encode())}{_END}"
        try:
            temporary.write_text(text)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return len(text)

    def boundaries(self) -> set[str]:
        """The boundaries at which this run has a snapshot."""
        if not self.folder.is_dir():
            return set()
        return set(filter(None, map(boundary_of, self.folder.glob("*.json"))))

    def load(self, boundary: str) -> Manifest:
        """Read a manifest. Raises SnapshotError where it cannot be had, DamageError where it is
        damaged."""
        try:
            return read_manifest(self.path(boundary))
        except OSError as error:
            raise SnapshotError(f"no snapshot at {boundary}: {error}") from error

    def mend(self, boundary: str, objects: ObjectStore, suspects: set[str]) -> bool:
        """Remove a snapshot that cannot be read any more, so that replays do without it.

        Those at the beginning of a run or a loop stay: a replay may need no more than a part of
        them, and has no other way. Returns whether a replay may fare better now, or another time.

        Parameters: ``suspects``, the objects that could not be read.
        """
        try:
            needed = self.load(boundary).objects & suspects
        except DamageError:
            lost = True
        except SnapshotError:
            lost = False  # a later flordb's, or one that cannot be read now
        else:
            for name in needed:
                objects.drop_damaged(name)
            lost = bool(objects.lacks(sorted(needed)))
        if lost and (boundary == "start" or boundary.endswith("@enter")):
            return False
        if lost:
            self.path(boundary).unlink(missing_ok=True)
        return True


def boundary_of(path: Path) -> str | None:
    """The boundary whose manifest a file is, by its name; None where it is called by a hash, and
    cannot be read."""
    if not path.name.startswith(_HASHED):
        return unquote(path.stem)
    try:
        return read_manifest(path).boundary
    except (OSError, SnapshotError):
        return None


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Raises OSError, DamageError where the file is not one, and SnapshotError
    where a later flordb has written it."""
    data = path.read_bytes()
    try:
        fields = json.loads(_checked(data))
        found = fields.pop("format")
        if found == FORMAT:
            fields["blocks"] = tuple(BlockRef(*block) for block in fields["blocks"])
            fields["tensors"] = tuple(
                TensorRef(kind, dtype, tuple(shape), tuple(strides), *rest)
                for kind, dtype, shape, strides, *rest in fields["tensors"]
            )
            fields["names"] = tuple(fields["names"])
            return Manifest(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(f"{path}: not a snapshot's manifest ({error!r})") from error
    said = f"{path}: its format is {found}, this flordb reads {FORMAT}"
    if isinstance(found, int) and found > FORMAT:
        raise SnapshotError(f"{said}. Upgrade flordb")
    raise DamageError(said)


def _checked(data: bytes) -> bytes:
    """A manifest without the digest of its text, which must be right: one bit of an offset or a
    shape would be another value. Raises ValueError. Those of earlier versions have none."""
    text, found, rest = data.rpartition(_DIGEST.encode())
    if not found:
        return data
    text += b"}"
    if rest != f"{digest(text)}{_END}".encode():
        raise ValueError("its text does not have the digest that it says")
    return text
