"""Logged values: what `flor.log` keeps of an object, taken at the moment of the call."""

from __future__ import annotations

import sys
from typing import Any

_PLAIN = frozenset((type(None), bool, int, float, str))
_MOST_ELEMENTS = 10_000


class Deferred:
    """A one-element tensor on a device, copied there; its number is read behind the training."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


def freeze(value: Any) -> Any:
    """``value`` as plain data that later changes cannot reach.

    Numbers, strings, None and nested lists, tuples and dicts of them; scalars and small arrays of
    NumPy and torch as numbers and lists; anything else as its ``repr``.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (list, tuple)):
        return [freeze(item) for item in value]
    if isinstance(value, dict):
        return {str(key): freeze(item) for key, item in value.items()}
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _tensor(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.generic, numpy.ndarray)):
        return _array(value)
    if isinstance(value, (bool, int, float, str)):
        return _plain_of_subclass(value)
    return Repr(value)


class Repr(str):
    """The ``repr`` of a value that is no plain data."""

    __slots__ = ()

    def __new__(cls, value: Any) -> Repr:
        try:
            text = repr(value)
        except Exception as error:  # a user's __repr__ may raise anything
            text = f"<{type(value).__name__}: repr raised {type(error).__name__}>"
        return super().__new__(cls, text)


def _tensor(value: Any) -> Any:
    if value.numel() == 1 and value.device.type != "cpu":
        return Deferred(value.detach().clone())
    if value.numel() > _MOST_ELEMENTS:
        return _description(value)
    data = value.detach().cpu()
    return data.item() if data.numel() == 1 else data.tolist()


def _array(value: Any) -> Any:
    if value.size > _MOST_ELEMENTS:
        return _description(value)
    plain = value.item() if value.size == 1 else value.tolist()
    return freeze(plain) if type(plain) not in _PLAIN else plain


def _description(value: Any) -> Any:
    kind = type(value).__name__
    return Repr(_Text(f"<{kind} of shape {tuple(value.shape)}, dtype {value.dtype}>"))


class _Text(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _plain_of_subclass(value: Any) -> Any:
    """An enum's or another subclass's value as the built-in type below it."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
