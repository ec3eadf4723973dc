"""Calls on their way to another process: a pickle, and the bytes of tensors and arrays beside it.

Tensors and arrays of the plain kinds are not in the pickle: they are copied once, into memory that
both processes share, and once out of it, so that the callable may keep what it is given. Functions
and classes of the main module are pickled by value (cloudpickle), those of other modules by name.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle

from flordb.background.memory import aligned
from flordb.background.proxy import Home, Method, Objects, Proxy

PAUSE_SECONDS = 0.001
"""Between messages, to the process and from it: many small calls are one message, not a change of
threads each."""


@dataclass(frozen=True)
class Call:
    """What is sent for a call. ``pickled`` is None where the call is off; ``keep``: the number of
    the object that it makes; ``folder``: the working folder; ``threads``: how many torch
    computes with; ``start``, ``nbytes``: where its tensors are in the shared memory."""

    ticket: int
    pickled: bytes | None
    keep: int | None
    folder: str | None
    threads: int | None
    start: int
    nbytes: int


@dataclass
class Parcel:
    """A pickled call. ``sources``: flat tensors and arrays of bytes that travel beside it;
    ``nbytes``: what they take there; ``ready``: events of devices that must have happened."""

    pickled: bytes
    sources: list[Any]
    ready: list[Any]
    nbytes: int


def pack(home: Home, call: Callable[..., Any], arguments: Any, named: Any) -> Parcel:
    """The call as it is now, for the process that is ``home``. Raises what pickling raises."""
    file = io.BytesIO()
    pickler = _Pickler(file, home)
    pickler.dump((call, arguments, named))
    nbytes = sum(aligned(source.nbytes) for source in pickler.sources)
    return Parcel(file.getvalue(), pickler.sources, pickler.ready, nbytes)


def unpack(pickled: bytes, memory: Any, start: int, objects: Objects) -> Any:
    """The call and its arguments, with copies of what begins at ``start`` in the shared memory.

    Raises MissingObject where it needs an object that was never made, and what unpickling raises.
    """
    return _Unpickler(pickled, memory, start, objects).load()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, home: Home) -> None:
        super().__init__(file, protocol=5)
        self.sources: list[Any] = []
        self.ready: list[Any] = []
        self._home = home
        self._known: dict[int, tuple[Any, ...]] = {}
        self._alive: list[Any] = []
        self._at = 0
        self._torch = sys.modules.get("torch")
        self._numpy = sys.modules.get("numpy")

    def persistent_id(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in _ATOMS:
            return None
        if kind is Proxy:
            return ("object", self._number_of(obj))
        if kind is Method:
            return ("method", self._number_of(obj.proxy), obj.name)
        known = self._known.get(id(obj))
        if known is None:
            if self._torch is not None and issubclass(kind, self._torch.Tensor):
                known = self._tensor(obj, self._torch)
            elif self._numpy is not None and kind is self._numpy.ndarray:
                known = self._array(obj, self._numpy)
            if known is not None:
                self._known[id(obj)] = known
                self._alive.append(obj)  # so that nothing else gets its id meanwhile
        return known

    def _number_of(self, proxy: Proxy) -> int:
        if proxy._home is not self._home:
            raise TypeError(f"{proxy!r} lives in another process than this call runs in")
        return proxy._number

    def reducer_override(self, obj: Any) -> Any:
        if self._torch is not None and isinstance(obj, self._torch.Tensor):
            return obj.detach().cpu().__reduce_ex__(5)
        return super().reducer_override(obj)

    def _place(self, source: Any) -> int:
        at = self._at
        self.sources.append(source)
        self._at += aligned(source.nbytes)
        return at

    def _tensor(self, obj: Any, torch: Any) -> tuple[Any, ...] | None:
        if not _is_plain(obj, torch):
            return None
        value = obj.detach().resolve_conj().resolve_neg()
        if value.device.type == "cuda":
            value = value.clone()
            self.ready.append(torch.cuda.current_stream(value.device).record_event())
        elif value.device.type != "cpu":
            value = value.cpu()
        if not _is_dense(value):
            value = value.clone()
        flat = value.as_strided((value.numel(),), (1,)).view(torch.uint8)
        return ("tensor", self._place(flat), value.dtype, tuple(value.shape), value.stride())

    def _array(self, obj: Any, numpy: Any) -> tuple[Any, ...] | None:
        if obj.dtype.hasobject:
            return None
        order = "F" if obj.flags.f_contiguous and not obj.flags.c_contiguous else "C"
        flat = numpy.ascontiguousarray(obj.T if order == "F" else obj).reshape(-1)
        return ("array", self._place(flat.view(numpy.uint8)), obj.dtype, obj.shape, order)


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, memory: Any, start: int, objects: Objects) -> None:
        super().__init__(io.BytesIO(pickled))
        self._memory = memory
        self._start = start
        self._objects = objects
        self._known: dict[Any, Any] = {}

    def persistent_load(self, pid: Any) -> Any:
        kind, number, *rest = pid
        if kind == "object":
            return self._objects[number]
        if kind == "method":
            return getattr(self._objects[number], *rest)
        if pid not in self._known:
            make = _tensor if kind == "tensor" else _array
            self._known[pid] = make(self._memory, self._start + number, *rest)
        return self._known[pid]


def _tensor(memory: Any, at: int, dtype: Any, shape: Any, stride: Any) -> Any:
    import torch

    if 0 in shape:
        return torch.empty_strided(shape, stride, dtype=dtype)
    count = dtype.itemsize
    for size in shape:
        count *= size
    flat = torch.frombuffer(memory, dtype=torch.uint8, count=count, offset=at).clone()
    return flat.view(dtype).as_strided(shape, stride)


def _array(memory: Any, at: int, dtype: Any, shape: Any, order: Any) -> Any:
    import numpy

    found = numpy.empty(shape, dtype, order)
    flat = found.reshape(-1, order="A").view(numpy.uint8)
    flat[:] = numpy.frombuffer(memory, numpy.uint8, flat.size, at)
    return found


_ATOMS = frozenset({int, float, str, bool, type(None), bytes, dict, list, tuple})


def _is_plain(value: Any, torch: Any) -> bool:
    return (
        type(value) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.device.type != "meta"
    )


def _is_dense(value: Any) -> bool:
    """Whether a tensor's elements, in some order of its dimensions, lie side by side."""
    if value.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(value.stride(), value.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
