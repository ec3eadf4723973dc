"""What a loop can change: the objects that its code can reach by name.

Table 4.2 of the dissertation estimates a loop's changes from six patterns of statements. Here every
name that the body (or a function of the project that it may call) loads or stores counts: an
object that did not change costs a hash and no storage, and one that was overlooked costs
correctness. Values that cannot change (numbers, strings, functions, modules) drop out later.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

from flordb.record.frames import Uses, is_local, uses_of_code

Step = tuple[str, Any]
Path = tuple[Step, ...]
"""How to get at an object: first ``("checkpoint" | "var" | "global", name)``, then ``("a", name)``
for attributes and ``("i", key)`` for items."""

_MOST_FUNCTIONS = 2_000


@dataclass
class Reach:
    """``roots``: objects by path. ``bound``: the paths that the code may bind anew."""

    roots: dict[Path, Any] = field(default_factory=dict)
    bound: set[Path] = field(default_factory=set)


def reach(
    frame: FrameType,
    uses: Uses,
    checkpoint: Mapping[str, Any],
    is_project: Callable[[str], bool],
) -> Reach:
    """The objects that a loop in ``frame`` can change.

    Parameters: ``uses``, the names in the loop; ``checkpoint``, the objects given to
    ``flor.checkpointing``; ``is_project``, whether a source file is the project's.
    """
    found = Reach()
    for name, value in checkpoint.items():
        found.roots[(("checkpoint", name),)] = value
    walker = _Functions(found, is_project)
    local, module = frame.f_locals, frame.f_globals
    for name in sorted(uses.loads | uses.stores):
        if is_local(frame, name) or local is module:
            holder = local
            path: Path = (("var", name),)
        else:
            holder, path = module, _global(module, name)
        if name not in holder:
            continue
        found.roots[path] = holder[name]
        if name in uses.stores:
            found.bound.add(path)
        walker.follow(holder[name], path, uses.attributes)
    return found


def _global(module: Mapping[str, Any], name: str) -> Path:
    return (("global", f"{module.get('__name__', '__main__')}:{name}"),)


class _Functions:
    """Follows functions of the project to the globals and closures that they use."""

    def __init__(self, found: Reach, is_project: Callable[[str], bool]) -> None:
        self.found = found
        self.is_project = is_project
        self.seen: set[int] = set()

    def follow(self, value: Any, path: Path, attributes: frozenset[str]) -> None:
        if id(value) in self.seen or len(self.seen) > _MOST_FUNCTIONS:
            return
        self.seen.add(id(value))
        if isinstance(value, MethodType):
            self.follow(value.__func__, (*path, ("a", "__func__")), attributes)
            self.found.roots.setdefault((*path, ("a", "__self__")), value.__self__)
        elif isinstance(value, FunctionType):
            if self.is_project(value.__code__.co_filename):
                self._function(value, path)
        elif isinstance(value, ModuleType):
            if self.is_project(getattr(value, "__file__", None) or ""):
                for name in sorted(attributes & vars(value).keys()):
                    self._use(vars(value), name, attributes)
        else:
            kind = value if isinstance(value, type) else type(value)
            for function in self._methods(kind):
                self.follow(function, path, attributes)

    def _methods(self, kind: type) -> Iterator[FunctionType]:
        for owner in kind.__mro__:
            module = sys.modules.get(owner.__module__)
            if module is None or not self.is_project(getattr(module, "__file__", None) or ""):
                continue
            for member in vars(owner).values():
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if isinstance(function, FunctionType):
                    yield function

    def _function(self, function: FunctionType, path: Path) -> None:
        code = function.__code__
        uses = uses_of_code(code)
        for name in sorted((uses.loads | uses.stores) & function.__globals__.keys()):
            if name in code.co_varnames:
                continue
            self._use(function.__globals__, name, uses.attributes)
            if name in uses.stores and _stores_global(code, name):
                self.found.bound.add(_global(function.__globals__, name))
        for number, cell in enumerate(function.__closure__ or ()):
            try:
                content = cell.cell_contents
            except ValueError:
                continue  # not bound yet
            inner = (*path, ("a", "__closure__"), ("i", number), ("a", "cell_contents"))
            self.found.roots.setdefault(inner, content)
            if code.co_freevars[number] in uses.stores:
                self.found.bound.add(inner)
            self.follow(content, inner, uses.attributes)

    def _use(self, holder: Mapping[str, Any], name: str, attributes: frozenset[str]) -> None:
        path = _global(holder, name)
        self.found.roots.setdefault(path, holder[name])
        self.follow(holder[name], path, attributes)


def _stores_global(code: CodeType, name: str) -> bool:
    return name in code.co_names and name not in code.co_varnames


def resolve(path: Path, frame: FrameType | None, checkpoint: Mapping[str, Any]) -> Any:
    """The object at a path now. Raises LookupError where there is none."""
    (kind, name), *steps = path
    if kind == "checkpoint":
        value = checkpoint[name]
    elif kind == "var":
        if frame is None:
            raise LookupError(name)
        value = frame.f_locals[name]
    else:
        module, _, variable = name.partition(":")
        value = vars(sys.modules[module])[variable]
    for step in steps:
        value = take(value, step)
    return value


def take(value: Any, step: Step) -> Any:
    """One step of a path. Raises LookupError where it leads nowhere."""
    kind, key = step
    if kind == "a":
        try:
            return getattr(value, key)
        except AttributeError as error:
            raise LookupError(key) from error
    try:
        return value[key]
    except (TypeError, KeyError, IndexError) as error:
        raise LookupError(key) from error


def spell(path: Path) -> str:
    """A path as a user reads it: ``self.model.layers[2]``."""
    (_, root), *steps = path
    text = str(root).rpartition(":")[2]
    for kind, key in steps:
        text += f".{key}" if kind == "a" else f"[{key!r}]"
    return text
