"""A walk through a program in the order in which it would run, by its syntax alone: functions are
entered where they are called, so that each statement is met with the flor loops around it and the
top-level loops that ended before it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flordb.analysis.escapes import called_by_libraries
from flordb.analysis.program import Function, Module, Program, string_argument
from flordb.analysis.shapes import header_calls

_MOST_VISITS = 200_000


@dataclass(frozen=True)
class Visit:
    """A statement as the walk met it.

    ``nest``: names of the `flor.loop`s and `flor.iteration`s around it, outermost first.
    ``loops``: for each of these, whether it is a loop. ``done``: the top-level loops that ended
    before it. ``function``: the function that it stands in, if any. ``by_library``: no code of the
    project calls that, but a library may, at any time; the other fields then say nothing.
    """

    module: Module
    statement: ast.stmt
    nest: tuple[str, ...]
    loops: tuple[bool, ...]
    done: tuple[str, ...]
    function: Function | None
    by_library: bool = False

    @property
    def top_loop(self) -> str | None:
        """The top-level `flor.loop` that the statement is in; there is none in a `flor.iteration`
        outside of loops."""
        return self.nest[0] if self.nest and self.loops[0] else None

    @property
    def inner_loops(self) -> tuple[str, ...]:
        """The nested `flor.loop`s around it, below the top-level one."""
        if self.top_loop is None:
            return ()
        names = [n for n, is_loop in zip(self.nest, self.loops, strict=True) if is_loop]
        return tuple(names[1:])


def walk(program: Program, libraries: bool = False) -> Iterator[Visit]:
    """Each statement that the script may run, in order, once for each different surrounding.

    Parameters: ``libraries``, whether to go on with what only libraries call.
    """
    if program.script in program.modules:
        walking = _Walk(program)
        yield from walking.module(program.modules[program.script])
        if libraries:
            yield from walking.by_libraries()


class _Walk:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.nest: tuple[tuple[str, bool], ...] = ()
        self.done: tuple[str, ...] = ()
        self.stack: list[Function] = []
        self.seen: set[object] = set()
        self.visits = 0
        self.entered: set[Function] = set()
        self.is_by_library = False

    def module(self, module: Module) -> Iterator[Visit]:
        if module.path not in self.seen:
            self.seen.add(module.path)
            stack, self.stack = self.stack, []
            yield from self.body(module, module.tree.body)
            self.stack = stack

    def body(self, module: Module, statements: Sequence[ast.stmt]) -> Iterator[Visit]:
        for statement in statements:
            self.visits += 1
            if self.visits > _MOST_VISITS:
                return
            yield self._visit(module, statement)
            yield from self.statement(module, statement)

    def _visit(self, module: Module, statement: ast.stmt) -> Visit:
        names = tuple(name for name, _ in self.nest)
        loops = tuple(is_loop for _, is_loop in self.nest)
        function = self.stack[-1] if self.stack else None
        return Visit(module, statement, names, loops, self.done, function, self.is_by_library)

    def by_libraries(self) -> Iterator[Visit]:
        """The statements in functions that were not met, and that a library may call."""
        self.is_by_library = True
        for module, function in list(called_by_libraries(self.program)):
            if function not in self.entered:
                yield from self.function(module, function)

    def statement(self, module: Module, node: ast.stmt) -> Iterator[Visit]:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return
            case ast.ClassDef():
                yield from self.body(module, node.body)
            case ast.Import() | ast.ImportFrom():
                yield from self.imports(module, node)
            case ast.For() | ast.AsyncFor():
                yield from self.calls(module, node.iter)
                yield from self.loop(module, node, _loop_name(module, node.iter))
                yield from self.body(module, node.orelse)
            case ast.With() | ast.AsyncWith():
                yield from self.block(module, node)
            case ast.While():
                yield from self.calls(module, node.test)
                yield from self.repeated(module, node.body)
                yield from self.body(module, node.orelse)
            case ast.If():
                yield from self.calls(module, node.test)
                yield from self.body(module, node.body)
                yield from self.body(module, node.orelse)
            case ast.Try() | ast.TryStar():
                handlers = (handler.body for handler in node.handlers)
                for part in (node.body, *handlers, node.orelse, node.finalbody):
                    yield from self.body(module, part)
            case ast.Match():
                yield from self.calls(module, node.subject)
                for case in node.cases:
                    yield from self.body(module, case.body)
            case _:
                yield from self.calls(module, node)

    def imports(self, module: Module, node: ast.Import | ast.ImportFrom) -> Iterator[Visit]:
        for alias in node.names:
            path, _ = module.imports.get(alias.asname or alias.name, ("", ""))
            if path in self.program.modules:
                yield from self.module(self.program.modules[path])

    def loop(
        self, module: Module, node: ast.For | ast.AsyncFor, name: str | None
    ) -> Iterator[Visit]:
        if name is None:
            yield from self.repeated(module, node.body)
            return
        outer = self.nest
        self.nest = (*outer, (name, True))
        yield from self.body(module, node.body)
        self.nest = outer
        if not outer and name not in self.done:
            self.done = (*self.done, name)

    def repeated(self, module: Module, statements: Sequence[ast.stmt]) -> Iterator[Visit]:
        """The body of a loop that is none of flor's: what ends in it has ended when it comes
        again."""
        before = self.done
        yield from self.body(module, statements)
        if self.done != before:
            yield from self.body(module, statements)

    def block(self, module: Module, node: ast.With | ast.AsyncWith) -> Iterator[Visit]:
        outer = self.nest
        for item in node.items:
            yield from self.calls(module, item.context_expr)
            if module.flor_call(item.context_expr) == "iteration":
                assert isinstance(item.context_expr, ast.Call)
                name = string_argument(item.context_expr, 0, "name")
                if name is not None:
                    self.nest = (*self.nest, (name, False))
        yield from self.body(module, node.body)
        self.nest = outer

    def calls(self, module: Module, node: ast.AST) -> Iterator[Visit]:
        for call in _calls(node):
            for owner, function in self.program.called(module, call):
                yield from self.function(owner, function)

    def function(self, module: Module, function: Function) -> Iterator[Visit]:
        key = (function, self.nest, self.done)
        if function in self.stack or key in self.seen:
            return
        self.seen.add(key)
        self.entered.add(function)
        self.stack.append(function)
        yield from self.body(module, function.body)
        self.stack.pop()


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """The calls in an expression or simple statement, inner ones first, lambdas' included."""
    for child in ast.iter_child_nodes(node):
        yield from _calls(child)
    if isinstance(node, ast.Call):
        yield node


def _loop_name(module: Module, iterable: ast.expr) -> str | None:
    """The name of the `flor.loop` that a for statement goes through, also inside ``enumerate``."""
    for call in header_calls(module, iterable):
        return string_argument(call, 0, "name")
    return None
