"""What loops may change without a snapshot's noticing: state that no name in the loop leads to.

A snapshot follows names: from the loop's variables to objects, from called functions of the project
to their globals and closures. Hooks and callbacks are called by libraries, and defaults, function
and class attributes belong to code, so what they change has to be found by how it is written.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from flordb.analysis.escapes import handed_methods, handed_objects
from flordb.analysis.program import Module, Program
from flordb.analysis.walk import Visit

Code = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_LATER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.GeneratorExp)

ONLY_LOOKS = frozenset(
    (
        *("print", "len", "range", "sum", "min", "max", "sorted", "any", "all", "abs", "round"),
        *("int", "float", "bool", "str", "list", "dict", "tuple", "set", "frozenset", "format"),
        *("isinstance", "issubclass", "hasattr", "getattr", "callable", "type", "id", "hash"),
        *("enumerate", "zip", "map", "filter", "iter", "reversed", "repr", "vars", "super"),
        *("divmod", "pow"),
    )
)
_READING = frozenset(
    (
        *("get", "keys", "values", "items", "copy", "index", "count", "join", "format", "split"),
        *("startswith", "endswith", "lower", "upper", "strip", "replace", "encode", "exists"),
    )
)
"""Methods of containers and texts that change nothing."""
_OF_FUNCTIONS = frozenset({".cache_info", ".__defaults__", ".__kwdefaults__", ".__closure__"})


@dataclass(frozen=True)
class Changer:
    """A function that changes a variable. ``loops``: the loops that it may run in; None where it
    may be called from anywhere."""

    name: str
    loops: frozenset[str] | None

    def runs_in(self, loop: str) -> bool:
        return self.loops is None or loop in self.loops


@dataclass(frozen=True)
class Hidden:
    """``variables``: names that functions change and that a snapshot must have by name to be right
    about; ``never``: names, attributes as ``.name``, that no snapshot holds, with the reason.
    """

    variables: dict[str, list[Changer]] = field(default_factory=dict)
    never: dict[str, str] = field(default_factory=dict)

    def lost(self, loop: str, needed: Iterable[str], kept: Iterable[str]) -> dict[str, str]:
        """Which of the needed names a snapshot of a loop may not give, with the reasons.

        Parameters: ``kept``, the paths of the variables that the snapshot keeps.
        """
        names = frozenset(needed)
        have = {name.partition(".")[0].partition("[")[0] for name in kept}
        closures = {name.partition(".__closure__")[0] for name in kept if ".__closure__" in name}
        found = {name: why for name, why in self.never.items() if name in names}
        for name, changers in self.variables.items():
            running = [c.name for c in changers if c.runs_in(loop)]
            if running and name in names and name not in have and not closures & set(running):
                found[name] = f"{running[0]} changes it, to which no name in the loop leads"
        return found


def hidden_changes(program: Program, visits: Iterable[Visit]) -> Hidden:
    """The hidden changes that a program's functions may make.

    Parameters: ``visits``, the program's walk, which says in which loops a function is called.
    """
    found = Hidden(never=dict.fromkeys(_OF_FUNCTIONS, "it is the state of a function"))
    where = _Where(program, visits)
    for module in program.modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                _in_code(program, module, node, where, found)
            elif isinstance(node, (ast.For, ast.While)):
                _attributes_of_code(program, module, node, None, found)
            elif isinstance(node, ast.Call):
                _handed_over(program, module, node, found)
    return found


class _Where:
    """In which loops functions run, as far as they are only called by their names."""

    def __init__(self, program: Program, visits: Iterable[Visit]) -> None:
        self.loops: dict[ast.AST, set[str]] = {}
        for visit in visits:
            if visit.function is not None:
                self.loops.setdefault(visit.function, set()).update(visit.nest)
        self.escaping: set[str] = set()
        self.dynamic = False
        for module in program.modules.values():
            self._mentions(module.tree)
        self.later: set[str] = set()
        self._follow([module.tree for module in program.modules.values()])

    def _mentions(self, tree: ast.AST) -> None:
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and id(node) not in called:
                self.escaping.add(node.id)
            elif isinstance(node, ast.Attribute) and id(node) not in called:
                self.escaping.add(node.attr)
            elif isinstance(node, ast.Call) and _by_computed_name(node):
                self.dynamic = True

    def _follow(self, trees: Sequence[ast.AST]) -> None:
        """Gather the functions that are called in code that runs whenever somebody likes: in
        hooks, callbacks, lambdas and generators, in what these call, and so on."""
        code = [n for tree in trees for n in ast.walk(tree) if isinstance(n, _LATER)]
        calls = {n: frozenset(_names_called(n)) for n in code}
        known = -1
        while known < len(self.later):
            known = len(self.later)
            for node, names in calls.items():
                if isinstance(node, ast.GeneratorExp) or self.of(node) is None:
                    self.later |= names

    def of(self, code: Code) -> frozenset[str] | None:
        if self.dynamic or isinstance(code, ast.Lambda) or code not in self.loops:
            return None
        if code.decorator_list or code.name in self.escaping or code.name in self.later:
            return None
        if any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in _within(code)):
            return None
        if code.name == "forward" or code.name.startswith("__"):
            return None
        return frozenset(self.loops[code])


def _names_called(code: ast.AST) -> Iterator[str]:
    """The names of functions and methods that are called in code, in functions inside it, too."""
    for node in ast.walk(code):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id
            elif isinstance(node.func, ast.Attribute):
                yield node.func.attr


def _by_computed_name(call: ast.Call) -> bool:
    """Whether it gets an attribute, perhaps a method, whose name is not in the text."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    return name == "getattr" and not isinstance(call.args[1], ast.Constant)


def _in_code(program: Program, module: Module, code: Code, where: _Where, found: Hidden) -> None:
    name = getattr(code, "name", "a lambda")
    changer = Changer(name, where.of(code))
    own = _locals(code)
    body = [code.body] if isinstance(code, ast.Lambda) else code.body
    changed = {n for part in body for n in _changed(module, part)}
    for variable in changed - own:
        if not _is_code(program, module, variable):
            found.variables.setdefault(variable, []).append(changer)
    for parameter, default in _defaults(code):
        if parameter in changed and not isinstance(default, (ast.Constant, ast.UnaryOp, ast.Tuple)):
            found.never.setdefault(parameter, f"it is a default of {name} that changes")
    _attributes_of_code(program, module, code, changer.loops, found)


def _locals(code: Code) -> set[str]:
    spec = code.args
    own = {a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)}
    own |= {a.arg for a in (spec.vararg, spec.kwarg) if a is not None}
    outer: set[str] = set()
    for node in _within(code):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            outer |= set(node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            own |= {a.asname or a.name.partition(".")[0] for a in node.names}
    return own - outer


def _within(code: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions inside it."""
    for child in ast.iter_child_nodes(code):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield from _within(child)


def _changed(module: Module, part: ast.AST) -> Iterator[str]:
    """Variables that a statement or expression may change: binds, stores into, calls, hands on."""
    for node in (part, *_within(part)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            yield node.id
        elif isinstance(node, (ast.Attribute, ast.Subscript)):
            if isinstance(node.ctx, (ast.Store, ast.Del)):
                yield from _root(node)
        elif isinstance(node, ast.Call) and module.flor_call(node) is None:
            if isinstance(node.func, ast.Name) and node.func.id in ONLY_LOOKS:
                continue
            yield from _root(node.func)
            for given in (*node.args, *(k.value for k in node.keywords)):
                if isinstance(given, ast.Name):
                    yield given.id


def _root(node: ast.expr) -> Iterator[str]:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def _is_code(program: Program, module: Module, name: str) -> bool:
    """Whether a name is an import, a function or a class, and not a variable."""
    followed: set[tuple[str, str]] = set()
    while name in module.imports and (module.path, name) not in followed:
        followed.add((module.path, name))
        path, name = module.imports[name]
        if name == "" or path not in program.modules:
            return True
        module = program.modules[path]
    known = name in module.foreign or name in module.functions or name in module.classes
    return known or hasattr(builtins, name) or name in module.flor_aliases


def _defaults(code: Code) -> Iterator[tuple[str, ast.expr]]:
    spec = code.args
    positional = [*spec.posonlyargs, *spec.args]
    for argument, default in zip(positional[::-1], spec.defaults[::-1], strict=False):
        yield argument.arg, default
    for argument, value in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
        if value is not None:
            yield argument.arg, value


def _attributes_of_code(
    program: Program,
    module: Module,
    part: ast.AST,
    loops: frozenset[str] | None,
    found: Hidden,
) -> None:
    """Attributes of functions, classes and modules that are stored while the program runs, and
    those whose objects may be changed in ``loops``."""
    making = getattr(part, "name", "") == "__init__"
    for node in _within(part):
        match node:
            case ast.Attribute(value=owner, ctx=ast.Store() | ast.Del()):
                if _of_code(program, module, owner):
                    _note_attribute(node, found)
        if loops is None or loops:
            for changed in _changed_attributes(module, node, making):
                if _is_of_class(program, module, changed):
                    _note_attribute(changed, found)


def _note_attribute(node: ast.Attribute, found: Hidden) -> None:
    why = f"it is an attribute of {ast.unparse(node.value)}, which is code"
    found.never.setdefault(f".{node.attr}", why)


def _changed_attributes(module: Module, node: ast.AST, making: bool) -> Iterator[ast.Attribute]:
    """The attributes whose objects a node stores into, calls a method of, or hands on.

    Parameters: ``making``, whether an object is made there: what a class says of sizes and the like
    is then handed on to be read.
    """
    match node:
        case ast.Subscript(ctx=ast.Store() | ast.Del()):
            yield from _attributes_on(node.value)
        case ast.Call(func=function) if module.flor_call(node) is None:
            if isinstance(function, ast.Attribute) and function.attr not in _READING:
                yield from _attributes_on(function.value)
            if not making and not (isinstance(function, ast.Name) and function.id in ONLY_LOOKS):
                for given in (*node.args, *(keyword.value for keyword in node.keywords)):
                    if isinstance(given, ast.Attribute):
                        yield given


def _attributes_on(node: ast.expr) -> Iterator[ast.Attribute]:
    """The attributes on the way to an object."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if isinstance(node, ast.Attribute):
            yield node
        node = node.value


def _is_of_class(program: Program, module: Module, node: ast.Attribute) -> bool:
    """Whether an attribute is one of a class or a function, which no instance has as its own."""
    values = [value for m in program.modules.values() for value in m.class_values(node.attr)]
    if any(node.attr in m.stored_attributes for m in program.modules.values()):
        return False  # an instance's own; or stored in code, which is seen where it happens
    if values:
        return not all(_is_constant(value) for value in values)
    owner = node.value
    return isinstance(owner, ast.Name) and owner.id in module.functions


def _is_constant(value: ast.expr) -> bool:
    """Whether nothing can change the object that an expression gives."""
    if isinstance(value, ast.Tuple):
        return all(map(_is_constant, value.elts))
    if isinstance(value, ast.UnaryOp):
        return _is_constant(value.operand)
    if isinstance(value, ast.BinOp):
        return _is_constant(value.left) and _is_constant(value.right)
    return isinstance(value, (ast.Constant, ast.JoinedStr, ast.Compare, ast.Lambda))


def _of_code(program: Program, module: Module, owner: ast.expr) -> bool:
    match owner:
        case ast.Name(id="cls"):
            return True
        case ast.Name():
            return _is_code(program, module, owner.id) or owner.id in module.imports
        case ast.Attribute():
            return owner.attr == "__class__" or _of_code(program, module, owner.value)
        case ast.Call(func=ast.Name(id="type")):
            return True
    return False


def _handed_over(program: Program, module: Module, call: ast.Call, found: Hidden) -> None:
    """What is given to a library, which may call its methods at any time."""
    for name, method in handed_methods(program, module, call):
        if name != "self" and not _is_code(program, module, name):
            found.variables.setdefault(name, []).append(Changer(method, None))
    for variable, cls in handed_objects(program, module, call):
        if variable is not None:
            found.variables.setdefault(variable, []).append(Changer(cls.name, None))
            continue
        for holder in _root(call.func):
            if not isinstance(call.func, ast.Attribute) or _is_code(program, module, holder):
                continue  # what is made of it, if anything, is looked into
            found.variables.setdefault(holder, []).append(Changer(cls.name, None))
            break
