"""Large arrays and tensors among the logged values, read in SQL through their references."""

from __future__ import annotations

from typing import Any

from flordb.errors import FlorError
from flordb.store.project import Project
from flordb.udfs import Function


def functions(project: Project) -> list[Function]:
    """The functions about ``project``; for a text that is no reference they give NULL."""

    # Imported when they are called: every connection knows these functions, and few call them.
    def shape(text: str) -> list[int] | None:
        from flordb.store import references

        try:
            return list(references.parse(text).shape)
        except FlorError:
            return None

    def elements(text: str) -> list[float] | None:
        if shape(text) is None:
            return None
        from flordb.store import references
        from flordb.store.objects import ObjectStore

        value: Any = references.load(text, ObjectStore(project.values))
        if not hasattr(value, "dtype") or "complex" in str(value.dtype):
            return None
        if text.startswith("torch."):
            value = value.double().numpy()
        flat: list[float] = value.reshape(-1).astype("float64").tolist()
        return flat

    return [
        Function("flor_array_shape", shape, ("VARCHAR",), "BIGINT[]"),
        Function("flor_array", elements, ("VARCHAR",), "DOUBLE[]"),
    ]
