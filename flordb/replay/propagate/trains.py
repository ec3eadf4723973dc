"""Whether a function of the project trains: to call it once more would change what comes after."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from flordb.replay.propagate.effects import is_mode_call, last_name
from flordb.replay.propagate.names import binds, root_of
from flordb.replay.propagate.units import FUNCTIONS, Source

_TRAINS = frozenset({"backward", "zero_grad"})
_MOST_FUNCTIONS = 200


class Trainers:
    """Looks through the functions and methods of some files, which it knows by their names."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._bodies: dict[str, list[ast.AST]] = {}
        self._modules: set[str] = set()
        for source in sources:
            for unit in source.units:
                if isinstance(unit.node, FUNCTIONS):
                    of_class = unit.parent is not None and isinstance(
                        unit.parent.node, ast.ClassDef
                    )
                    name = f".{unit.node.name}" if of_class else unit.node.name
                    self._bodies.setdefault(name, []).append(unit.node)
                elif isinstance(unit.node, (ast.Import, ast.ImportFrom)):
                    self._modules |= binds(unit.node)

    def called_in(self, node: ast.AST) -> str | None:
        """What is called in an expression, or in functions that this calls, and trains.

        ``learn() calls loss.backward()``, or None. A method counts wherever a class of the files
        has one of that name.
        """
        waiting = [(name, name) for name in sorted(self._called(node))]
        seen: set[str] = set()
        while waiting and len(seen) < _MOST_FUNCTIONS:
            name, first = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            for body in self._bodies[name]:
                for call in ast.walk(body):
                    if isinstance(call, ast.Call) and last_name(call) in _TRAINS:
                        return f"{first.lstrip('.')}() calls {ast.unparse(call.func)}()"
                waiting += [(each, first) for each in sorted(self._called(body))]
        return None

    def _called(self, node: ast.AST) -> set[str]:
        """The known functions that are called, methods with a dot before the name."""
        found: set[str] = set()
        for part in ast.walk(node):
            if not isinstance(part, ast.Call) or is_mode_call(ast.Expr(part)):
                continue
            name = last_name(part)
            if isinstance(part.func, ast.Attribute):
                of_module = root_of(part.func) in self._modules
                found |= {f".{name}"} | ({name} if of_module else set())
            else:
                found.add(name)
        return found & self._bodies.keys()
