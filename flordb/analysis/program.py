"""The modules of a program and what they call: which files a script imports, which functions a
call may reach, and which calls are flor's. Static, by names; where Python is dynamic it takes in
more than will run, never less, as far as names go.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

Function = ast.FunctionDef | ast.AsyncFunctionDef
FLOR_MODULES = ("flor", "flordb")


@dataclass
class Module:
    """One parsed file. ``path`` is relative to the project's root, with slashes."""

    path: str
    text: str
    tree: ast.Module
    flor_aliases: dict[str, str] = field(default_factory=dict)
    """Local name to flor's name: '' for the module itself, 'log' for ``from flor import log``."""
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Local name to (path of a project module, name in it; '' for the module itself)."""

    foreign: set[str] = field(default_factory=set)
    """Local names that are imported from elsewhere than the project."""

    def may_be_instance(self, name: str) -> bool:
        """Whether a called name may be a variable that holds an instance of the project's."""
        known = name in self.imports or name in self.classes or name in self.foreign
        return not known and not hasattr(builtins, name)

    @cached_property
    def stored_attributes(self) -> frozenset[str]:
        """The attributes that the module assigns, of whatever object."""
        return frozenset(
            n.attr
            for n in ast.walk(self.tree)
            if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
        )

    @cached_property
    def mentioned_attributes(self) -> frozenset[str]:
        """The attributes that are read without being called."""
        return frozenset(n.attr for n in self._mentioned if isinstance(n, ast.Attribute))

    @cached_property
    def mentioned_names(self) -> frozenset[str]:
        """The variables that are read without being called, but for questions about their type."""
        asked = {
            id(argument)
            for call in self._calls
            if isinstance(call.func, ast.Name) and call.func.id in _ASKING
            for argument in call.args
        }
        named = (n for n in self._mentioned if isinstance(n, ast.Name) and id(n) not in asked)
        return frozenset(n.id for n in named)

    @cached_property
    def _mentioned(self) -> list[ast.Name | ast.Attribute]:
        called = {id(call.func) for call in self._calls}
        return [
            n
            for n in ast.walk(self.tree)
            if isinstance(n, (ast.Name, ast.Attribute))
            and isinstance(n.ctx, ast.Load)
            and id(n) not in called
        ]

    @cached_property
    def _calls(self) -> list[ast.Call]:
        return [n for n in ast.walk(self.tree) if isinstance(n, ast.Call)]

    @cached_property
    def registered(self) -> dict[str, list[Function]]:
        """Functions by the variables whose methods decorate them: `app` of ``@app.command()``."""
        found: dict[str, list[Function]] = {}
        for function in (each for same in self.functions.values() for each in same):
            for decorator in function.decorator_list:
                name = root_name(decorator)
                if not isinstance(decorator, ast.Name) and name and name not in self.foreign:
                    found.setdefault(name, []).append(function)
        return found

    @cached_property
    def made_of(self) -> dict[str, set[str]]:
        """The names of what is called to make a variable's value: classes, maybe."""
        found: dict[str, set[str]] = {}
        for node in ast.walk(self.tree):
            match node:
                case ast.Assign(targets=targets, value=ast.Call(func=function)):
                    pass
                case ast.AnnAssign(target=target, value=ast.Call(func=function)):
                    targets = [target]
                case _:
                    continue
            called = getattr(function, "id", getattr(function, "attr", ""))
            for name in (t.id for t in targets if isinstance(t, ast.Name)):
                found.setdefault(name, set()).add(called)
        return found

    @cached_property
    def functions(self) -> dict[str, list[Function]]:
        """All functions and methods by name, wherever they are defined."""
        found: dict[str, list[Function]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found.setdefault(node.name, []).append(node)
        return found

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        return {n.name: n for n in ast.walk(self.tree) if isinstance(n, ast.ClassDef)}

    def class_values(self, name: str) -> list[ast.expr]:
        """What the bodies of classes assign to a name that all instances share."""
        return self._class_values.get(name, [])

    @cached_property
    def _class_values(self) -> dict[str, list[ast.expr]]:
        found: dict[str, list[ast.expr]] = {}
        for node in (n for owner in self.classes.values() for n in owner.body):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign) and not _is_field(node.value):
                targets = [node.target]
            for target in targets:
                value = getattr(node, "value", None)
                if isinstance(target, ast.Name) and value is not None:
                    found.setdefault(target.id, []).append(value)
        return found

    @cached_property
    def methods(self) -> dict[str, list[Function]]:
        """The functions that stand directly in a class, by name."""
        found: dict[str, list[Function]] = {}
        for owner in self.classes.values():
            for node in owner.body:
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    found.setdefault(node.name, []).append(node)
        return found

    def flor_call(self, node: ast.AST) -> str | None:
        """'log', 'loop', … where ``node`` is a call of flor's function of that name."""
        if not isinstance(node, ast.Call):
            return None
        function = node.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            if self.flor_aliases.get(function.value.id) == "":
                return function.attr
        elif isinstance(function, ast.Name):
            return self.flor_aliases.get(function.id) or None
        return None


_ASKING = frozenset(("isinstance", "issubclass", "super", "type", "hasattr", "getattr"))


def root_name(node: ast.expr) -> str | None:
    """The variable with which an expression of attributes, calls and items begins."""
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_field(value: ast.expr | None) -> bool:
    """Whether it says how a dataclass makes an instance's own value."""
    call = value.func if isinstance(value, ast.Call) else None
    return getattr(call, "id", getattr(call, "attr", "")) in ("field", "Field")


class Program:
    """The modules that a script runs: itself and what it imports from the project.

    Parameters: ``sources``, path to text of the project's Python files; ``script``, the path of
    the script. Files that do not parse are listed in ``broken`` (path to message) and left out.
    """

    def __init__(self, sources: Mapping[str, str], script: str) -> None:
        self.script = script
        self.modules: dict[str, Module] = {}
        self.broken: dict[str, str] = {}
        self._sources = sources
        self._load(script)

    def _load(self, path: str) -> None:
        if path in self.modules or path in self.broken or path not in self._sources:
            return
        text = self._sources[path]
        try:
            tree = ast.parse(text, path)
        except (SyntaxError, ValueError, RecursionError) as error:
            self.broken[path] = f"{path}: {error}"
            return
        module = self.modules[path] = Module(path, text, tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                self._import(module, node)
            elif isinstance(node, ast.ImportFrom):
                self._import_from(module, node)

    def _import(self, module: Module, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name in FLOR_MODULES:
                module.flor_aliases[alias.asname or alias.name] = ""
                continue
            path = self._find(module, alias.name, level=0)
            if path is not None:
                module.imports[alias.asname or alias.name] = (path, "")
                self._load(path)
            else:
                module.foreign.add(alias.asname or alias.name.partition(".")[0])

    def _import_from(self, module: Module, node: ast.ImportFrom) -> None:
        if node.module in FLOR_MODULES and not node.level:
            module.flor_aliases |= {a.asname or a.name: a.name for a in node.names}
            return
        base = node.module or ""
        path = self._find(module, base, node.level)
        if path is not None:
            self._load(path)
        for alias in node.names:
            inner = self._find(module, f"{base}.{alias.name}" if base else alias.name, node.level)
            if inner is not None:
                self._load(inner)
                module.imports[alias.asname or alias.name] = (inner, "")
            elif path is not None:
                module.imports[alias.asname or alias.name] = (path, alias.name)
            else:
                module.foreign.add(alias.asname or alias.name)

    def _find(self, module: Module, dotted: str, level: int) -> str | None:
        """The path of a project module by its name, or None where it is none of the project's."""
        if level:
            folder = PurePosixPath(module.path).parent
            for _ in range(level - 1):
                folder = folder.parent
            bases = [folder]
        else:
            # sys.path begins with the script's folder; packages often stand in the root or src/.
            bases = [PurePosixPath(self.script).parent, PurePosixPath(), PurePosixPath("src")]
        for base in bases:
            place = base.joinpath(*dotted.split(".")) if dotted else base
            for candidate in (f"{place}.py", str(place / "__init__.py")):
                if candidate in self._sources:
                    return candidate
        return None

    def called(self, module: Module, call: ast.Call) -> Iterator[tuple[Module, Function]]:
        """The project's functions that a call may run, and functions that it is handed."""
        yield from self._named(module, call.func)
        yield from self._registered(module, call.func)
        for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
            if isinstance(argument, ast.Name):
                yield from self._function(module, argument.id)

    def _registered(self, module: Module, function: ast.expr) -> Iterator[tuple[Module, Function]]:
        """What a variable may run with whose methods functions are decorated."""
        name = root_name(function)
        if name is not None and name not in module.foreign:
            for other in self.modules.values():
                for registered in other.registered.get(name, ()):
                    yield other, registered

    def _named(self, module: Module, function: ast.expr) -> Iterator[tuple[Module, Function]]:
        if isinstance(function, ast.Name):
            known = list(self._function(module, function.id))
            yield from known
            if not known and module.may_be_instance(function.id):
                yield from self._instances()
        elif isinstance(function, ast.Attribute):
            if isinstance(function.value, ast.Name):
                path, name = module.imports.get(function.value.id, ("", "-"))
                if name == "" and path in self.modules:
                    yield from self._function(self.modules[path], function.attr)
                    return
            methods = list(self._methods(function.attr))
            yield from methods
            stored = any(function.attr in m.stored_attributes for m in self.modules.values())
            if not methods and stored:
                yield from self._instances()

    def _instances(self) -> Iterator[tuple[Module, Function]]:
        """What a call of a variable or an attribute may run: an instance such as a torch module."""
        yield from self._methods("forward")
        yield from self._methods("__call__")

    def _function(
        self, module: Module, name: str, seen: frozenset[tuple[str, str]] = frozenset()
    ) -> Iterator[tuple[Module, Function]]:
        if (module.path, name) in seen:
            return
        methods = module.methods.get(name, [])
        for function in module.functions.get(name, []):
            if function not in methods:
                yield module, function
        if name in module.classes:
            for node in module.classes[name].body:
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    yield module, node
        if name in module.imports:
            path, inner = module.imports[name]
            if inner and path in self.modules:
                yield from self._function(self.modules[path], inner, seen | {(module.path, name)})

    def _methods(self, name: str) -> Iterator[tuple[Module, Function]]:
        for module in self.modules.values():
            for function in module.methods.get(name, []):
                yield module, function


def argument(call: ast.Call, position: int, keyword: str) -> ast.expr | None:
    """What is given as an argument, by its position or keyword."""
    found: ast.expr | None = call.args[position] if len(call.args) > position else None
    for given in call.keywords:
        if given.arg == keyword:
            found = given.value
    return found


def string_argument(call: ast.Call, position: int, keyword: str) -> str | None:
    """The literal string given as an argument, or None where it is computed."""
    found = argument(call, position, keyword)
    if isinstance(found, ast.Constant) and isinstance(found.value, str):
        return found.value
    return None
