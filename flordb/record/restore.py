"""Bytes to objects: puts a snapshot's states back, in place where the live object is found.

The counterpart of `capture`. An anchor whose path leads to a live object of the same type is
changed in place, so everyone who refers to it sees the restored state; any other is made anew.
"""

from __future__ import annotations

import collections
import importlib
import io
import pickle
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from flordb.errors import SnapshotError
from flordb.record import rng
from flordb.record.capture import type_name
from flordb.record.frames import bind
from flordb.record.in_place import (
    attributes_in_place,
    fill,
    generator_anew,
    instance_in_place,
    is_changeable,
    module_in_place,
    object_in_place,
    optimizer_in_place,
    set_generator,
    tensor_anew,
    tensor_in_place,
    weak_reference,
)
from flordb.record.mapped import MappedBlocks
from flordb.record.modes import set_modes
from flordb.record.present import Present
from flordb.record.reach import Path, resolve, spell, take
from flordb.record.sharing import sharing_of
from flordb.store.objects import ObjectStore
from flordb.store.snapshots import Manifest


def restore(
    manifest: Manifest,
    objects: ObjectStore,
    frame: FrameType | None,
    checkpoint: Mapping[str, Any],
    present: Present | None = None,
) -> dict[str, str]:
    """Put a snapshot's state into the running program.

    Parameters: ``frame``, the frame whose variables are bound; ``checkpoint``, live objects by the
    names given to ``flor.checkpointing``; ``present``, what was restored before. Returns what could
    not be restored, with reasons. Raises SnapshotError where the snapshot itself cannot be read.
    """
    return _Restore(manifest, objects, frame, checkpoint, present or Present()).run()


def generators_of(manifest: Manifest, objects: ObjectStore) -> dict[str, Any]:
    """The states of the process's generators that a snapshot holds, see `flordb.record.rng`."""
    states: dict[str, Any] = pickle.loads(objects.get(manifest.state))["rng"]
    return states


def load_objects(
    manifest: Manifest, objects: ObjectStore, wanted: Mapping[str, Any]
) -> dict[str, str]:
    """Put the states of the ``checkpointing`` objects with these names into live objects."""
    work = _Restore(manifest, objects, None, wanted, Present())
    for number, (_, path, _, _) in enumerate(work.anchors):
        if path[0][0] == "checkpoint" and path[0][1] in wanted:
            work.anchor(number)
    return work.failed


class _Restore:
    def __init__(
        self,
        manifest: Manifest,
        objects: ObjectStore,
        frame: FrameType | None,
        checkpoint: Mapping[str, Any],
        present: Present,
    ) -> None:
        self.manifest = manifest
        self.present = present
        self.blocks = MappedBlocks(manifest, objects)
        self.frame = frame
        self.checkpoint = checkpoint
        content = pickle.loads(objects.get(manifest.state))
        self.anchors: list[tuple[str, Path, str, Any]] = content["anchors"]
        self.bindings: list[tuple[Path, bytes]] = content["bindings"]
        self.generators: dict[str, Any] = content["rng"]
        self.modes: dict[str, Any] | None = content.get("modes")
        self.done: dict[int, Any] = {}
        self.storages: dict[int, Any] = {}
        self.failed: dict[str, str] = dict(manifest.missing)
        # Paths are resolved before anything changes: restoring a container moves what is below it.
        self.found = self.live_objects()
        self.parted = self.share_memory()
        self.replaced: dict[int, tuple[Any, Any]] = {}

    def run(self) -> dict[str, str]:
        for number, (_, path, _, _) in enumerate(self.anchors):
            self.attempt(path, lambda number=number: self.anchor(number))
        for path, data in self.bindings:
            self.attempt(path, lambda path=path, data=data: self.bind(path, data))
        self.rebind()
        if self.modes is not None:
            set_modes(self.modes)
        rng.set_states(self.generators)  # last: making objects may draw
        return self.failed

    def live_objects(self) -> list[Any]:
        """The live objects at the anchors' paths. What the run's loop has made two objects of may
        still be one: it belongs to the first path that leads to it."""
        found: list[Any] = [None] * len(self.anchors)
        known: set[int] = set()
        for at in self.order():
            _, path, name, _ = self.anchors[at]
            value = self.live(path, name)
            if value is not None and id(value) not in known:
                known.add(id(value))
                found[at] = value
        return found

    def order(self) -> list[int]:
        """The numbers of the anchors: variables that the loop did not bind have what they had; then
        come the others, and last what is only found through those that it did bind."""
        bound = {path for path, _ in self.bindings}

        def place(at: int) -> int:
            path = self.anchors[at][1]
            return 2 if path[:1] in bound or path in bound else int(len(path) > 1)

        return sorted(range(len(self.anchors)), key=place)

    def share_memory(self) -> set[int]:
        """Find out which live objects cannot keep their memory; arrays among them are made anew."""
        live = []
        for at in self.order():
            kind, _, _, data = self.anchors[at]
            if self.found[at] is not None and data is not None and kind in ("tensor", "array"):
                number = data[0] if type(data) is tuple else _number(data)
                live.append((at, self.found[at], number))
        sharing = sharing_of(live, self.manifest)
        self.blocks.place(sharing.memory)
        for at in sharing.parted:
            if self.anchors[at][0] == "array":
                self.found[at] = None
        return sharing.parted

    def rebind(self) -> None:
        """Let all variables that had what could not be changed in place have its replacement."""
        if not self.replaced:
            return
        frame = self.frame
        modules = [sys.modules.get(str(p[0][1]).partition(":")[0]) for _, p, _, _ in self.anchors]
        holders = {id(vars(m)): vars(m) for m in modules if m is not None}
        while frame is not None:
            holders[id(frame.f_globals)] = frame.f_globals
            new = {n: self.replaced[id(v)][1] for n, v in frame.f_locals.items() if self.was(v)}
            if new and frame.f_locals is not frame.f_globals:
                bind(frame, new)
            frame = frame.f_back
        for holder in holders.values():
            holder.update({n: self.replaced[id(v)][1] for n, v in holder.items() if self.was(v)})

    def was(self, value: Any) -> bool:
        """Whether this object was replaced."""
        return id(value) in self.replaced and self.replaced[id(value)][0] is value

    def attempt(self, path: Path, work: Any) -> None:
        try:
            work()
        except SnapshotError as error:
            self.failed[spell(path)] = str(error)
        except Exception as error:  # an object's own __setstate__ may raise anything
            self.failed[spell(path)] = f"{type(error).__name__}: {error}"

    def live(self, path: Path, name: str) -> Any:
        try:
            value = resolve(path, self.frame, self.checkpoint)
        except LookupError:
            return None
        return value if type_name(value) == name else None

    def anchor(self, number: int) -> Any:
        """The live or new object of an anchor, restored. Raises SnapshotError where it cannot."""
        if number in self.done:
            return self.done[number]
        kind, path, _, data = self.anchors[number]
        live = self.found[number]
        if data is None:
            if live is None:
                raise SnapshotError(f"{spell(path)} was not kept: {self.failed.get(spell(path))}")
            self.done[number] = live
            return live
        if kind == "container":
            return self.container(number, live, data)
        if kind == "function" and live is not None:
            self.done[number] = live  # what it refers to has been restored, or is about to be
            return live
        if live is not None:
            self.done[number] = live
            if kind == "array" and self.present.holds(live, self.manifest, _number(data), False):
                return live
            state = self.load(data, live, number not in self.parted)
            replaced = self.in_place(kind, live, state)
            if replaced is not live:
                self.done[number] = replaced
                self.replaced[id(live)] = live, replaced
            return replaced
        return self.anew(number, kind, path, data)

    def load(self, data: Any, live: Any = None, in_its_memory: bool = False) -> Any:
        if type(data) is tuple:
            number, grad, requires_grad, parameter = data
            is_there = in_its_memory and is_changeable(live)
            if is_there:
                is_there = self.present.holds(live, self.manifest, number, requires_grad)
            return {
                "data": None if is_there else self.raw(number),
                "in_its_memory": in_its_memory,
                "grad": None if grad is None else self.raw(grad),
                "requires_grad": requires_grad,
                "parameter": parameter,
            }
        return _Unpickler(io.BytesIO(data), self).load()

    def container(self, number: int, live: Any, data: bytes) -> Any:
        state: dict[str, Any]
        if live is None:
            live = _empty(data)
        self.done[number] = live
        state = self.load(data)
        if isinstance(live, collections.deque) and live.maxlen != state["maxlen"]:
            raise SnapshotError("a deque of another length")
        fill(live, state)
        if attributes := state.get("attributes"):
            attributes_in_place(live, attributes)
        return live

    def in_place(self, kind: str, live: Any, state: Any) -> Any:
        match kind:
            case "tensor":
                return tensor_in_place(live, state)
            case "array":
                if live.shape != state.shape or live.dtype != state.dtype:
                    return state
                if live.flags.writeable:
                    live[...] = state
                elif live.tobytes() != state.tobytes():
                    return state
            case "generator":
                set_generator(live, state)
            case "module":
                module_in_place(live, state)
            case "instance":
                instance_in_place(live, state["attributes"])
            case "optimizer":
                optimizer_in_place(live, state)
            case "file":
                name, position = state
                if live.name != name:
                    raise SnapshotError(f"{live.name} is open there, and not {name}")
                live.seek(position)
            case "stateful":
                live.load_state_dict(state)
            case "handle":
                pass  # it removes the hook that is there
            case "whole":
                return state
            case "loader":
                for place, values in state.items():
                    vars(getattr(live, place)).update(values)
            case "weakref":
                return weak_reference(live, state)
            case _:
                return object_in_place(live, state)
        return live

    def anew(self, number: int, kind: str, path: Path, data: Any) -> Any:
        if kind in ("stateful", "loader", "file", "handle"):
            raise SnapshotError(f"{spell(path)}: there is no such object to restore into")
        if kind in ("module", "instance", "optimizer"):
            return self.anew_instance(number, kind, data)
        state = self.load(data)
        match kind:
            case "tensor":
                made = tensor_anew(state)
            case "generator":
                made = generator_anew(self.anchors[number][2], state)
            case "weakref":
                made = weak_reference(None, state)
            case _:
                made = state
        self.done[number] = made
        return made

    def anew_instance(self, number: int, kind: str, data: bytes) -> Any:
        cls = _ClassOnly(io.BytesIO(data), self).cls()
        made = cls.__new__(cls)
        self.done[number] = made
        if kind == "module":
            sys.modules["torch"].nn.Module.__init__(made)
        state = self.load(data)
        if kind == "module":
            made._parameters.update(state["parameters"])
            made._buffers.update(state["buffers"])
            made._modules.update(state["modules"])
            vars(made).update(state["attributes"])
        elif kind == "instance":
            attributes_in_place(made, state["attributes"])
        else:
            default = collections.defaultdict(dict, state["state"])
            groups, defaults = state["groups"], state["defaults"]
            made.__setstate__({"state": default, "param_groups": groups, "defaults": defaults})
            vars(made).update(state.get("attributes", {}))
        return made

    def bind(self, path: Path, data: bytes) -> None:
        value = self.load(data)
        (kind, name), *steps = path
        if steps:
            owner = resolve(path[:-1], self.frame, self.checkpoint)
            if take(owner, path[-1]) is not value:
                setattr(owner, path[-1][1], value)
        elif kind == "var":
            assert self.frame is not None
            if name not in self.frame.f_locals or self.frame.f_locals[name] is not value:
                bind(self.frame, {name: value})
        elif kind == "global":
            module, _, variable = name.partition(":")
            setattr(sys.modules[module], variable, value)

    def raw(self, number: int) -> Any:
        return self.blocks.tensor(number)

    def storage(self, number: int, dtype: str | None) -> Any:
        """A storage of its own with the bytes of a tensor; typed where it was."""
        if number not in self.storages:
            self.storages[number] = self.raw(number).clone().untyped_storage()
        untyped = self.storages[number]
        if dtype is None:
            return untyped
        torch = sys.modules["torch"]
        typed = getattr(torch, dtype)
        return torch.storage.TypedStorage(wrap_storage=untyped, dtype=typed, _internal=True)


def _number(data: bytes) -> int:
    """The number of the array that a state consists of."""
    number: int = _NumberOnly(io.BytesIO(data)).load()
    return number


class _NumberOnly(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        return pid[1]


def _empty(data: bytes) -> Any:
    """A new container of the pickled kind, still empty, so that cycles can refer to it."""
    found = _ClassOnly(io.BytesIO(data), None)
    state = found.state()
    if state["class"] is collections.deque:
        return collections.deque(maxlen=state["maxlen"])
    return state["class"].__new__(state["class"])


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, work: _Restore) -> None:
        super().__init__(file)
        self._work = work

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("anchor", number):
                return self._work.anchor(number)
            case ("raw" | "array", number):
                return self._work.raw(number)
            case ("tensor", number, leaf, parameter):
                value = self._work.raw(number)
                if parameter:
                    return sys.modules["torch"].nn.Parameter(value, requires_grad=leaf)
                return value.requires_grad_(leaf)
            case ("storage", number, dtype):
                return self._work.storage(number, dtype)
            case ("code", module, name):
                return _code(module, name)
            case ("module", name):
                return importlib.import_module(name)
        raise SnapshotError(f"unknown reference {pid!r}: written by a newer flordb")


class _ClassOnly(_Unpickler):
    """Reads only the class of a state, so that the object exists before what refers to it."""

    def __init__(self, file: Any, work: Any) -> None:
        super().__init__(file, work)

    def persistent_load(self, pid: Any) -> Any:
        return _code(pid[1], pid[2]) if pid[0] == "code" else None

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.load()
        return state

    def cls(self) -> Any:
        return self.state()["class"]


def _code(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
