"""Hindsight statements only look: the random numbers that they draw, and the modes of modules that
they set, are put back, so that the replay goes on exactly as the run did.

The patched files are compiled with the statements of each insertion inside ``with Observing():``;
the text on disk stays as the plan shows it.
"""

from __future__ import annotations

import ast
import importlib.machinery
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import groupby
from types import CodeType, ModuleType
from typing import Any

from flordb import session
from flordb.record.rng import get_states, set_states
from flordb.replay.looks import only_look, operands
from flordb.replay.modules import put_back
from flordb.replay.replayer import Replayer

Ranges = Sequence[tuple[int, int]]
_NAME = "__flordb_observing__"


class Observing:
    """Leaves random generators, modes of modules and the replay's position as they were.

    Parameters: ``looked``, for `only_look`: generators and modes are let be where it says so.
    """

    def __init__(self, *looked: Any) -> None:
        self._states = None if looked and only_look(*looked) else get_states()
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
        call = ast.copy_location(ast.Call(name, operands(body), []), body[0])
        found.append(ast.copy_location(ast.With([ast.withitem(call)], body), body[0]))
    return found


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def run_script(text: str, path: str, ranges: Ranges, module: str | None) -> None:
    """Run a script's text as ``__main__``, as the interpreter would.

    Parameters: ``module``, its name as a module where it was started by ``python -m``.
    """
    main = ModuleType("__main__")
    main.__file__ = path
    if module is not None:
        main.__spec__ = importlib.machinery.ModuleSpec(module, None, origin=path)
        main.__package__ = module.rpartition(".")[0]
        if main.__package__:
            importlib.import_module(main.__package__)
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]
    vars(main)[_NAME] = Observing
    sys.modules["__main__"] = main
    exec(compile_observed(text, path, ranges), vars(main))


class PatchedLoader(importlib.machinery.SourceFileLoader):
    """Loads a patched module with its inserted statements (line ranges) observed."""

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
