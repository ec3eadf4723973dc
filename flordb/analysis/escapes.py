"""Objects of the project that libraries are handed, which may change them at any time: callbacks,
observers, what is put into a registry. Methods are handed over as well as whole objects.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

from flordb.analysis.program import Function, Module, Program, root_name

_CHANGING = frozenset(
    (
        *("append", "appendleft", "add", "update", "extend", "insert", "pop", "popleft", "clear"),
        *("remove", "discard", "setdefault", "popitem", "push", "put", "sort", "reverse", "write"),
        *("__setitem__", "__delitem__", "__iadd__", "step", "log", "record"),
    )
)
"""Methods by which containers and the like are changed."""


def handed_methods(program: Program, module: Module, call: ast.Call) -> Iterator[tuple[str, str]]:
    """(variable, method) of the methods that a library's function is given."""
    if not _is_of_library(program, module, call):
        return
    methods = {name for m in program.modules.values() for name in m.methods}
    for given in _given(call):
        match given:
            case ast.Attribute(value=ast.Name(id=name), attr=method):
                if method in methods or _is_changing(method):
                    yield name, method


def handed_objects(
    program: Program, module: Module, call: ast.Call
) -> Iterator[tuple[str | None, ast.ClassDef]]:
    """(variable, class) of the project's objects that a library's function is given and whose
    methods change them; None for one made in the call, of which nobody else has a name."""
    for variable, cls in _handed(program, module, call):
        if changed_attributes(cls):
            yield variable, cls


def _handed(
    program: Program, module: Module, call: ast.Call
) -> Iterator[tuple[str | None, ast.ClassDef]]:
    if not _is_of_library(program, module, call):
        return
    for given in _given(call):
        if isinstance(given, ast.Name):
            for made in _classes_of(program, given.id):
                yield given.id, made
        elif isinstance(given, ast.Call) and isinstance(given.func, ast.Name):
            cls = _class_named(program, given.func.id)
            if cls is not None:
                yield None, cls


def called_by_libraries(program: Program) -> Iterator[tuple[Module, Function]]:
    """The functions that a library may call by itself: methods of classes that are made from its
    own or handed to it, what it decorates, and what is mentioned without being called."""
    handed = {
        cls
        for module in program.modules.values()
        for call in ast.walk(module.tree)
        if isinstance(call, ast.Call)
        for _, cls in _handed(program, module, call)
    }
    mentioned = {name for m in program.modules.values() for name in m.mentioned_attributes}
    named = {name for m in program.modules.values() for name in m.mentioned_names}
    for module in program.modules.values():
        for cls in module.classes.values():
            whole = (
                cls in handed or cls.name in named or _derives_from_library(program, module, cls)
            )
            for method in (n for n in cls.body if isinstance(n, _FUNCTIONS)):
                if whole or method.name in mentioned:
                    yield module, method
        for function in (each for found in module.functions.values() for each in found):
            decorated = any(_is_foreign(module, each) for each in function.decorator_list)
            if decorated or function.name in named:
                yield module, function


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _derives_from_library(program: Program, module: Module, cls: ast.ClassDef) -> bool:
    waiting, seen = [(module, cls)], {cls}
    while waiting:
        module, cls = waiting.pop()
        for base in cls.bases:
            if _is_foreign(module, base):
                return True
            name = getattr(base, "id", getattr(base, "attr", ""))
            own = [(m, m.classes[name]) for m in program.modules.values() if name in m.classes]
            waiting += [(m, found) for m, found in own if found not in seen]
            seen |= {found for _, found in own}
    return False


def _is_foreign(module: Module, node: ast.expr) -> bool:
    """Whether an expression is made of what is imported from a library."""
    return root_name(node) in module.foreign


@cache
def changed_attributes(cls: ast.ClassDef) -> frozenset[str]:
    """The attributes of ``self`` that the methods of a class change, ``__init__`` aside."""
    found: set[str] = set()
    for method in cls.body:
        if isinstance(method, _FUNCTIONS):
            own = method.args.args[0].arg if method.args.args else ""
            if method.name != "__init__":
                found |= {name for node in ast.walk(method) for name in _changed(node, own)}
    return frozenset(found)


def _changed(node: ast.AST, own: str) -> Iterator[str]:
    match node:
        case ast.Attribute() | ast.Subscript():
            if isinstance(node.ctx, (ast.Store, ast.Del)):
                yield from _attribute_of(node, own)
        case ast.Call(func=ast.Attribute(value=owner, attr=method)) if _is_changing(method):
            yield from _attribute_of(owner, own)


def _attribute_of(node: ast.expr, own: str) -> Iterator[str]:
    """The attribute of ``self`` that an expression leads through."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        inner = node.value
        if isinstance(node, ast.Attribute) and isinstance(inner, ast.Name) and inner.id == own:
            yield node.attr
        node = inner


def _is_changing(method: str) -> bool:
    return method in _CHANGING or (method.endswith("_") and not method.startswith("_"))


def _is_of_library(program: Program, module: Module, call: ast.Call) -> bool:
    if module.flor_call(call):
        return False
    return next(iter(program.called(module, call)), None) is None


def _given(call: ast.Call) -> Iterator[ast.expr]:
    """The arguments, and what stands in lists and the like that are arguments."""
    waiting = [*call.args, *(keyword.value for keyword in call.keywords)]
    while waiting:
        given = waiting.pop()
        if isinstance(given, (ast.List, ast.Tuple, ast.Set)):
            waiting += given.elts
        elif isinstance(given, ast.Dict):
            waiting += given.values
        elif isinstance(given, ast.Starred):
            waiting.append(given.value)
        else:
            yield given


def _classes_of(program: Program, variable: str) -> Iterator[ast.ClassDef]:
    """The project's classes of which some assignment makes the variable an object."""
    for module in program.modules.values():
        for name in module.made_of.get(variable, ()):
            cls = _class_named(program, name)
            if cls is not None:
                yield cls


def _class_named(program: Program, name: str) -> ast.ClassDef | None:
    return next((m.classes[name] for m in program.modules.values() if name in m.classes), None)
