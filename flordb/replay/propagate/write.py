"""The text of a rewritten statement in its author's own spelling.

The nodes of a rewritten statement remember where they stood in the newer version. Their text is
taken from there, with only the changed names exchanged; quotes, line breaks and comments stay.
Where that would not parse to the statement that is wanted, Python's own spelling is used.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from typing import cast

from flordb.replay.propagate.edit import indented, statement_text
from flordb.replay.propagate.units import Source, Unit


def written(unit: Unit, node: ast.AST, indent: str) -> str:
    """The lines of a statement at an indentation.

    Parameters: ``unit``, the statement of the newer version that it comes from; ``node``, its
    rewritten form, or the statement itself.
    """
    if node is unit.node:
        return statement_text(unit, indent)
    if isinstance(node, ast.Module):
        return "".join(written(unit, statement, indent) for statement in node.body)
    for code in (_spelled(node, unit), _with_names(node, unit)):
        if code is not None and _says(code, node):
            return indented(code, indent)
    return indented(ast.unparse(node), indent)


def instead(new: ast.expr, old: ast.expr) -> ast.expr:
    """A new expression that remembers in whose place it stands."""
    new.stood = getattr(old, "stood", old)  # type: ignore[attr-defined]
    return new


def _spelled(node: ast.AST, unit: Unit) -> str | None:
    """The statement as its parts stood in the newer version, at no indentation."""
    if isinstance(node, ast.If) and not hasattr(node, "lineno"):
        body = _spelled(node.body[0], unit)
        return body and f"if {_text(node.test, unit.source)}:\n{indented(body, _STEP)}"
    if isinstance(node, ast.Expr) and not hasattr(node, "lineno"):
        node = node.value
    if not hasattr(node, "lineno"):
        return None
    line = unit.source.lines[node.lineno - 1]
    base = line[: len(line) - len(line.lstrip())]
    return textwrap.dedent(base + _text(node, unit.source))


_STEP = "    "


def _text(node: ast.AST, source: Source) -> str:
    """The text of an expression or statement, each part from where it stood."""
    if not hasattr(node, "lineno"):
        return ast.unparse(node)
    if isinstance(node, ast.Name):
        return node.id
    start, end = _span(node, source)
    text = source.text.encode()
    out, at = [], start
    for part in sorted(_located(node), key=lambda part: _span(part, source)):
        first, last = _span(part, source)
        if first < at:
            continue
        out += [text[at:first], _text(part, source).encode()]
        at = last
    out.append(text[at:end])
    changed = b"".join(out).decode()
    if isinstance(node, ast.Attribute):
        return changed[: changed.rindex(".") + 1] + node.attr if "." in changed else changed
    return changed


def _located(node: ast.AST) -> Iterator[ast.AST]:
    """The nearest nodes below one that know where they stood; new ones stand where they say."""
    for child in ast.iter_child_nodes(node):
        if hasattr(child, "lineno") or hasattr(child, "stood"):
            yield child
        elif not isinstance(child, ast.expr_context):
            yield from _located(child)


def _span(node: ast.AST, source: Source) -> tuple[int, int]:
    where = cast(ast.expr, getattr(node, "stood", node))
    starts = source.starts
    last = where.end_lineno or where.lineno
    return (
        starts[where.lineno - 1] + where.col_offset,
        starts[last - 1] + (where.end_col_offset or 0),
    )


def _with_names(node: ast.AST, unit: Unit) -> str | None:
    """The statement's own text with each changed name exchanged wherever it stands as a word.

    For f-strings: before 3.12, Python does not say where in them a name stands. A word that is not
    the variable (in a string, before the `=` of an argument) is known by what else would change.
    """
    changed = {
        a.id: b.id
        for a, b in zip(ast.walk(unit.node), ast.walk(node), strict=False)
        if isinstance(a, ast.Name) and isinstance(b, ast.Name) and a.id != b.id
    }
    if not changed:
        return None
    words = re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, changed))})(?!\w)")
    code = statement_text(unit, "")
    rest = _without_names(code)
    for word in reversed(list(words.finditer(code))):
        tried = code[: word.start()] + changed[word[0]] + code[word.end() :]
        code = tried if _without_names(tried) == rest else code
    return code


def _without_names(code: str) -> str | None:
    """All of a statement but its variables, to compare; None where it does not parse."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = ""
    return ast.dump(tree)


def _says(code: str, node: ast.AST) -> bool:
    """Whether the text parses to the wanted statement."""
    try:
        (found,) = ast.parse(code).body
    except (SyntaxError, ValueError):
        return False
    return ast.dump(found) == ast.dump(ast.parse(ast.unparse(node)).body[0])
