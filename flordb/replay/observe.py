"""Hindsight statements only look: the random numbers that they draw, and the modes of modules that
they set, are put back, so that the replay goes on exactly as the run did.

The patched files are compiled with the statements of each insertion inside ``with Observing():``;
the text on disk stays as the plan shows it.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from types import CodeType, ModuleType
from typing import Any

import flordb
from flordb import session
from flordb.record.rng import get_states, set_states
from flordb.replay.modules import put_back
from flordb.replay.replayer import Replayer

Ranges = Sequence[tuple[int, int]]
_NAME = "__flordb_observing__"

# What a number, a tensor or an array computes without running anybody's Python code.
_METHODS = frozenset(
    (
        *("item", "tolist", "sum", "mean", "norm", "std", "var", "max", "min", "abs", "argmax"),
        *("detach", "cpu", "numpy", "float", "double", "int", "long", "numel", "square", "sqrt"),
    )
)
_ATTRIBUTES = frozenset(("grad", "data", "shape", "T"))
_BUILTINS = {float, int, len, abs, round, str, bool}


class Observing:
    """Leaves random generators, modes of modules and the replay's position as they were.

    Parameters: ``looked``, the functions and variables that a statement uses, where it only looks
    at them if their types are known: then nothing can draw a random number, and the generators,
    whose states take longer to copy than most steps of a training, are let be.
    """

    def __init__(self, *looked: Any) -> None:
        self._states = None if looked and _only_look(looked) else get_states()
        self._modules = put_back() if self._states is not None else nullcontext()
        replayer = session.peek()
        self._replayer = replayer if isinstance(replayer, Replayer) else None

    def __enter__(self) -> None:
        if self._replayer is not None:
            self._before = self._replayer.step_aside()
        self._modules.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._modules.__exit__(*error)
        if self._replayer is not None:
            self._replayer.step_back(self._before)
        if self._states is not None:
            set_states(self._states)


def _only_look(values: Sequence[Any]) -> bool:
    log, *others = values
    return log is flordb.log and all(_is_known(value) for value in others)


def _is_known(value: Any) -> bool:
    kind = type(value)
    if kind in (float, int, bool, str, type(None)):
        return True
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and kind in (torch.Tensor, torch.nn.Parameter):
        return True
    if numpy is not None and (kind is numpy.ndarray or isinstance(value, numpy.generic)):
        return bool(value.dtype.kind != "O" and kind.__module__ == "numpy")
    return kind in (type, type(len)) and value in _BUILTINS


def compile_observed(text: str, path: str, ranges: Ranges) -> CodeType:
    """Compile a file whose statements in the line ranges (first, last) only observe."""
    tree = ast.parse(text, path)
    if ranges:
        _Wrap(ranges).blocks_of(tree)
        ast.fix_missing_locations(tree)
    return compile(tree, path, "exec", dont_inherit=True)


class _Wrap:
    """Puts the statements that were inserted together inside one ``with Observing():``."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges

    def blocks_of(self, node: ast.AST) -> None:
        """Wrap in all blocks of a node, those of what was inserted left as they are."""
        for part in ("body", "orelse", "finalbody"):
            statements = getattr(node, part, None)
            if isinstance(statements, list):
                setattr(node, part, self._wrapped(statements))
        for inner in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            self.blocks_of(inner)

    def _wrapped(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for inserted, run in groupby(statements, self._insertion):
            if inserted is not None:
                found += _observed(list(run))
                continue
            for statement in run:
                self.blocks_of(statement)
                found.append(statement)
        return found

    def _insertion(self, node: ast.stmt) -> tuple[int, int] | None:
        """The lines that a statement was inserted with."""
        end = node.end_lineno or node.lineno
        return next((r for r in self._ranges if r[0] <= node.lineno and end <= r[1]), None)


def _observed(run: list[ast.stmt]) -> list[ast.stmt]:
    """Inserted statements as one that only looks; definitions are left outside of it."""
    found: list[ast.stmt] = []
    for defines, part in groupby(run, lambda node: isinstance(node, _DEFINITIONS)):
        body = list(part)
        if defines:
            found += body
            continue
        name = ast.copy_location(ast.Name(_NAME, ast.Load()), body[0])
        call = ast.copy_location(ast.Call(name, _looked_at(body), []), body[0])
        found.append(ast.copy_location(ast.With([ast.withitem(call)], body), body[0]))
    return found


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _looked_at(body: list[ast.stmt]) -> list[ast.expr]:
    """The log function, and the variables of a statement that logs what they are or what a known
    method makes of them; nothing for any other statement."""
    match body:
        case [ast.Expr(ast.Call(ast.Name() | ast.Attribute(ast.Name()) as log, [name, value], []))]:
            found: dict[str, ast.expr] = {}
            if isinstance(name, ast.Constant) and _looks(value, found):
                return [log, *found.values()]
    return []


def _looks(node: ast.expr, found: dict[str, ast.expr]) -> bool:
    """Whether an expression only looks at variables, which are gathered; each of it is evaluated
    whatever the others are, so that they can be evaluated before it."""

    def all_look(*nodes: ast.expr) -> bool:
        return all(_looks(each, found) for each in nodes)

    match node:
        case ast.Constant():
            return True
        case ast.Name(name, ast.Load()):
            found[name] = node
            return True
        case ast.BinOp(left, _, right) | ast.Compare(left, [_], [right]):
            return all_look(left, right)
        case ast.UnaryOp(_, operand):
            return _looks(operand, found)
        case ast.Tuple(parts) | ast.List(parts):
            return all_look(*parts)
        case ast.Subscript(value, ast.Constant() | ast.Name() as index):
            return all_look(value, index)
        case ast.Attribute(value, name):
            return name in _ATTRIBUTES and _looks(value, found)
        case ast.Call(ast.Attribute(value, name), arguments, []):
            return name in _METHODS and all_look(value, *arguments)
        case ast.Call(ast.Name() as function, arguments, []):
            return all_look(function, *arguments)
    return False


def run_script(text: str, path: str, ranges: Ranges) -> None:
    """Run a script's text as ``__main__``, as the interpreter would."""
    main = ModuleType("__main__")
    main.__file__ = path
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]
    vars(main)[_NAME] = Observing
    sys.modules["__main__"] = main
    exec(compile_observed(text, path, ranges), vars(main))


class PatchedFinder(importlib.abc.MetaPathFinder):
    """Imports patched modules with their inserted statements observed.

    ``ranges``: line ranges by absolute path. All other modules are left to the usual finders.
    """

    def __init__(self, ranges: Mapping[str, Ranges]) -> None:
        self.ranges = ranges

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return None
        ranges = self.ranges.get(os.path.realpath(spec.origin))
        if ranges is None:
            return None
        loader = _PatchedLoader(fullname, spec.origin, ranges)
        locations = spec.submodule_search_locations
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=loader, submodule_search_locations=locations
        )


class _PatchedLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, ranges: Ranges) -> None:
        super().__init__(name, path)
        self.ranges = ranges

    def get_code(self, fullname: str) -> CodeType | None:
        # Never from or to a cached .pyc: it would hold the statements unobserved.
        text = self.get_data(self.path).decode()
        return compile_observed(text, self.path, self.ranges)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)[_NAME] = Observing
        super().exec_module(module)
