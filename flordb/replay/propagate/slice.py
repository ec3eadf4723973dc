"""The new code round a log statement that its value comes from: what goes with it, as one piece.

    net.eval()
    with torch.no_grad():
        right = 0
        for x, y in loader:
            right += (net(x).argmax(1) == y).sum().item()
    flor.log("accuracy", right / len(loader.dataset))
    net.train()

Where only the newer version has all this, the piece (a backward slice, Weiser 1981) is the log
statement, the new blocks round it, and of the new statements in and right before these the ones
that compute what it reads or set the mode of a module that it runs. What the piece binds is its
own: it gets names that the older version does not have. A piece that would change anything else
is refused.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from flordb.replay.propagate.draft import Draft, guard_of
from flordb.replay.propagate.effects import (
    effect_beside,
    effect_of_piece,
    is_in_place,
    sets_context,
)
from flordb.replay.propagate.flor import loop_name
from flordb.replay.propagate.flow import Bound, how_bound
from flordb.replay.propagate.match import Matching
from flordb.replay.propagate.model import Refused
from flordb.replay.propagate.modes import Modes, receiver, run_by
from flordb.replay.propagate.names import binds, changes, header, reads
from flordb.replay.propagate.rename import Renamer
from flordb.replay.propagate.units import FUNCTIONS, LOOPS, Block, Source, Unit, read_source

_PLAIN = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr)
_LEAVES = (ast.Break, ast.Continue)


def sliced(draft: Draft, matching: Matching, old: Mapping[str, Source]) -> Draft | None:
    """The draft with the new code that its value comes from; None where it needs none.

    Parameters: ``old``, the older version's files, whose names the piece leaves alone. Raises
    Refused where the piece would change what is not its own.
    """
    slicer = _Slicer(draft, matching, old)
    body = slicer.body()
    if body is None:
        return None
    piece = ast.Module(body, [])
    return Draft(draft.statement, slicer.outer, slicer.with_own_names(piece))


class _Slicer:
    def __init__(self, draft: Draft, matching: Matching, old: Mapping[str, Source]) -> None:
        self._draft, self._matching, self._old = draft, matching, old
        self._owners = list(self._new_blocks())
        self.outer = self._owners[-1].owner if self._owners else draft.unit
        assert self.outer.block is not None
        self._before = self._new_before()
        self._own = self._defined_here()
        self._modes = Modes(draft.unit.source, matching)
        self._wanted: set[str] = set()
        self._dropped: dict[Unit, None] = {}
        self._kept = False

    def body(self) -> list[ast.stmt] | None:
        """The statements of the piece, in order."""
        found: list[ast.stmt] = []
        before = -1
        while before != len(self._wanted):
            before, self._kept = len(self._wanted), False
            self._dropped = {}
            found = self._once()
        self._check_new_values()
        self._check_dropped()
        first = self._before[0] if self._before else self.outer
        modes = self._modes.set_earlier(found, first)
        if not (self._kept or modes):
            return None
        return [*modes, *found]

    def with_own_names(self, piece: ast.Module) -> ast.Module:
        """The piece with names for what it binds that the older version does not have."""
        bound = binds(piece)
        _check_bound(piece, bound)
        effect = effect_of_piece(piece, bound, self._draft.node)
        if effect is not None:
            raise Refused(
                f"what line {self._line} logs is computed by new code that acts: {effect}"
            )
        taken = self._their_words
        known = taken | {word for unit in self._draft.unit.source.units for word in unit.words}
        table: dict[str, str] = {}
        for name in sorted(bound & taken):
            own = "_" + name
            while own in known or own in table.values():
                own = "_" + own
            table[name] = own
        if table and any(_rebinds(part, set(table)) for part in ast.walk(piece)):
            raise Refused(f"{sorted(table)[0]} means two things in what line {self._line} logs")
        renamed = Renamer(table).visit(copy.deepcopy(piece)) if table else piece
        assert isinstance(renamed, ast.Module)
        return renamed

    @cached_property
    def _their_words(self) -> set[str]:
        return {word for source in self._old.values() for u in source.units for word in u.words}

    @property
    def _line(self) -> int:
        return self._draft.unit.lineno

    def _new_blocks(self) -> Iterator[Block]:
        """The blocks round the statement, innermost first, that only the newer version has."""
        unit = self._draft.unit
        while unit.block is not None and self._is_new(unit.block.owner):
            block, node = unit.block, unit.block.owner.node
            plain = isinstance(node, (ast.If, ast.With, ast.For, ast.Try))
            inner = isinstance(node, ast.If) or block.part == "body"
            if not plain or not inner or loop_name(node) is not None:
                return
            yield block
            unit = block.owner

    def _is_new(self, unit: Unit) -> bool:
        return unit.block is not None and self._matching.is_new(unit)

    def _new_before(self) -> list[Unit]:
        """The statements right before the piece, as far as only the newer version has them."""
        assert self.outer.block is not None
        found: list[Unit] = []
        for unit in reversed(self.outer.block.units[: self.outer.index]):
            if not self._is_new(unit):
                break
            found.insert(0, unit)
        return found

    def _defined_here(self) -> set[str]:
        """The names that the new code gives a value of its own before anything reads it.

        A name that the older version alone gives a value elsewhere is that version's: the newer
        one computes it in another way.
        """
        found: set[str] = set()
        read: set[str] = set()
        for unit in self._before:
            for part in (unit, *unit.inside()):
                read |= reads(header(part.node))
                found |= binds(header(part.node)) - read - self._bound_by_them_alone
        for part in self.outer.inside() if self._owners else ():
            read |= reads(header(part.node))
            found |= binds(header(part.node)) - (read - found)
        for block in self._owners:
            found |= binds(header(block.owner.node))
        return found

    def _check_new_values(self) -> None:
        """Raise Refused where new code right before gives what is read another value.

        It may belong to the training, or to what is logged: only the user knows.
        """
        assert self.outer.block is not None
        names = (self._wanted - self._own) & self._their_words
        for unit in reversed(self.outer.block.units[: self.outer.index]):
            if self._is_new(unit):
                for name in sorted((binds(unit.node) | _changed_in_place(unit.node)) & names):
                    if name not in self._bound_by_them_alone:
                        raise Refused(
                            f"line {unit.lineno} gives `{name}` a value that the older version "
                            "does not: if that is what you log, give it a name of its own"
                        )
            elif unit in self._matching.to_old:
                names = names - binds(unit.node)

    def _check_dropped(self) -> None:
        """Raise Refused where a new loop does more than compute what is logged: it may train."""
        for unit in self._dropped:
            effect = effect_beside(unit.node, self._draft.statement.flor.function_of)
            if effect is not None:
                raise Refused(
                    f"the new loop round line {unit.lineno} does more than compute what is "
                    f"logged: {effect}"
                )

    @cached_property
    def _bound_by_them_alone(self) -> set[str]:
        """The names that statements which only the older version has give a value."""
        return {
            name
            for source in self._old.values()
            for unit in source.units
            if unit not in self._matching.to_new and not unit.blocks
            for name in binds(unit.node)
        }

    def _once(self) -> list[ast.stmt]:
        """The piece for what is wanted so far; adds to what is wanted."""
        node = self._draft.node
        assert isinstance(node, ast.stmt)
        self._wanted |= reads(node)
        piece: list[ast.stmt] = [node]
        unit = self._draft.unit
        for block in self._owners:
            loop = isinstance(block.owner.node, LOOPS)
            after = block.units[unit.index + 1 :] if loop else []
            behind = self._keep_all(after, loop)
            piece = [*self._keep_all(block.units[: unit.index], loop), *piece, *behind]
            piece = self._inside(block, piece)
            unit = block.owner
        return [*self._keep_all(self._before, False), *piece]

    def _inside(self, block: Block, body: list[ast.stmt]) -> list[ast.stmt]:
        """Statements inside the header of the new block round them."""
        node = block.owner.node
        if isinstance(node, ast.If):
            test = guard_of(block)
            self._wanted |= reads(test)
            return [ast.If(test, body, [])]
        if isinstance(node, ast.For):
            self._kept = True
            self._wanted |= reads(node.iter)
            return [_like(node, body)]
        if isinstance(node, ast.With) and sets_context(node):
            self._kept = True
            self._wanted |= reads(header(node))
            return [_like(node, body)]
        return body

    def _keep_all(self, units: Sequence[Unit], in_loop: bool) -> list[ast.stmt]:
        """What is needed of some statements, looked at from the last one back."""
        found: list[ast.stmt] = []
        for unit in reversed(units):
            kept = self._keep(unit, in_loop)
            if in_loop and not kept:
                self._dropped[unit] = None
            found = kept + found
        return found

    def _keep(self, unit: Unit, in_loop: bool) -> list[ast.stmt]:
        node = unit.node
        if in_loop and isinstance(node, _LEAVES):
            return [node]
        if not unit.blocks:
            wanted = isinstance(node, _PLAIN) and self._matters(node)
            return self._take(node) if wanted and isinstance(node, ast.stmt) else []
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            return self._take(node) if node.name in self._wanted & self._own else []
        if isinstance(node, (ast.If, ast.With, *LOOPS)):
            return self._keep_compound(unit, in_loop)
        if any(self._matters(part.node) for part in unit.inside() if not part.blocks):
            assert isinstance(node, ast.stmt)
            return self._take(node)
        return []

    def _keep_compound(self, unit: Unit, in_loop: bool) -> list[ast.stmt]:
        node = unit.node
        inner = isinstance(node, LOOPS) or in_loop
        dropped = dict(self._dropped)
        parts = {block.part: self._keep_all(block.units, inner) for block in unit.blocks}
        leaves = isinstance(node, LOOPS) and all(
            isinstance(s, _LEAVES) for part in parts.values() for s in part
        )
        binds_wanted = binds(header(node)) & self._wanted & self._own
        if (leaves and not binds_wanted) or not any(parts.values()):
            self._dropped = dropped
            return []
        if isinstance(node, ast.With) and not sets_context(node) and not binds_wanted:
            return parts["body"]
        if loop_name(node) is not None:
            raise Refused(f"line {unit.lineno} is a loop of flor's that only the newer version has")
        self._wanted |= reads(header(node))
        self._kept = True
        return [_like(node, parts.get("body") or [ast.Pass()], parts.get("orelse", []))]

    def _take(self, node: ast.stmt) -> list[ast.stmt]:
        self._kept = True
        self._wanted |= reads(node)
        return [node]

    def _matters(self, node: ast.AST) -> bool:
        """Whether a statement computes what is wanted, or sets the mode of what is run."""
        if isinstance(node, ast.Expr) and self._modes.sets_one(node):
            return receiver(node) in self._run
        return bool(changes(node) & self._wanted & self._own)

    @cached_property
    def _run(self) -> set[str]:
        """The modules that the statement, or new code that it may take along, runs."""
        nodes = [self._draft.node, *(unit.node for unit in self._before)]
        nodes += [self.outer.node] if self._owners else []
        return run_by(nodes)


def _like(
    node: ast.AST, body: Sequence[ast.stmt], orelse: Sequence[ast.stmt] = ()
) -> ast.If | ast.For | ast.With | ast.While:
    """A compound statement with the same header and other blocks."""
    new: ast.If | ast.For | ast.With | ast.While
    if isinstance(node, ast.If):
        new = ast.If(node.test, list(body), list(orelse))
    elif isinstance(node, ast.For):
        new = ast.For(node.target, node.iter, list(body), list(orelse))
    elif isinstance(node, ast.While):
        new = ast.While(node.test, list(body), list(orelse))
    else:
        assert isinstance(node, ast.With), ast.dump(node)
        new = ast.With(node.items, list(body))
    return ast.copy_location(new, node)


def _changed_in_place(node: ast.AST) -> set[str]:
    """The variables into which a statement stores an item, or whose tensor it changes in place."""
    found: set[str] = set()
    for part in ast.walk(node):
        target: ast.expr | None = None
        if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Store):
            target = part.value
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            target = part.func.value if is_in_place(part.func.attr) else None
        found |= {target.id} if isinstance(target, ast.Name) else set()
    return found


def _rebinds(node: ast.AST, names: set[str]) -> bool:
    """Whether a name means something else inside a part of the piece, or cannot be renamed."""
    if isinstance(node, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
        inner = {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)} | binds(node)
        body = node.body if isinstance(node.body, list) else [node.body]
        return bool((inner | {n for part in body for n in binds(part)}) & names)
    if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        return any(binds(g.target) & names for g in node.generators)
    return isinstance(node, (ast.alias, ast.ExceptHandler)) and bool(binds(node) & names)


def _check_bound(piece: ast.Module, bound: set[str]) -> None:
    """Raise Refused where the piece reads a name before it gives it a value: that changes X's."""
    lines = ast.unparse(piece).splitlines()
    text = "def piece():\n" + "".join(f"    {line}\n" for line in lines)
    for unit in read_source("piece.py", text).units:
        if unit.block is None or isinstance(unit.node, FUNCTIONS):
            continue
        for name in sorted(reads(header(unit.node)) & bound):
            if how_bound(name, unit.block, unit.index) is not Bound.ALWAYS:
                raise Refused(
                    f"new code changes `{name}`, from which the value is computed, step by step"
                )
