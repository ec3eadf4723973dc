"""Large arrays and tensors among the logged values: bytes in an object store, a text in the log.

The text says what the bytes are, ``torch.float32[3,224,224]@<digest>``: library, dtype, shape, and
the object's name. The bytes are the elements in C order, little-endian, as in snapshots.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

from flordb.errors import FlorError, SnapshotError
from flordb.store.objects import ObjectStore, digest

_PATTERN = re.compile(r"(numpy|torch)\.(\w+)\[((?:\d+(?:,\d+)*)?)\]@([0-9a-f]{32})")


@dataclass(frozen=True)
class Reference:
    """What a reference's text says."""

    library: str
    dtype: str
    shape: tuple[int, ...]
    digest: str

    def __str__(self) -> str:
        shape = ",".join(map(str, self.shape))
        return f"{self.library}.{self.dtype}[{shape}]@{self.digest}"


def parse(text: str) -> Reference:
    """The parts of a reference. Raises FlorError where the text is none."""
    found = _PATTERN.fullmatch(text)
    if found is None:
        raise FlorError(
            f"{text[:200]!r} is no reference to a logged array; one reads like "
            "torch.float32[3,224]@<32 hexadecimal digits>, as SELECT gives it."
        )
    library, dtype, shape, name = found.groups()
    return Reference(library, dtype, tuple(map(int, filter(None, shape.split(",")))), name)


def is_storable(value: Any) -> bool:
    """Whether an array or a tensor in main memory can be kept as bytes."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return bool(value.layout == torch.strided and not value.is_quantized)
    return value.dtype.kind in "biufc" and value.dtype.itemsize <= 16


def put(value: Any, objects: ObjectStore) -> Reference:
    """Store an array, or a tensor in main memory. Raises OSError where that cannot be."""
    reference, raw = packed(value)
    objects.put(reference.digest, raw)
    return reference


def packed(value: Any) -> tuple[Reference, memoryview]:
    """The reference of an array, or of a tensor in main memory, and its bytes."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        library, dtype = "torch", str(value.dtype).removeprefix("torch.")
        data = value.detach().contiguous().resolve_conj().resolve_neg().reshape(-1)
        raw = memoryview(data.view(torch.uint8).numpy())
    else:
        import numpy

        library, dtype = "numpy", value.dtype.name
        native = numpy.ascontiguousarray(value, value.dtype.newbyteorder("="))
        raw = memoryview(native.reshape(-1).view(numpy.uint8))
    name = digest(raw)
    return Reference(library, dtype, tuple(value.shape), name), raw


def load(text: str, objects: ObjectStore) -> Any:
    """The NumPy array or torch tensor that a reference's text stands for, writable.

    Raises FlorError where the text is no reference, or its bytes are gone.
    """
    reference = parse(text)
    try:
        raw = bytearray(objects.get(reference.digest))
    except SnapshotError as error:
        raise FlorError(
            f"the bytes of {text} cannot be read from {objects.folder}: they are gone or damaged. "
            "Git has the values that were logged, but not the contents of large arrays."
        ) from error
    if reference.library == "torch":
        try:
            import torch
        except ImportError as error:
            raise FlorError(f"{text} is a torch tensor, and torch is not installed here") from error
        dtype = getattr(torch, reference.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise FlorError(f"{text}: this torch ({torch.__version__}) has no {reference.dtype}")
        flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        return flat.reshape(reference.shape)
    import numpy

    return numpy.frombuffer(raw, numpy.dtype(reference.dtype)).reshape(reference.shape)
