"""Objects in object storage: what is spooled leaves a small file behind that says where it went.

Any file system that ``pyarrow.fs`` knows by its address will do (``s3://bucket/prefix``, ``gs://…``,
``file:///…``). An object is uploaded, then named in ``<object>.spooled``, then removed here; so it
is always somewhere, whenever the process is killed. Fetching puts it back into the store.

Each store has a folder of its own below the address (`owner`), so that several can be given the
same one, and a store deletes nothing that a copy of it spooled.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote

import xxhash

from flordb.errors import DamageError, SnapshotError
from flordb.store.whole import write_whole

SUFFIX = ".spooled"
_OWNER = "spool.json"
_CODEC = "zstd"
_PIECE_BYTES = 16 << 20
_SAMPLE_BYTES = 1 << 20
_ROOM = "What was not moved yet is here. Make room for some small files, and spool again"
_WORTH = 0.9
"""Compressed only where a sample shrinks to less than this share."""


def spooled(path: Path) -> dict[str, Any] | None:
    """Where the object that belongs at ``path`` went: ``url``, ``size`` and ``codec``. None where
    it was not spooled. Raises SnapshotError where the note about it is damaged.
    """
    try:
        note = json.loads(path.with_name(path.name + SUFFIX).read_bytes())
        return {"url": str(note["url"]), "size": int(note["size"]), "codec": note["codec"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SnapshotError(
            f"{path}{SUFFIX} does not say where the object is: {error!r}"
        ) from error


def has_spooled(store: Path) -> bool:
    """Whether anything of a project's ``.flor`` folder was ever spooled."""
    return (store / _OWNER).exists()


def owner(store: Path) -> str:
    """The name of a project's ``.flor`` folder where it spools to: of this very folder, and not of
    its copies. Raises OSError where it cannot be noted.
    """
    note = store / _OWNER
    inode = store.stat().st_ino
    try:
        known = json.loads(note.read_bytes())
        if known["inode"] == inode:
            return str(known["owner"])
    except (OSError, ValueError, TypeError, KeyError):
        known = None  # the first time
    own = f"{store.parent.name}-{secrets.token_hex(8)}"
    write_whole(note, json.dumps({"owner": own, "inode": inode}).encode())
    return own


class Spooler:
    """Moves objects of a project's ``.flor`` folder below an address.

    Raises SnapshotError where that is no place for them.
    """

    def __init__(self, store: Path, url: str) -> None:
        folder, mark, query = url.partition("?")
        try:
            own = owner(store)
        except OSError as error:
            raise SnapshotError(f"spooling cannot begin: {error}. {_ROOM}") from error
        self._folder = f"{folder.rstrip('/')}/{quote(own)}"
        self._query = mark + query
        self._system, self._place = _open(self._folder + self._query)
        self._made: set[str] = set()
        _refuse_inside(store, self._system, self._place)

    def move(self, path: Path) -> int | None:
        """Move the object at ``path``. Returns the bytes freed here; None where it is damaged, and
        so was left. Raises SnapshotError where it cannot be written there; then it stays here.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return 0  # removed meanwhile
        if xxhash.xxh3_128_hexdigest(data) != path.parent.name + path.name:
            return None
        codec, packed = _compress(data)
        target = f"{self._folder}/{path.parent.name}/{path.name}{self._query}"
        try:
            self._write(path.parent.name, path.name, packed)
        except OSError as error:
            raise SnapshotError(f"{target} cannot be written: {error}") from error
        note = {"url": target, "size": len(data), "codec": codec}
        try:
            write_whole(path.with_name(path.name + SUFFIX), json.dumps(note).encode())
        except OSError as error:
            raise SnapshotError(
                f"where an object went cannot be noted: {error}. {_ROOM}"
            ) from error
        path.unlink(missing_ok=True)
        return len(data)

    def _write(self, folder: str, name: str, data: bytes) -> None:
        # Storage without folders makes an object of each, so only one of all is made there (it
        # makes the bucket, too, where that is allowed).
        place = f"{self._place}/{folder}"
        made = place if self._system.type_name == "local" else self._place
        if made not in self._made:
            self._system.create_dir(made, recursive=True)
            self._made.add(made)
        with self._system.open_output_stream(f"{place}/{name}") as stream:
            stream.write(data)


def _refuse_inside(store: Path, system: Any, place: str) -> None:
    """Objects that are moved into the folder that they come from would be gone."""
    own = os.path.realpath(store)
    if system.type_name == "local" and os.path.realpath(place).startswith(own + os.sep):
        raise SnapshotError(f"{place} is in the store itself: name a folder outside of {own}")


def fetch(note: dict[str, Any]) -> bytes:
    """The bytes of a spooled object. Raises SnapshotError where it cannot be read, DamageError
    where it is not what was spooled."""
    url = note["url"]
    system, place = _open(url)
    try:
        with system.open_input_file(place) as file:
            # An answer that is cut off is asked for again: the system's client does so some thirty
            # times a piece, so a piece is neither small (a request each) nor all of an object.
            pieces = iter(lambda: file.read(_PIECE_BYTES), b"")
            data: bytes = b"".join(pieces)
    except OSError as error:
        raise SnapshotError(
            f"{url} cannot be read: {error}. It was spooled there; make it readable, or replay "
            "from the snapshots that are still here."
        ) from error
    if note["codec"]:
        import pyarrow

        try:
            data = pyarrow.decompress(data, note["size"], note["codec"], asbytes=True)
        except (OSError, ValueError, MemoryError) as error:
            raise DamageError(
                f"{url} is damaged: it does not hold what was spooled there ({error})"
            ) from error
    return data


def remove(note: dict[str, Any], name: str) -> None:
    """Delete a spooled object, where the store with this `owner` has spooled it.

    It is no error if it is gone. Raises SnapshotError otherwise.
    """
    if f"/{quote(name)}/" not in note["url"]:
        return
    system, place = _open(note["url"])
    try:
        system.delete_file(place)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SnapshotError(f"{note['url']} cannot be deleted: {error}") from error


def _open(url: str) -> tuple[Any, str]:
    from pyarrow import fs

    try:
        system, place = fs.FileSystem.from_uri(url)
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{url} is no place for snapshots: {error}") from error
    return system, place


def _compress(data: bytes) -> tuple[str | None, bytes]:
    import pyarrow

    sample = data[:_SAMPLE_BYTES]
    packed = pyarrow.compress(sample, _CODEC, asbytes=True)
    if len(packed) > _WORTH * len(sample):
        return None, data
    return _CODEC, pyarrow.compress(data, _CODEC, asbytes=True)
