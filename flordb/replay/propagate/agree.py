"""Whether a slot keeps to the flow of the newer version: loops, definitions and uses.

A slot that its neighbours name may still be one where the statement would run another number of
times, before what it reads is computed, or behind what reads its result. Then it is refused.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from flordb.replay.propagate.flow import Bound, how_bound
from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.model import Refused
from flordb.replay.propagate.names import reads, stores
from flordb.replay.propagate.place import Place
from flordb.replay.propagate.units import FUNCTIONS, LOOPS, Block, Unit


def same_loops(unit: Unit, place: Place, matching: Matching) -> None:
    """Check that the slot is in the loops that the statement is in, where both versions have them.

    A loop that only the older version has is entered only where neighbours on both sides are in it.
    """
    block = place.block
    mine, theirs = _loops(unit.parent, unit.scope), _loops(block.owner, block.scope)
    for loop in mine:
        other = matching.to_old.get(loop)
        if other is not None and other.scope is block.scope and other not in theirs:
            raise Refused(f"its neighbours are outside the loop of line {other.lineno}")
    alone = len({witness.before for witness in place.witnesses}) < 2
    for loop in theirs:
        other = matching.to_new.get(loop)
        if other is not None and other.scope is unit.scope and other not in mine:
            raise Refused(f"its neighbours are inside the loop of line {loop.lineno}")
        if other is None and alone and len(theirs) > len(mine):
            raise Refused(f"only the older version has the loop of line {loop.lineno}")


def after_definitions(
    before: Iterable[Unit], read: frozenset[str], matching: Matching, block: Block, line: int
) -> None:
    """Check that the slot comes after the last statement that gives a value to what is read.

    Parameters: ``before``, the newer version's statements before the site, nearest first; ``read``,
    what the statement reads there; ``line``, the slot's line in the older version.
    """
    for unit in before:
        if not stores(unit.node) & read:
            continue
        other = matching.to_old.get(unit)
        if other is not None and other.scope is block.scope and other.first >= line:
            raise Refused(
                f"line {other.lineno} of {block.owner.source.path}, which gives a value to what it "
                "reads, comes after its neighbours"
            )
        return


def before_uses(bound: Iterable[str], block: Block, index: int) -> tuple[Block, int]:
    """The slot itself, or the nearest one further out that all uses of what is bound come after.

    A use counts where nothing else in the older version binds the name on every way to it. Raises
    Refused where there is no such slot.
    """
    for name in sorted(bound):
        for use in block.scope.inside():
            inner = use.scope is not block.scope or isinstance(use.node, FUNCTIONS)
            if inner or name not in use.words or name not in reads(_header(use)):
                continue
            if use.block is None or how_bound(name, use.block, use.index) is Bound.ALWAYS:
                continue
            while not _comes_to(block, index, use):
                if block.owner.block is None or block.owner is block.scope:
                    raise Refused(
                        f"line {use.lineno} of {block.owner.source.path} reads `{name}` before it"
                    )
                block, index = block.owner.block, block.owner.index + 1
    return block, index


def _comes_to(block: Block, index: int, use: Unit) -> bool:
    """Whether all ways to ``use`` pass the slot: loops run, and equal tests turn out equal."""
    for unit in (use, *use.above()):
        if unit.block is block:
            return unit.index >= index
    owner = block.owner
    node = owner.node
    if owner.block is None or block.part != "body" or not _is_entered(owner, use):
        return False
    return not isinstance(node, FUNCTIONS) and _comes_to(owner.block, owner.index + 1, use)


def _is_entered(owner: Unit, use: Unit) -> bool:
    """Whether whoever comes to ``use`` from before ``owner`` has been in its body."""
    if isinstance(owner.node, (*LOOPS, ast.With, ast.AsyncWith)):
        return True
    same = (unit for unit in use.above() if unit.words == owner.words)
    return isinstance(owner.node, ast.If) and any(isinstance(u.node, ast.If) for u in same)


def _header(unit: Unit) -> ast.AST:
    """A statement without its blocks."""
    if not unit.blocks:
        return unit.node
    parts = [
        part
        for field in unit.node._fields
        if field not in ("body", "orelse", "finalbody", "handlers", "cases")
        for part in _as_list(getattr(unit.node, field))
        if isinstance(part, ast.expr)
    ]
    return ast.Tuple(parts, ast.Load())


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _loops(unit: Unit | None, scope: Unit) -> list[Unit]:
    """The loops round a block inside its function."""
    found = []
    while unit is not None and unit is not scope:
        if isinstance(unit.node, LOOPS):
            found.append(unit)
        unit = unit.parent
    return found
