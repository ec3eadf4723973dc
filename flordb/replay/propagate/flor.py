"""Which calls of a source are flor's, and how a source calls them."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

MODULES = frozenset({"flor", "flordb"})


@dataclass(frozen=True)
class FlorNames:
    """How a source names flor: ``modules`` are names of the module, ``direct`` of its functions."""

    modules: tuple[str, ...] = ()
    direct: dict[str, str] = field(default_factory=dict)

    def function_of(self, call: ast.AST) -> str | None:
        """`log`, `loop`, … where this is a call of flor's function of that name."""
        if not isinstance(call, ast.Call):
            return None
        func = call.func
        if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name):
            return func.attr if func.value.id in self.modules else None
        return self.direct.get(func.id) if isinstance(func, ast.Name) else None


def flor_names(tree: ast.AST) -> FlorNames:
    """The names under which a source imports flor and its functions."""
    modules: list[str] = []
    direct: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [a.asname or a.name for a in node.names if a.name in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES and not node.level:
            direct.update({a.asname or a.name: a.name for a in node.names})
    return FlorNames(tuple(dict.fromkeys(modules)), direct)


def loop_name(node: ast.AST) -> str | None:
    """The name of a `flor.loop` that a loop runs over, or of a `flor.iteration` that a with enters.

    By the spelling alone, whatever flor is imported as: a loop's name is a literal.
    """
    if isinstance(node, (ast.For, ast.AsyncFor)):
        heads: list[ast.AST] = [node.iter]
    elif isinstance(node, (ast.With, ast.AsyncWith)):
        heads = [item.context_expr for item in node.items]
    else:
        return None
    for head in heads:
        for call in ast.walk(head):
            name = _literal_name(call, ("loop", "iteration", "layer"))
            if name is not None:
                return name
    return None


def _literal_name(call: ast.AST, functions: tuple[str, ...]) -> str | None:
    if not isinstance(call, ast.Call):
        return None
    func = call.func
    if isinstance(func, ast.Attribute):
        ours = isinstance(func.value, ast.Name) and func.value.id in MODULES
        ours = ours and func.attr in functions
    else:
        ours = False
    return literal_argument(call) if ours else None


def logged_name(call: ast.Call) -> str | None:
    """The name that a flor.log call is given: a literal, or an f-string with ``{}`` for what is
    computed; None where all of it is computed."""
    given = _name_argument(call)
    if isinstance(given, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in given.values)
        return "".join(map(str, parts))
    return literal_argument(call)


def literal_argument(call: ast.Call) -> str | None:
    """The literal name that a flor call is given, or None where it is computed."""
    given = _name_argument(call)
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None


def _name_argument(call: ast.Call) -> ast.expr | None:
    given: ast.expr | None = call.args[0] if call.args else None
    for keyword in call.keywords:
        if keyword.arg == "name":
            given = keyword.value
    return given
