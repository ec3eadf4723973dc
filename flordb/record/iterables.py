"""What a loop goes through, and whether a replay may skip some of its items."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

_REPEATABLE = (range, list, tuple, str, bytes, dict, set, frozenset)


def is_repeatable(iterable: Iterable[Any]) -> bool:
    """Whether items can be passed over without running the loop's body in between.

    True for collections, arrays, tensors and DataLoaders: what they yield is decided when the
    iteration begins. A generator may depend on what the body does, so its items may not be skipped.
    """
    if isinstance(iterable, (*_REPEATABLE, type({}.keys()), type({}.values()), type({}.items()))):
        return True
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(iterable, numpy.ndarray):
        return True
    if torch is not None:
        if isinstance(iterable, torch.Tensor):
            return True
        data = sys.modules.get("torch.utils.data")
        if data is not None and isinstance(iterable, data.DataLoader):
            return not isinstance(iterable.dataset, data.IterableDataset)
    return False


def range_of(iterable: Iterable[Any]) -> tuple[int, int] | None:
    """(start, step) where the iterations' values are known from their indexes; None otherwise."""
    return (iterable.start, iterable.step) if type(iterable) is range else None


def describe(iterable: Iterable[Any]) -> dict[str, Any]:
    """The facts about a top-level loop's iterable that a replay's plan needs."""
    return {"iterable": type(iterable).__name__, "repeatable": is_repeatable(iterable)}
