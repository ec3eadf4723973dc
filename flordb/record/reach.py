"""What a loop can change: the objects that its code can reach by name.

Table 4.2 of the dissertation estimates a loop's changes from six patterns of statements. Here every
name that the body (or a function of the project that it may call) loads or stores counts: an
object that did not change costs a hash and no storage, and one that was overlooked costs
correctness. Values that cannot change (numbers, strings, functions, modules) drop out later.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, Protocol

from flordb.record.frames import Uses, uses_of_code, variables_of

Step = tuple[str, Any]
Path = tuple[Step, ...]
"""How to get at an object: first ``("checkpoint" | "var" | "outer" | "global", name)``, then
``("a", name)`` for attributes and ``("i", key)`` for items. ``outer``: a variable of a function
that has called the loop's."""

_MOST_FUNCTIONS = 2_000
_MOST_HELD = 1_000
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_CONTAINERS = frozenset((dict, OrderedDict, list, tuple))
_HOLDERS = (list, tuple, dict, partial, FunctionType, MethodType, ModuleType, type)
_MOST_CLASSES = 10_000
_IS_MADE_BY_CLASS = 1 << 9  # Py_TPFLAGS_HEAPTYPE


@dataclass
class Reach:
    """``roots``: objects by path. ``bound``: the paths that the code may bind anew. ``scopes``: all
    variables of the functions under way and of their modules, whether the loop names them or not.
    """

    roots: dict[Path, Any] = field(default_factory=dict)
    bound: dict[Path, None] = field(default_factory=dict)
    scopes: list[Scope] = field(default_factory=list)


class Scope(NamedTuple):
    """The variables of a function or a module, and the paths to them: their names behind ``prefix``
    in a step of this ``kind``."""

    kind: str
    prefix: str
    variables: Mapping[str, Any]


Classes = list[tuple[type, Path]]
"""Classes of the project's that objects below one have, and the paths from there to the objects."""


Bases = tuple[type, ...]


class Below(Protocol):
    """What is known from the last snapshot: of a torch module or an optimizer, and of classes.

    ``foreign``: classes of which no function is the project's, with their bases, as long as these
    are the same; ``bare``: those of them whose objects lead to no other by name.
    """

    foreign: dict[type, Bases]
    bare: set[type]

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
    names, stores = uses.names, uses.stores
    if not names.keys().isdisjoint(_BY_COMPUTED_NAMES):
        computed = _variables(module)
        names, stores = dict.fromkeys(sorted(names.keys() | computed)), stores | computed
    own = variables_of(frame.f_code) if local is not module else frozenset()
    for name in names:
        if name in own or local is module:
            holder = local
            path: Path = (("var", name),)
        else:
            holder, path = module, _global(module, name)
        if name not in holder:
            continue
        found.roots[path] = holder[name]
        if name in stores:
            found.bound[path] = None
        walker.follow(holder[name], path, uses.attributes)
    found.scopes = _scopes(frame, is_project)
    return found


def _scopes(frame: FrameType, is_project: Callable[[str], bool]) -> list[Scope]:
    """The project's functions under way, the innermost first, and their modules."""
    found: list[Scope] = []
    kind = "var"
    place: FrameType | None = frame
    while place is not None:
        if is_project(place.f_code.co_filename):
            own, module = place.f_locals, place.f_globals
            found.append(Scope(kind, "", own))
            if own is not module:
                found.append(Scope("global", f"{module.get('__name__', '__main__')}:", module))
        kind, place = "outer", place.f_back
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
        self._foreign = below.foreign if below is not None else {}
        self._bare = below.bare if below is not None else set()
        self._model: _Model | None = None
        torch = sys.modules.get("torch")
        self._models = (torch.nn.Module, torch.optim.Optimizer) if torch is not None else ()

    def follow(self, value: Any, path: Path, attributes: frozenset[str]) -> None:
        if type(value) in self._bare:
            return
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
        if isinstance(value, (MethodType, FunctionType, ModuleType)):
            if self._model is not None and self._leads_elsewhere(value, self._model):
                self._model.has_functions = True
            self._code(value, path, attributes)
            return
        kind = value if isinstance(value, type) else type(value)
        if not self._is_foreign(kind):
            self._follow_class(kind, path, attributes)
        bare = self._bare
        for step, child in _held(value):
            of = type(child)
            if of in bare or (of in _CONTAINERS and not child) or isinstance(child, _PLAIN):
                continue
            self.follow(child, (*path, step), attributes)

    def _code(self, value: Any, path: Path, attributes: frozenset[str]) -> None:
        if isinstance(value, MethodType):
            self.follow(value.__func__, (*path, ("a", "__func__")), attributes)
            self.found.roots.setdefault((*path, ("a", "__self__")), value.__self__)
        elif isinstance(value, FunctionType):
            if self.is_project(value.__code__.co_filename):
                self._function(value, path)
        elif self.is_project(getattr(value, "__file__", None) or ""):
            for name in sorted(attributes & vars(value).keys()):
                self._use(vars(value), name, attributes)

    def _leads_elsewhere(self, value: Any, model: _Model) -> bool:
        """Whether code below a model may use what is not."""
        if isinstance(value, MethodType):
            return id(value.__self__) not in model.seen
        if isinstance(value, FunctionType):
            return self.is_project(value.__code__.co_filename)
        return self.is_project(getattr(value, "__file__", None) or "")

    def _is_foreign(self, kind: type) -> bool:
        """Whether no class that a class is made of is the project's."""
        bases = kind.__mro__
        if self._foreign.get(kind) is bases:
            return True
        for owner in bases:
            module = sys.modules.get(owner.__module__)
            if module is None or self.is_project(getattr(module, "__file__", None) or ""):
                return False
        if len(self._foreign) > _MOST_CLASSES:
            self._foreign.clear()
        self._foreign[kind] = bases
        if _is_bare(kind):
            self._bare.add(kind)
        return True

    def _methods(self, kind: type) -> Iterator[FunctionType]:
        for owner in kind.__mro__:
            if self._foreign.get(owner) is owner.__mro__:
                continue
            module = sys.modules.get(owner.__module__)
            if module is None or not self.is_project(getattr(module, "__file__", None) or ""):
                continue
            for member in vars(owner).values():
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if isinstance(function, FunctionType):
                    yield function

    def _function(self, function: FunctionType, path: Path) -> None:
        code, space = function.__code__, function.__globals__
        uses = uses_of_code(code)
        for name, is_stored in _globals_of(code):
            if name not in space:
                continue
            self._use(space, name, uses.attributes)
            if is_stored:
                self.found.bound[_global(space, name)] = None
        for number, cell in enumerate(function.__closure__ or ()):
            try:
                content = cell.cell_contents
            except ValueError:
                continue  # not bound yet
            inner = (*path, ("a", "__closure__"), ("i", number), ("a", "cell_contents"))
            self.found.roots.setdefault(inner, content)
            if code.co_freevars[number] in uses.stores:
                self.found.bound[inner] = None
            self.follow(content, inner, uses.attributes)

    def _use(self, holder: Mapping[str, Any], name: str, attributes: frozenset[str]) -> None:
        path = _global(holder, name)
        self.found.roots.setdefault(path, holder[name])
        self.follow(holder[name], path, attributes)


def _is_bare(kind: type) -> bool:
    """Whether objects of a library's class hold nothing that `_held` knows: nobody can add to a
    class that is written in C."""
    is_fixed = not kind.__flags__ & _IS_MADE_BY_CLASS
    return is_fixed and not kind.__dictoffset__ and not issubclass(kind, _HOLDERS)


def _held(value: Any) -> Iterator[tuple[Step, Any]]:
    """What a container, a partial or an object of attributes holds, perhaps functions."""
    if isinstance(value, (list, tuple, dict)):
        if len(value) <= _MOST_HELD:
            for key, child in value.items() if isinstance(value, dict) else enumerate(value):
                yield ("i", key), child
    elif isinstance(value, partial):
        yield ("a", "func"), value.func
        yield ("a", "args"), value.args
        yield ("a", "keywords"), value.keywords
    elif not isinstance(value, type):
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict) and len(attributes) <= _MOST_HELD:
            for name, child in tuple(attributes.items()):
                yield ("a", name), child


@lru_cache(maxsize=1024)
def _globals_of(code: CodeType) -> tuple[tuple[str, bool], ...]:
    """The names that a function uses and that are not its own variables, and whether it (and no
    function that it defines) stores them."""
    uses = uses_of_code(code)
    names = [name for name in uses.names if name not in code.co_varnames]
    return tuple((n, n in uses.stores and _stores_global(code, n)) for n in names)


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
