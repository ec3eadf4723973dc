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
from typing import Any, Protocol

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


Classes = list[tuple[type, Path]]
"""Classes of the project's that objects below one have, and the paths from there to the objects."""


class Below(Protocol):
    """What is known of a torch module or an optimizer from the last snapshot."""

    def known(self, value: Any) -> Classes | None:
        """The classes below an object, where nothing is below it but what was, and no function of
        the project's."""

    def learn(self, value: Any, classes: Classes) -> None:
        """No function of the project's is below this object, but these classes are."""


def reach(
    frame: FrameType,
    uses: Uses,
    checkpoint: Mapping[str, Any],
    is_project: Callable[[str], bool],
    below: Below | None = None,
) -> Reach:
    """The objects that a loop in ``frame`` can change.

    Parameters: ``uses``, the names in the loop; ``checkpoint``, the objects given to
    ``flor.checkpointing``; ``is_project``, whether a source file is the project's; ``below``, what
    is known of models.
    """
    found = Reach()
    for name, value in checkpoint.items():
        found.roots[(("checkpoint", name),)] = value
    walker = _Functions(found, is_project, below)
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


@dataclass
class _Model:
    """What is met below a module or an optimizer, which has a path of ``depth`` steps."""

    seen: set[int]
    depth: int
    classes: Classes = field(default_factory=list)
    has_functions: bool = False


class _Functions:
    """Follows functions of the project to the globals and closures that they use."""

    def __init__(
        self, found: Reach, is_project: Callable[[str], bool], below: Below | None
    ) -> None:
        self.found = found
        self.is_project = is_project
        self.seen: set[int] = set()
        self._below = below
        self._model: _Model | None = None
        torch = sys.modules.get("torch")
        self._models = (torch.nn.Module, torch.optim.Optimizer) if torch is not None else ()

    def follow(self, value: Any, path: Path, attributes: frozenset[str]) -> None:
        seen = self.seen if self._model is None else self._model.seen
        if id(value) in seen or len(self.seen) > _MOST_FUNCTIONS:
            return
        seen.add(id(value))
        if self._below is not None and self._model is None and isinstance(value, self._models):
            self._follow_model(value, path, attributes)
        else:
            self._follow(value, path, attributes)

    def _follow_model(self, value: Any, path: Path, attributes: frozenset[str]) -> None:
        """Follow a module or an optimizer: all below it, or only what is known to matter."""
        assert self._below is not None
        known = self._below.known(value)
        if known is not None:
            for kind, steps in known:
                self._follow_class(kind, (*path, *steps), attributes)
            return
        model = self._model = _Model({id(value)}, len(path))
        self._follow(value, path, attributes)
        self._model = None
        if not model.has_functions:
            self._below.learn(value, model.classes)

    def _follow_class(self, kind: type, path: Path, attributes: frozenset[str]) -> None:
        model, self._model = self._model, None
        functions = list(self._methods(kind))
        for function in functions:
            self.follow(function, path, attributes)
        self._model = model
        if model is not None and functions and all(kind is not known for known, _ in model.classes):
            # Of a class's next object they are the same functions, which were followed.
            model.classes.append((kind, path[model.depth :]))

    def _follow(self, value: Any, path: Path, attributes: frozenset[str]) -> None:
        if self._model is not None and self._leads_elsewhere(value, self._model):
            self._model.has_functions = True
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
            self._follow_class(kind, path, attributes)
            for step, child in _held(value):
                if not isinstance(child, _PLAIN):
                    self.follow(child, (*path, *step), attributes)

    def _leads_elsewhere(self, value: Any, model: _Model) -> bool:
        """Whether a value below a model is code that may use what is not."""
        if isinstance(value, MethodType):
            return id(value.__self__) not in model.seen
        if isinstance(value, FunctionType):
            return self.is_project(value.__code__.co_filename)
        return isinstance(value, ModuleType) and self.is_project(
            getattr(value, "__file__", None) or ""
        )

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
