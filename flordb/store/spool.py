"""Objects in object storage: what is spooled leaves a small file behind that says where it went.

Any file system that ``pyarrow.fs`` knows by its address will do (``s3://bucket/prefix``, ``gs://…``,
``file:///…``). An object is uploaded, then named in ``<object>.spooled``, then removed here; so it
is always somewhere, whenever the process is killed. Fetching puts it back into the store.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from flordb.errors import SnapshotError

SUFFIX = ".spooled"
_CODEC = "zstd"
_SAMPLE_BYTES = 1 << 20
_WORTH = 0.9
"""Compressed only where a sample shrinks to less than this share."""


def spooled(path: Path) -> dict[str, Any] | None:
    """Where the object that belongs at ``path`` went; None where it was not spooled."""
    try:
        note: dict[str, Any] = json.loads(path.with_name(path.name + SUFFIX).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{path}{SUFFIX} does not say where the object is: {error}") from error
    return note


def spool(path: Path, url: str) -> int:
    """Move the object at ``path`` below ``url``. Returns the bytes freed here.

    Raises SnapshotError where it cannot be written there; then it stays here.
    """
    folder, mark, query = url.partition("?")
    target = f"{folder.rstrip('/')}/{path.parent.name}/{path.name}{mark}{query}"
    data = path.read_bytes()
    codec, packed = _compress(data)
    system, place = _open(target)
    try:
        system.create_dir(place.rpartition("/")[0], recursive=True)
        with system.open_output_stream(place) as stream:
            stream.write(packed)
    except OSError as error:
        raise SnapshotError(f"{target} cannot be written: {error}") from error
    note = path.with_name(path.name + SUFFIX)
    part = note.with_name(f"{note.name}.{os.getpid()}.tmp")
    part.write_text(json.dumps({"url": target, "size": len(data), "codec": codec}))
    os.replace(part, note)
    path.unlink(missing_ok=True)
    return len(data)


def fetch(note: dict[str, Any]) -> bytes:
    """The bytes of a spooled object. Raises SnapshotError where it cannot be read."""
    url = note["url"]
    system, place = _open(url)
    try:
        with system.open_input_stream(place) as stream:
            data: bytes = stream.read()
    except OSError as error:
        raise SnapshotError(
            f"{url} cannot be read: {error}. It was spooled there; make it readable, or replay "
            "from the snapshots that are still here."
        ) from error
    if note["codec"]:
        import pyarrow

        data = pyarrow.decompress(data, note["size"], note["codec"], asbytes=True)
    return data


def remove(note: dict[str, Any]) -> None:
    """Delete a spooled object; it is no error if it is gone. Raises SnapshotError otherwise."""
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
