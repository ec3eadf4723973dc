"""The log statements of a project's code: each makes its name a column, stored or virtual."""

from __future__ import annotations

import ast
import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flordb.analysis.program import Module, Program, argument, string_argument
from flordb.analysis.slices import definitions, names_read
from flordb.analysis.sources import SourceTree
from flordb.analysis.walk import Visit, walk


@dataclass(frozen=True)
class LogStatement:
    """A statement that calls ``flor.log`` with a literal name or an f-string.

    ``name`` is the literal, or for an f-string its text with ``{}`` for what is computed, as in
    ``acc_{}``; ``pattern`` is then the regular expression of the names that it may log. ``file``
    and ``lineno`` (from 1) say where it begins; ``nest`` names the loops around it when it runs;
    ``scripts`` are the scripts that reach it; ``digest`` is a hash of the statement, of the code
    that it stands among and may take along, and of the functions that it needs: while it is the
    same, trying again gives the same.
    """

    name: str
    file: str
    lineno: int
    nest: tuple[str, ...]
    scripts: tuple[str, ...]
    digest: str
    pattern: str = ""

    def logs(self, name: str) -> bool:
        """Whether it logs a name, or may log it."""
        if self.pattern:
            return re.fullmatch(self.pattern, name, re.DOTALL) is not None
        return name == self.name


def statements_in(sources: Mapping[str, str]) -> tuple[LogStatement, ...]:
    """The log statements of a set of Python files (path to text).

    A file is a script where it is not imported by another file, or runs under ``__main__``.
    """
    found: dict[tuple[str, str, int], LogStatement] = {}
    for script in sources:
        if not _mentions_flor(sources, script):
            continue
        for statement in statements_of(sources, script):
            key = (statement.name, statement.file, statement.lineno)
            known = found.get(key)
            if known is not None:
                nest = max(known.nest, statement.nest, key=len)
                scripts = (*known.scripts, script)
                statement = replace(known, nest=nest, scripts=scripts)
            found[key] = statement
    return tuple(found.values())


def _mentions_flor(sources: Mapping[str, str], script: str) -> bool:
    program = Program(sources, script)
    return any(module.flor_aliases for module in program.modules.values())


def statements_of(sources: Mapping[str, str], script: str) -> tuple[LogStatement, ...]:
    """The log statements that a script reaches, outermost nest last where there are several."""
    program = Program(sources, script)
    found: dict[tuple[str, str, int], LogStatement] = {}
    around: dict[object, str] = {}
    for visit in walk(program, libraries=True):
        for name, pattern in _names(visit.module, visit.statement):
            key = (name, visit.module.path, visit.statement.lineno)
            if key in found and len(found[key].nest) >= len(visit.nest):
                continue
            scope = visit.function or visit.module.path
            if scope not in around:
                around[scope] = _scope_text(visit)
            digest = _digest(program, visit.statement, around[scope])
            found[key] = LogStatement(*key, visit.nest, (script,), digest, pattern)
    return tuple(found.values())


def logged_names(module: Module, statement: ast.stmt) -> Iterator[str]:
    """The literal names that a statement logs itself, not in its body."""
    return (name for name, pattern in _names(module, statement) if not pattern)


def _names(module: Module, statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """The names that a statement logs itself, and the patterns of those with computed parts."""
    for node in _own_expressions(statement):
        for call in ast.walk(node):
            if module.flor_call(call) == "log":
                assert isinstance(call, ast.Call)
                name = string_argument(call, 0, "name")
                if name is not None:
                    yield name, ""
                elif (computed := _computed(argument(call, 0, "name"))) is not None:
                    yield computed


def _computed(name: ast.expr | None) -> tuple[str, str] | None:
    """An f-string with ``{}`` for what is computed, and as a pattern; None where no letter or digit
    is known."""
    if not isinstance(name, ast.JoinedStr):
        return None
    fixed = [str(p.value) if isinstance(p, ast.Constant) else None for p in name.values]
    if not any(character.isalnum() for part in fixed if part for character in part):
        return None
    pattern = "".join(".+" if part is None else re.escape(part) for part in fixed)
    return "".join("{}" if part is None else part for part in fixed), pattern


def _own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """A statement's expressions without the statements inside it."""
    if isinstance(statement, _DEFINITIONS):
        return
    for child in ast.iter_child_nodes(statement):
        if not isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield child


def _scope_text(visit: Visit) -> str:
    """The function that a statement stands in, or its module without functions and classes."""
    body = visit.function.body if visit.function is not None else visit.module.tree.body
    return "\n".join(ast.dump(node) for node in body if not isinstance(node, _DEFINITIONS))


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _digest(program: Program, statement: ast.stmt, around: str) -> str:
    needed = definitions(program, (name.lstrip(".") for name in names_read(statement)))
    text = "\n".join([around, *(ast.dump(node) for node in (statement, *needed))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_MOST_TREES = 8


@dataclass
class _Known:
    """What was last found in a working tree."""

    tree: SourceTree
    sources: Mapping[str, str] | None = None
    statements: tuple[LogStatement, ...] = ()


_known: dict[Path, _Known] = {}
_lock = threading.Lock()


def log_statements(root: Path) -> tuple[LogStatement, ...]:
    """The log statements of the working tree's code, whether or not it is committed.

    Read anew where a file has changed since the last call.
    """
    with _lock:
        known = _known.pop(root, None) or _Known(SourceTree(root))
        while len(_known) >= _MOST_TREES:
            _known.pop(next(iter(_known)))
        _known[root] = known
        sources = known.tree.read()
        if sources != known.sources:
            known.statements = statements_in(sources)
            known.sources = sources
        return known.statements
