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
from functools import partial
from types import CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

from flordb.record.frames import Uses, is_local, uses_of_code

Step = tuple[str, Any]
Path = tuple[Step, ...]
"""How to get at an object: first ``("checkpoint" | "var" | "outer" | "global", name)``, then
``("a", name)`` for attributes and ``("i", key)`` for items. ``outer``: a variable of a function
that has called the loop's."""

_MOST_FUNCTIONS = 2_000
_MOST_HELD = 1_000
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


@dataclass
class Reach:
    """``roots``: objects by path. ``bound``: the paths that the code may bind anew. ``named``: all
    variables of the functions under way and of their modules, whether the loop names them or not.
    """

    roots: dict[Path, Any] = field(default_factory=dict)
    bound: set[Path] = field(default_factory=set)
    named: dict[Path, Any] = field(default_factory=dict)


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
    names, stores = uses.loads | uses.stores, uses.stores
    if names & _BY_COMPUTED_NAMES:
        names, stores = names | _variables(module), stores | _variables(module)
    for name in sorted(names):
        if is_local(frame, name) or local is module:
            holder = local
            path: Path = (("var", name),)
        else:
            holder, path = module, _global(module, name)
        if name not in holder:
            continue
        found.roots[path] = holder[name]
        if name in stores:
            found.bound.add(path)
        walker.follow(holder[name], path, uses.attributes)
    found.named = _named(frame, is_project)
    return found


def _named(frame: FrameType, is_project: Callable[[str], bool]) -> dict[Path, Any]:
    """The variables of the project's functions under way, and of their modules."""
    found: dict[Path, Any] = {}
    kind, place = "var", frame
    known: set[str] = set()
    while place is not None:
        if is_project(place.f_code.co_filename):
            own = {n: v for n, v in place.f_locals.items() if n not in known}
            found |= {((kind, n),): v for n, v in own.items()}
            known |= own.keys()
            if place.f_locals is not place.f_globals:
                found |= {_global(place.f_globals, n): v for n, v in place.f_globals.items()}
        kind, place = "outer", place.f_back  # type: ignore[assignment]
    return found


_BY_COMPUTED_NAMES = frozenset(("globals", "exec", "eval", "vars", "locals"))


def _variables(module: Mapping[str, Any]) -> set[str]:
    """The names in a module that are no code and none of Python's own."""
    code = (ModuleType, FunctionType, type)
    return {n for n, v in module.items() if not n.startswith("__") and not isinstance(v, code)}


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
            for step, child in _held(value):
                if not isinstance(child, _PLAIN):
                    self.follow(child, (*path, *step), attributes)

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


def _held(value: Any) -> Iterator[tuple[Path, Any]]:
    """What a container, a partial or an object of attributes holds, perhaps functions."""
    if isinstance(value, (list, tuple, dict)):
        if len(value) <= _MOST_HELD:
            for key, child in value.items() if isinstance(value, dict) else enumerate(value):
                yield (("i", key),), child
    elif isinstance(value, partial):
        yield (("a", "func"),), value.func
        yield (("a", "args"),), value.args
        yield (("a", "keywords"),), value.keywords
    elif not isinstance(value, type):
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict) and len(attributes) <= _MOST_HELD:
            for name, child in tuple(attributes.items()):
                yield (("a", name),), child


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
    elif kind == "outer":
        value = _outer(frame, name)
    else:
        module, _, variable = name.partition(":")
        value = vars(sys.modules[module])[variable]
    for step in steps:
        value = take(value, step)
    return value


def _outer(frame: FrameType | None, name: str) -> Any:
    place = frame.f_back if frame is not None else None
    while place is not None:
        if name in place.f_locals:
            return place.f_locals[name]
        place = place.f_back
    raise LookupError(name)


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
