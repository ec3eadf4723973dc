"""Logged values: what `flor.log` keeps of an object, taken at the moment of the call.

Small things become plain data at once. Arrays and tensors are copied and read behind the training,
those on a device without waiting for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from flordb.store import references

PLAIN = frozenset((type(None), bool, int, float, str))
"""Types whose values are kept as they are: nothing can change them later."""

MOST_ELEMENTS = 1_000
"""Arrays and tensors with more elements are stored as objects; smaller ones are lists."""


class Held:
    """A value that is read behind the training: a copy of an array or a tensor, or plain data with
    such copies in it. ``ready``: the event after which a device has made the copy."""

    __slots__ = ("ready", "value")

    def __init__(self, value: Any, ready: Any = None) -> None:
        self.value = value
        self.ready = ready

    @property
    def nbytes(self) -> int:
        if isinstance(self.value, dict):
            return sum(item.nbytes for item in self.value.values() if type(item) is Held)
        if isinstance(self.value, list):
            return sum(item.nbytes for item in self.value if type(item) is Held)
        return int(self.value.nbytes)


class Repr(str):
    """The ``repr`` of a value that is no plain data."""

    __slots__ = ()

    def __new__(cls, value: Any) -> Repr:
        try:
            text = repr(value)
        except Exception as error:  # a user's __repr__ may raise anything
            text = f"<{type(value).__name__}: repr raised {type(error).__name__}>"
        return super().__new__(cls, text)


def freeze(value: Any) -> Any:
    """``value`` as something that later changes cannot reach. Never raises.

    Numbers, strings, None and nested lists, tuples and dicts of them as plain data; scalars of
    NumPy and torch as numbers; arrays and tensors `Held`; anything else as its `Repr`.
    """
    if type(value) in PLAIN:
        return value
    try:
        return _freeze(value)
    except Exception:  # a container that holds itself, a key whose str raises, a lost device
        return Repr(value)


def settle(held: Held, store: Callable[[Any], str]) -> Any:
    """The plain data of a held value, or for a large array or tensor the `Stored` reference that
    ``store`` gives for it. May wait for a device."""
    value = held.value
    if isinstance(value, dict):
        return {key: _settle_item(item, store) for key, item in value.items()}
    if isinstance(value, list):
        return [_settle_item(item, store) for item in value]
    if held.ready is not None:
        held.ready.synchronize()
    torch = sys.modules.get("torch")
    is_tensor = torch is not None and isinstance(value, torch.Tensor)
    if is_tensor:
        value = value.cpu()
    size = value.numel() if is_tensor else value.size
    if size > MOST_ELEMENTS:
        return Stored(store(value))
    return value.item() if size == 1 else value.tolist()


def _settle_item(item: Any, store: Callable[[Any], str]) -> Any:
    if type(item) is Held:
        found = settle(item, store)
        return str(found) if type(found) is Stored else found
    return item


def store_array(value: Any, put: Callable[[str, memoryview], Any]) -> str:
    """Have a large array's bytes kept by ``put``, which gets their digest; the text of the
    reference, or a description where the elements are no bytes."""
    if not references.is_storable(value):
        return f"<{type(value).__name__} of shape {tuple(value.shape)}, {value.dtype}>"
    reference, raw = references.packed(value)
    put(reference.digest, raw)
    return str(reference)


class Stored(str):
    """The text of a reference to an object of the object store."""

    __slots__ = ()


def _freeze(value: Any) -> Any:
    if type(value) in PLAIN:
        return value
    if isinstance(value, (list, tuple)):
        items = [_freeze(item) for item in value]
        return Held(items) if any(type(item) is Held for item in items) else items
    if isinstance(value, dict):
        pairs = {str(key): _freeze(item) for key, item in value.items()}
        return Held(pairs) if any(type(item) is Held for item in pairs.values()) else pairs
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.generic, numpy.ndarray)):
        return _array(value, numpy)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _tensor(value, torch)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):  # an enum's or another subclass's value
            return kind(value)
    return Repr(value)


def _tensor(value: Any, torch: Any) -> Any:
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        return Repr(value)
    data = value.detach()
    if data.device.type == "cpu":
        if data.numel() == 1:
            return data.item()
        return Held(data.clone())
    # The copy is queued on the device and read later: the training does not wait for it.
    copy = data.clone()
    ready = None
    if copy.is_cuda:
        ready = torch.cuda.current_stream(copy.device).record_event()
    return Held(copy, ready)


def _array(value: Any, numpy: Any) -> Any:
    if value.dtype.kind in "biufc" and value.size > 1:
        return Held(numpy.array(value))
    if value.size > MOST_ELEMENTS:
        return Repr(_Text(f"<{type(value).__name__} of shape {value.shape}, {value.dtype}>"))
    plain = value.item() if value.size == 1 else value.tolist()
    # Some scalars (numpy.longdouble) are their own item.
    return Repr(value) if isinstance(plain, numpy.generic) else _freeze(plain)


class _Text(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
