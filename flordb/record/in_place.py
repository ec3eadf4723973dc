"""Puts states into live objects of each kind, or makes new objects of them."""

from __future__ import annotations

import collections
import ctypes
import importlib
import random
import sys
import weakref
from collections.abc import Mapping
from typing import Any

from flordb.record.anchors import attributes_of, own_attributes, slots_of
from flordb.record.present import is_plain_memory, is_writable


def tensor_in_place(live: Any, state: dict[str, Any]) -> Any:
    """Parameters: ``state``, whose data are None where the tensor has them; they go to its memory
    if it can keep that (`sharing`), and are it otherwise."""
    torch = sys.modules["torch"]
    data, grad = state["data"], state["grad"]
    if not is_changeable(live):
        return tensor_anew(state)
    with torch.no_grad():
        if data is not None and state["in_its_memory"]:
            _copy_into(live, data)
        elif data is not None:
            live.data = data.to(live.device)
        live.requires_grad_(state["requires_grad"])
        live.grad = None if grad is None else grad.to(live.device)
    return live


def is_changeable(live: Any) -> bool:
    """Whether a tensor can be changed in place: it is not what a graph has computed."""
    return live.grad_fn is None and bool(live.is_leaf)


def _copy_into(live: Any, data: Any) -> None:
    same = live.shape == data.shape and live.dtype == data.dtype
    if not is_writable(live):
        if not same or not _same_bytes(live, data):
            live.data = data.to(live.device)
    elif same and data.is_cpu and is_plain_memory(live) and live.stride() == data.stride():
        # torch would copy with all its threads, which wait for each other on a busy machine.
        ctypes.memmove(live.data_ptr(), data.data_ptr(), live.nbytes)
    elif same and not _overlaps(live):
        live.data.copy_(data)
    else:
        live.data = data.to(live.device)


def _same_bytes(live: Any, data: Any) -> bool:
    torch = sys.modules["torch"]
    one, other = (value.contiguous().view(-1).view(torch.uint8) for value in (live, data))
    return bool(torch.equal(one, other))


def _overlaps(value: Any) -> bool:
    """Whether elements share memory (an expanded tensor), so that copying into it is refused."""
    return any(
        stride == 0 and size > 1 for stride, size in zip(value.stride(), value.shape, strict=True)
    )


def tensor_anew(state: dict[str, Any]) -> Any:
    torch = sys.modules["torch"]
    made = state["data"]
    if state["parameter"]:
        made = torch.nn.Parameter(made, requires_grad=state["requires_grad"])
    else:
        made.requires_grad_(state["requires_grad"])
    made.grad = state["grad"]
    return made


def set_generator(live: Any, state: Any) -> None:
    """Put a generator object of Python, NumPy or torch into a state."""
    if isinstance(live, random.Random) and isinstance(state, dict):
        live.setstate(state["state"])
        attributes_in_place(live, state["attributes"])
    elif isinstance(live, random.Random):
        live.setstate(state)
    elif hasattr(live, "bit_generator"):
        live.bit_generator.state = state
    elif isinstance(state, bytes):
        torch = sys.modules["torch"]
        live.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    else:
        live.set_state(state)


def generator_anew(name: str, state: Any) -> Any:
    if name == "random.Random":
        made: Any = random.Random()
    elif name.startswith("numpy."):
        numpy = importlib.import_module("numpy")
        if name.endswith("RandomState"):
            made = numpy.random.RandomState()
        else:
            made = numpy.random.Generator(getattr(numpy.random, state["bit_generator"])())
    else:
        made = importlib.import_module("torch").Generator()
    set_generator(made, state)
    return made


def module_in_place(live: Any, state: dict[str, Any]) -> None:
    for group in ("parameters", "buffers", "modules"):
        holder = getattr(live, f"_{group}")
        for name, value in state[group].items():
            if holder.get(name) is not value:
                holder[name] = value
        for name in holder.keys() - state[group].keys():
            del holder[name]
    for name in own_attributes(live).keys() - state["attributes"].keys():
        delattr(live, name)
    attributes_in_place(live, state["attributes"])


def instance_in_place(live: Any, attributes: Mapping[str, Any]) -> None:
    """Let an object have these attributes and no others."""
    for name in attributes_of(live).keys() - attributes.keys():
        object.__delattr__(live, name)
    attributes_in_place(live, attributes)


def attributes_in_place(live: Any, attributes: Mapping[str, Any]) -> None:
    own = getattr(live, "__dict__", {})
    slots = slots_of(type(live))
    for name, value in attributes.items():
        if name in slots:
            object.__setattr__(live, name, value)
        elif name not in own or own[name] is not value:
            own[name] = value


def fill(live: Any, state: dict[str, Any]) -> None:
    """Put items into a container as its base class does, whatever the project's class makes of
    it."""
    items = state["items"]
    match live:
        case list():
            list.__setitem__(live, slice(None), items)
        case bytearray():
            live[:] = items
        case dict():
            # An OrderedDict keeps an order of its own.
            own = collections.OrderedDict if isinstance(live, collections.OrderedDict) else dict
            own.clear(live)
            if isinstance(live, collections.defaultdict):
                live.default_factory = state["default"]
            for key, value in items:  # a Counter's own update would count
                own.__setitem__(live, key, value)
        case set():
            set.clear(live)
            set.update(live, items)
        case collections.deque():
            collections.deque.clear(live)
            collections.deque.extend(live, items)


def optimizer_in_place(live: Any, state: dict[str, Any]) -> None:
    live.state.clear()
    live.state.update(state["state"])
    groups = state["groups"]
    for group, restored in zip(live.param_groups, groups, strict=False):
        group.clear()
        group.update(restored)
    live.param_groups[len(groups) :] = []
    live.param_groups.extend(groups[len(live.param_groups) :])
    vars(live).update(state.get("attributes", {}))


def object_in_place(live: Any, state: Any) -> Any:
    """A library's object takes over the restored one's attributes where it consists of them."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(live, torch.Tensor):
        return _special_in_place(torch, live, state)
    if isinstance(live, weakref.WeakSet):
        # Its attributes belong to it: what its weak references call removes from this one.
        live.clear()
        live.update(state)
        return live
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(live, numpy.ndarray):
        return _array_in_place(numpy, live, state)
    own, restored = getattr(live, "__dict__", None), getattr(state, "__dict__", None)
    if own is restored:
        return state  # what is pickled by its name, as loggers are
    if not own or not restored or hasattr(type(live), "__slots__"):
        return state
    own.clear()
    own.update(restored)
    return live


def _array_in_place(numpy: Any, live: Any, state: Any) -> Any:
    """An array of objects, or one of a subclass: its elements, and what it has besides them."""
    if live.shape != state.shape or live.dtype != state.dtype:
        return state
    elements, restored = live.view(numpy.ndarray), state.view(numpy.ndarray)
    if live.flags.writeable:
        numpy.copyto(elements, restored)
    elif live.dtype.hasobject or elements.tobytes() != restored.tobytes():
        return state
    if not isinstance(live, numpy.memmap):  # whose attributes say where it is mapped
        attributes_in_place(live, getattr(state, "__dict__", {}))
    return live


def _special_in_place(torch: Any, live: Any, state: Any) -> Any:
    """A quantized or sparse tensor, or one of a subclass: copied where torch can do that."""
    same = live.shape == state.shape and live.dtype == state.dtype
    quantized = same and live.is_quantized and not torch.equal(_scales(live), _scales(state))
    if not same or quantized or live.grad_fn is not None or live.is_inference():
        return state
    with torch.no_grad():
        live.copy_(state)
    for name, value in vars(state).items():
        setattr(live, name, value)
    return live


def _scales(value: Any) -> Any:
    torch = sys.modules["torch"]
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return torch.tensor([value.q_scale(), value.q_zero_point()], dtype=torch.float64)
    scales, zeros = value.q_per_channel_scales(), value.q_per_channel_zero_points()
    return torch.stack([scales.double(), zeros.double()])


def weak_reference(live: Any, target: Any) -> Any:
    """A weak reference to an object, or one whose object is gone (None)."""
    if live is not None and live() is target:
        return live
    return weakref.ref(set() if target is None else target)
