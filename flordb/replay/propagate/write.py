"""The text of a rewritten statement in its author's own spelling.

The nodes of a rewritten statement remember where they stood in the newer version. Their text is
taken from there, with only the changed names exchanged; quotes, line breaks and comments stay.
Where that would not parse to the statement that is wanted, Python's own spelling is used.
"""

from __future__ import annotations

import ast
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
    code = _spelled(node, unit)
    if code is None or not _says(code, node):
        code = ast.unparse(node)
    return indented(code, indent)


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


def _says(code: str, node: ast.AST) -> bool:
    """Whether the text parses to the wanted statement."""
    try:
        (found,) = ast.parse(code).body
    except (SyntaxError, ValueError):
        return False
    return ast.dump(found) == ast.dump(ast.parse(ast.unparse(node)).body[0])
