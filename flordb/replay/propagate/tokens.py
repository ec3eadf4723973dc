"""The words of a statement, without its layout and without the statements inside it.

Words are what matching compares. A variable is its bare name; everything else begins with a
character that no identifier has (`.attribute`, `=keyword`, `#constant`, `<Call>`), so that the
variables can be told apart and blanked out (`shape`).
"""

from __future__ import annotations

import ast

_SILENT = frozenset({"ctx", "type_comment", "annotation", "returns", "kind", "type_ignores"})
_PASS_ON = frozenset({"log", "loop", "arg"})
_LAYOUT = (ast.Load, ast.Store, ast.Del)


def words_of(node: ast.AST) -> tuple[str, ...]:
    """The words of a statement; of a compound statement, those of its header."""
    out: list[str] = []
    if isinstance(node, ast.Expr) and bare(node.value) is not node.value:
        _emit_fields(node.value, out)
    else:
        _emit(node, out)
    return tuple(out)


def bare(node: ast.expr) -> ast.expr:
    """The value of an expression without flor round it: flor's calls hand their value on."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        module, function = node.func.value, node.func.attr
        ours = isinstance(module, ast.Name) and module.id in ("flor", "flordb")
        if not ours or function not in _PASS_ON or len(node.args) != 2:
            break
        node = node.args[1]
    return node


def shape_of(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words with each variable blanked out: equal for statements that differ by names only."""
    return tuple("_" if is_variable(word) else word for word in words)


def is_variable(word: str) -> bool:
    """Whether a word stands for a variable."""
    return word[0] not in ".=#<~"


def _emit(node: ast.AST, out: list[str]) -> None:
    if isinstance(node, ast.Call):
        node = bare(node)
    if isinstance(node, ast.Name):
        out.append(node.id)
    elif isinstance(node, ast.Attribute):
        _emit(node.value, out)
        out.append("." + node.attr)
    elif isinstance(node, ast.Constant):
        out.append("#" + repr(node.value))
    elif isinstance(node, ast.arg):
        out.append(node.arg)
    elif isinstance(node, ast.keyword):
        out.append("=" + (node.arg or "**"))
        _emit(node.value, out)
    elif isinstance(node, ast.alias):
        out.append("~" + node.name)
        out.append((node.asname or node.name).split(".")[0])
    else:
        _emit_fields(node, out)


def _emit_fields(node: ast.AST, out: list[str]) -> None:
    # An annotated assignment and a plain one are the same thing to us.
    out.append("<Assign>" if isinstance(node, ast.AnnAssign) else f"<{type(node).__name__}>")
    for field in node._fields:
        if field in _SILENT:
            continue
        value = getattr(node, field, None)
        if isinstance(value, ast.AST):
            if not isinstance(value, _LAYOUT):
                _emit(value, out)
        elif isinstance(value, list):
            for part in value:
                if isinstance(part, str):
                    out.append(part)
                elif isinstance(part, ast.AST) and not isinstance(part, ast.stmt):
                    _emit(part, out)
        elif isinstance(value, str):
            out.append(value or "~")
        elif isinstance(value, int) and field == "level":
            out.append(f"#{value}")
