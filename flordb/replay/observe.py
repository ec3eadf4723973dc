"""Hindsight statements only look: the random numbers that they draw are put back, so that the
replay goes on exactly as the run did.

The patched files are compiled with each inserted statement inside ``with observing():``; the text
on disk stays as the plan shows it.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import CodeType, ModuleType
from typing import Any

from flordb import session
from flordb.record.rng import get_states, set_states
from flordb.replay.replayer import Replayer

Ranges = Sequence[tuple[int, int]]
_NAME = "__flordb_observing__"


@contextmanager
def observing() -> Iterator[None]:
    """Leaves the generators of random numbers, and the replay's position, as they were."""
    replayer = session.peek()
    aside = replayer.aside() if isinstance(replayer, Replayer) else nullcontext()
    before = get_states()
    try:
        with aside:
            yield
    finally:
        set_states(before)


def compile_observed(text: str, path: str, ranges: Ranges) -> CodeType:
    """Compile a file whose statements in the line ranges (first, last) only observe."""
    tree = ast.parse(text, path)
    if ranges:
        tree = ast.fix_missing_locations(_Wrap(ranges).visit(tree))
    return compile(tree, path, "exec", dont_inherit=True)


class _Wrap(ast.NodeTransformer):
    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.stmt) and self._inserted(node):
            name = ast.copy_location(ast.Name(_NAME, ast.Load()), node)
            call = ast.copy_location(ast.Call(name, [], []), node)
            wrapped = ast.With(items=[ast.withitem(call)], body=[node])
            return ast.copy_location(wrapped, node)
        return super().generic_visit(node)

    def _inserted(self, node: ast.stmt) -> bool:
        end = node.end_lineno or node.lineno
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            return False
        return any(first <= node.lineno and end <= last for first, last in self.ranges)


def run_script(text: str, path: str, ranges: Ranges) -> None:
    """Run a script's text as ``__main__``, as the interpreter would."""
    main = ModuleType("__main__")
    main.__file__ = path
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]
    vars(main)[_NAME] = observing
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
        vars(module)[_NAME] = observing
        super().exec_module(module)
