"""The modes of modules (`net.eval()`): what sets them, and which modules a statement may run."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from flordb.replay.propagate.effects import is_mode_call, receivers_of_eval
from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.model import Refused
from flordb.replay.propagate.names import BUILTINS, READS_ONLY
from flordb.replay.propagate.units import FUNCTIONS, Source, Unit


class Modes:
    """The modes that the newer version sets. Parameters: its file, and the matching."""

    def __init__(self, source: Source, matching: Matching) -> None:
        self._modules = receivers_of_eval(source.tree)
        self._matching = matching

    def sets_one(self, node: ast.Expr) -> bool:
        """Whether a statement sets the mode of a module."""
        return is_mode_call(node) and receiver(node) in self._modules

    def set_earlier(self, piece: Sequence[ast.stmt], first: Unit) -> list[ast.stmt]:
        """The calls that set a mode in which the piece runs, where only the newer version has them.

        Parameters: ``first``, the statement of the newer version with which the piece begins.
        Raises Refused where another call in between may set the mode again.
        """
        set_here = {
            receiver(part)
            for node in piece
            for part in ast.walk(node)
            if isinstance(part, ast.Expr) and self.sets_one(part)
        }
        nodes = (self._last_set(text, first) for text in sorted(run_by(piece) - set_here))
        return [node for node in nodes if node is not None]

    def _last_set(self, text: str, unit: Unit) -> ast.stmt | None:
        """The last call before a statement that sets a module's mode, if only Y has it."""
        handed_on: int | None = None
        while unit.block is not None:
            for other in reversed(unit.block.units[: unit.index]):
                node = other.node
                if isinstance(node, ast.Expr) and self.sets_one(node):
                    if receiver(node) != text:
                        continue
                    if other in self._matching.to_old:
                        return None
                    if handed_on is not None:
                        raise Refused(
                            f"line {other.lineno} sets the mode of `{text}`, which the older "
                            f"version does not, and line {handed_on} may set it again"
                        )
                    return node
                if _hands_on(node, text):
                    handed_on = other.lineno
            unit = unit.block.owner
            if isinstance(unit.node, FUNCTIONS):
                break
        return None


def receiver(node: ast.Expr) -> str:
    """The text of the module whose mode a call sets."""
    call = node.value
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Attribute)
    return ast.unparse(call.func.value)


def run_by(nodes: Iterable[ast.AST]) -> set[str]:
    """The texts of what statements may run as a module."""
    return {text for node in nodes for text in _runs(node)}


def _runs(node: ast.AST) -> Iterator[str]:
    """What is called, given to a call, or of whom a method is called."""
    for part in ast.walk(node):
        if not isinstance(part, ast.Call) or is_mode_call(ast.Expr(part)):
            continue
        if isinstance(part.func, ast.Name) and part.func.id in BUILTINS:
            continue
        yield ast.unparse(part.func)
        if isinstance(part.func, ast.Attribute):
            if part.func.attr in READS_ONLY:
                continue
            yield ast.unparse(part.func.value)
        yield from (ast.unparse(a) for a in part.args if isinstance(a, (ast.Name, ast.Attribute)))


def _hands_on(node: ast.AST, text: str) -> bool:
    """Whether a statement gives a module to a function, which may set its mode."""
    return any(
        isinstance(part, ast.Call)
        and not is_mode_call(ast.Expr(part))
        and any(ast.unparse(a) == text for a in (*part.args, *(k.value for k in part.keywords)))
        for part in ast.walk(node)
    )
