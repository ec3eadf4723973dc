"""A source text as a tree of statements: each with its words, its block and its place in the text.

Blocks are the lists of statements that a compound statement holds. A *slot* is a place in a block
where a line can be put; some blocks and places have none (a body on its header's line, an `elif`).
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate

from flordb.replay.propagate.flor import FlorNames, flor_names
from flordb.replay.propagate.tokens import shape_of, words_of

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)
Words = tuple[str, ...]
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


@dataclass(eq=False)
class Unit:
    """One statement, or the whole module (whose ``block`` is None)."""

    node: ast.AST
    source: Source
    block: Block | None
    index: int
    words: Words
    blocks: list[Block] = field(default_factory=list)

    @property
    def parent(self) -> Unit | None:
        """The compound statement (or module) that holds this one."""
        return self.block.owner if self.block is not None else None

    @cached_property
    def shape(self) -> Words:
        """The words without the names of variables."""
        return shape_of(self.words)

    @cached_property
    def bag(self) -> Counter[str]:
        """How often each word occurs."""
        return Counter(self.words)

    @cached_property
    def kind(self) -> str:
        """The kind of statement, the same for variants that stand for each other."""
        name = type(self.node).__name__
        return _KINDS.get(name, name)

    @cached_property
    def scope(self) -> Unit:
        """The function that holds this statement, or the module."""
        unit = self.parent or self
        while unit.block is not None and not isinstance(unit.node, FUNCTIONS):
            unit = unit.block.owner
        return unit

    @cached_property
    def below(self) -> Counter[Words]:
        """The words of all statements inside this one."""
        return Counter(unit.words for unit in self.inside())

    @cached_property
    def whole_bag(self) -> Counter[str]:
        """How often each word occurs in the statement and in all inside it."""
        return sum((unit.bag for unit in self.inside()), self.bag)

    @cached_property
    def below_shapes(self) -> Counter[Words]:
        """The shapes of all statements inside this one."""
        return Counter(unit.shape for unit in self.inside())

    @property
    def first(self) -> int:
        """Its first line, decorators included."""
        decorators = getattr(self.node, "decorator_list", [])
        first: int = min([self.lineno, *(d.lineno for d in decorators)])
        return first

    @property
    def lineno(self) -> int:
        """The line of the statement itself."""
        line: int = getattr(self.node, "lineno", 1)
        return line

    @property
    def last(self) -> int:
        """Its last line."""
        last: int | None = getattr(self.node, "end_lineno", None)
        return last or len(self.source.lines)

    def inside(self) -> Iterator[Unit]:
        """The statements inside this one, in the order of the text."""
        for block in self.blocks:
            for unit in block.units:
                yield unit
                yield from unit.inside()

    def above(self) -> Iterator[Unit]:
        """The compound statements round this one, innermost first, the module last."""
        unit = self.parent
        while unit is not None:
            yield unit
            unit = unit.parent


@dataclass(eq=False)
class Block:
    """A list of statements and the statement that holds it."""

    owner: Unit
    part: str
    units: list[Unit] = field(default_factory=list)

    @property
    def statements(self) -> list[ast.stmt]:
        """Python's own list of the block's statements."""
        return next(own for part, own in blocks_of(self.owner.node) if part == self.part)

    @property
    def scope(self) -> Unit:
        """The function that the block belongs to, or the module."""
        if self.owner.block is None or isinstance(self.owner.node, FUNCTIONS):
            return self.owner
        return self.owner.scope

    def has_slot(self, index: int) -> bool:
        """Whether a line can be put before statement ``index`` and all else stay as it is."""
        units = self.units
        if self._on_header_line() or self._is_elif():
            return False
        if index < self.lowest:
            return False
        return not (0 < index < len(units) and units[index - 1].last >= units[index].first)

    @cached_property
    def lowest(self) -> int:
        """The first index below the docstring and the imports from __future__."""
        index = 0
        if self.units and self.part == "body" and _has_docstring(self.owner.node):
            index = 1
        while index < len(self.units):
            node = self.units[index].node
            if not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
                break
            index += 1
        return index

    @property
    def indent(self) -> str:
        """The white space that begins its lines."""
        line = self.owner.source.lines[self.units[0].first - 1]
        return line[: len(line) - len(line.lstrip())]

    def _on_header_line(self) -> bool:
        if self.owner.block is None:
            return False
        line = self.owner.source.lines[self.units[0].first - 1].encode()
        return bool(line[: getattr(self.units[0].node, "col_offset", 0)].strip(b" \t\f@"))

    def _is_elif(self) -> bool:
        if self.part != "orelse" or not isinstance(self.owner.node, ast.If):
            return False
        head = self.units[0]
        line = self.owner.source.lines[head.lineno - 1].lstrip()
        return isinstance(head.node, ast.If) and line.startswith("elif")


@dataclass(eq=False)
class Source:
    """One parsed file."""

    path: str
    text: str
    tree: ast.Module
    lines: list[str]
    root: Unit = field(init=False)

    def __post_init__(self) -> None:
        self.root = Unit(self.tree, self, None, 0, ())
        _grow(self.root, self)

    @cached_property
    def units(self) -> list[Unit]:
        """All statements in the order of the text."""
        return list(self.root.inside())

    @cached_property
    def starts(self) -> list[int]:
        """Where each line begins, in bytes: the columns of Python's nodes count bytes."""
        sizes = [len(line.encode()) for line in self.lines]
        return [0, *accumulate(sizes)]

    @cached_property
    def flor(self) -> FlorNames:
        """How the file names flor."""
        return flor_names(self.tree)

    @cached_property
    def has_star_import(self) -> bool:
        """Whether names may come from an import that does not say which."""
        return any(
            isinstance(unit.node, ast.ImportFrom) and any(a.name == "*" for a in unit.node.names)
            for unit in self.units
        )

    def beginning_at(self, lineno: int) -> Unit | None:
        """The outermost statement that begins on a line."""
        return next((unit for unit in self.units if unit.lineno == lineno), None)


@lru_cache(maxsize=256)
def read_source(path: str, text: str) -> Source:
    """Parse a file, once for each text. Raises SyntaxError or ValueError where it is no Python."""
    return Source(path, text, ast.parse(text, path), split_lines(text))


def split_lines(text: str) -> list[str]:
    """The lines with their ends, split where Python's parser splits them."""
    return _LINE.findall(text)


def blocks_of(node: ast.AST) -> Iterator[tuple[str, list[ast.stmt]]]:
    """(name, statements) of each block that a node holds."""
    for name in ("body", "handlers", "cases", "orelse", "finalbody"):
        value = getattr(node, name, None)
        if not isinstance(value, list) or not value:
            continue
        if name in ("handlers", "cases"):
            for position, part in enumerate(value):
                yield f"{name}{position}", part.body
        elif isinstance(value[0], ast.stmt):
            yield name, value


def _grow(owner: Unit, source: Source) -> None:
    for name, statements in blocks_of(owner.node):
        block = Block(owner, name)
        owner.blocks.append(block)
        for index, node in enumerate(statements):
            unit = Unit(node, source, block, index, words_of(node))
            block.units.append(unit)
            _grow(unit, source)


def _has_docstring(node: ast.AST) -> bool:
    if not isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)):
        return False
    return ast.get_docstring(node, clean=False) is not None


_KINDS = {
    "AsyncFunctionDef": "FunctionDef",
    "AsyncFor": "For",
    "AsyncWith": "With",
    "TryStar": "Try",
    "AnnAssign": "Assign",
    "AugAssign": "Assign",
}
