"""Whether a slot keeps to the flow of the newer version: loops, definitions and uses.

A slot that its neighbours name may still be one where the statement would run another number of
times, before what it reads is computed, or behind what reads its result. Then it is refused.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from itertools import takewhile

from flordb.replay.propagate.flow import Bound, how_bound
from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.model import Refused
from flordb.replay.propagate.names import header, reads, stores
from flordb.replay.propagate.place import Place
from flordb.replay.propagate.units import FUNCTIONS, LOOPS, Block, Unit


def same_loops(unit: Unit, place: Place, matching: Matching) -> None:
    """Check that the slot is in the loops that the statement is in, where both versions have them.

    What counts is what stands between the slot and the innermost statement that is round the slot
    and round the site, for what is inside that one moved with it. A loop that only the older
    version has is entered only where neighbours on both sides are in it.
    """
    block = place.block
    mine, theirs = _loops_apart(unit, block, matching)
    for loop in mine:
        other = matching.to_old.get(loop)
        if other is not None and other.scope is block.scope:
            raise Refused(f"its neighbours are outside the loop of line {other.lineno}")
    alone = len({witness.before for witness in place.witnesses}) < 2
    for loop in theirs:
        other = matching.to_new.get(loop)
        if other is not None and other.scope is unit.scope:
            raise Refused(f"its neighbours are inside the loop of line {loop.lineno}")
        if other is None and alone and len(theirs) > len(mine):
            raise Refused(f"only the older version has the loop of line {loop.lineno}")


def _loops_apart(unit: Unit, block: Block, matching: Matching) -> tuple[list[Unit], list[Unit]]:
    """The loops of the newer version round the site, and of the older one round a slot, as far out
    as the innermost statement that is round both."""
    around = {matching.to_old.get(owner) for owner in unit.above()}
    theirs = list(takewhile(lambda owner: owner not in around, _round(block)))
    common = theirs[-1].parent if theirs else block.owner
    mine = takewhile(lambda u: common is None or matching.to_old.get(u) is not common, unit.above())
    return _loops(mine, unit.scope), _loops(theirs, block.scope)


def _round(block: Block) -> Iterator[Unit]:
    yield block.owner
    yield from block.owner.above()


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


def sure_to_reach(name: str, unit: Unit) -> bool:
    """Whether the newer version never comes to a use of a name without a value for it."""
    return all(_has(name, use) for use in _uses(name, unit.scope))


def before_uses(bound: Iterable[str], block: Block, index: int) -> tuple[Block, int]:
    """The slot itself, or the nearest one further out from which what is bound reaches its uses.

    A use counts where the older version may come to it without the name bound. Raises Refused
    where there is no such slot.
    """
    for name in sorted(bound):
        uses = [use for use in _uses(name, block.scope) if not _has(name, use)]
        while not _all_have(name, uses, block, index):
            owner = block.owner
            if owner.block is None or owner is block.scope:
                line = uses[0].lineno
                raise Refused(f"line {line} of {owner.source.path} reads `{name}` before it")
            block, index = owner.block, owner.index + 1
    return block, index


def _uses(name: str, scope: Unit) -> list[Unit]:
    """The statements of a function that read a name, functions inside it left out."""
    own = (u for u in scope.inside() if u.scope is scope and not isinstance(u.node, FUNCTIONS))
    return [u for u in own if name in u.words and name in reads(header(u.node))]


def _has(name: str, use: Unit) -> bool:
    return use.block is not None and how_bound(name, use.block, use.index) is Bound.ALWAYS


def _all_have(name: str, uses: list[Unit], block: Block, index: int) -> bool:
    """Whether the name is bound at all uses once a slot binds it."""
    statements = block.statements
    statements.insert(index, ast.Assign([ast.Name(name, ast.Store())], ast.Constant(None)))
    try:
        return all(_has(name, use) or _is_behind(use, block, index) for use in uses)
    finally:
        del statements[index]


def _is_behind(use: Unit, block: Block, index: int) -> bool:
    return any(unit.block is block and unit.index >= index for unit in (use, *use.above()))


def _loops(owners: Iterable[Unit], scope: Unit) -> list[Unit]:
    """Those of the statements round a block that are loops inside its function."""
    inside = takewhile(lambda owner: owner is not scope, owners)
    return [owner for owner in inside if isinstance(owner.node, LOOPS)]
