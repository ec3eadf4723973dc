"""Which statement of the newer version is which statement of the older one.

The two phases of GumTree in the form that statements ask for. Downwards: modules by path,
definitions by name, then block by block, each pair of blocks aligned in order by how much their
statements are alike. Upwards: what is left and occurs once on both sides is the same statement
moved; the blocks it joins are aligned too, and compound statements whose insides are matched are
matched themselves. `flor.loop` and `flor.iteration` names are anchors in both.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from flordb.replay.propagate.align import anchors, most_alike, rising
from flordb.replay.propagate.calls import single_call
from flordb.replay.propagate.similar import LEAST, inside_alike, likeness
from flordb.replay.propagate.units import FUNCTIONS, LOOPS, Block, Source, Unit, Words

_DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
_MOST_CELLS = 6000
_WRAPPERS = (ast.With, ast.AsyncWith, ast.Try)
"""Statements that run what is inside them once."""
_HEADED = ("If", "For", "While")
_LAST_CHANCE = 0.5
"""How sure a pair is that nothing but its place speaks for."""
_LEAST_ALIKE = 2
"""The statements of two loops that must be alike, to know them by that alone."""
_REORDERED = 0.75
"""From this likeness on, two statements may be the same in another order,"""
_MARGIN = 0.2
"""if none of the others is nearly as much alike."""
_INSIDE = 0.3
"""The share of what is inside two statements that must be the same, to know them by that alone."""
_ROUNDS = 4
_TOLD = ("<Import>", "<ImportFrom>", "<If>", "<With>")
"""Statements that few words tell apart: imports, and what is known by what is inside it, too."""


class Matching:
    """Pairs of statements, one to one, with how sure each is.

    Parameters: the parsed files of both versions by path; ``hidden``, statements of the newer
    version that take no part (those whose place is asked for).
    """

    def __init__(
        self,
        old: Mapping[str, Source],
        new: Mapping[str, Source],
        hidden: Iterable[Unit] = (),
    ) -> None:
        self.to_old: dict[Unit, Unit] = {}
        self.to_new: dict[Unit, Unit] = {}
        self.sure: dict[Unit, float] = {}
        self.hidden = frozenset(hidden)
        self._aligned: dict[tuple[Block, Block], int] = {}
        self._known: dict[tuple[int, int], float] = {}
        self.moved_out = _moved_out(new, old) | _moved_out(old, new)
        self._match(old, new)

    def _match(self, old: Mapping[str, Source], new: Mapping[str, Source]) -> None:
        self._same_text(old, new)
        for path in new:
            if path in old:
                self._pair(new[path].root, old[path].root, 1.0)
        if len(old) == 1 == len(new) and not self.to_old:
            self._pair(next(iter(new.values())).root, next(iter(old.values())).root, 1.0)
        self._moved_files(old, new)
        for _ in range(_ROUNDS):
            before = len(self.to_old)
            self._definitions(old, new)
            self._moved_statements(old, new)
            self._joined()
            self._reordered(new)
            self._upwards(new)
            if len(self.to_old) == before:
                break

    def is_new(self, unit: Unit) -> bool:
        """Whether only the newer version has a statement, and everything inside it."""
        return unit not in self.to_old and not any(u in self.to_old for u in unit.inside())

    def likeness(self, new: Unit, old: Unit) -> float:
        """How much two statements are alike, remembered."""
        key = (id(new), id(old))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = likeness(new, old)
        return found

    def _pair(self, new: Unit, old: Unit, sure: float) -> None:
        """Match two statements and what is inside them."""
        self.to_old[new], self.to_new[old], self.sure[new] = old, new, sure
        theirs = {block.part: block for block in old.blocks}
        for block in new.blocks:
            if block.part in theirs:
                self.align(block, theirs[block.part])

    def align(self, new: Block, old: Block) -> None:
        """Match the statements of two blocks that are still free, between those matched already."""
        self._same_names(new, old)
        mine, theirs = self._in_order(new, old), self._in_order(old, new)
        places = {unit: index for index, unit in enumerate(theirs)}
        matched = [(i, self.to_old.get(unit)) for i, unit in enumerate(mine)]
        fixed = rising([(i, places[other]) for i, other in matched if other in places])
        at, there = 0, 0
        for i, j in [*fixed, (len(mine), len(theirs))]:
            self._fill(mine[at:i], theirs[there:j])
            at, there = i + 1, j + 1

    def _in_order(self, block: Block, other: Block, depth: int = 3) -> list[Unit]:
        """The statements of a block; before a call of a moved-out function, those of its body, and
        before a `with` or `try` that the other block has not, those inside it."""
        found: list[Unit] = []
        for unit in block.units:
            function = self.moved_out.get(unit)
            if function is not None and depth:
                found += self._in_order(function.blocks[0], other, depth - 1)
            elif depth and isinstance(unit.node, _WRAPPERS) and self._is_alone(unit, other):
                found += self._in_order(unit.blocks[0], other, depth - 1)
            found.append(unit)
        return found

    def _is_alone(self, wrapper: Unit, block: Block) -> bool:
        """Whether a block has no form of a statement of the other version."""
        if wrapper in self.to_old or wrapper in self.to_new:
            return False
        return not any(
            likeness(wrapper, unit) >= LEAST for unit in block.units if unit.kind == wrapper.kind
        )

    def _same_names(self, new: Block, old: Block) -> None:
        """Functions and classes are themselves by name, in whatever order they stand."""
        theirs: dict[tuple[str, str], Unit] = {}
        for unit in old.units:
            if isinstance(unit.node, _DEFINITIONS) and unit not in self.to_new:
                theirs.setdefault((unit.kind, unit.node.name), unit)
        for unit in new.units:
            if isinstance(unit.node, _DEFINITIONS) and unit not in self.to_old:
                match = theirs.pop((unit.kind, unit.node.name), None)
                if match is not None:
                    self._pair(unit, match, 1.0)

    def _fill(self, new: Sequence[Unit], old: Sequence[Unit]) -> None:
        """Match free statements in order, so that together they are most alike."""
        new = [u for u in new if u not in self.to_old and u not in self.hidden]
        old = [u for u in old if u not in self.to_new]
        while new and old and new[0].words == old[0].words and self._settle(new[0], old[0]):
            new, old = new[1:], old[1:]
        while new and old and new[-1].words == old[-1].words and self._settle(new[-1], old[-1]):
            new, old = new[:-1], old[:-1]
        if not new or not old:
            return
        if len(new) * len(old) > _MOST_CELLS:
            found = anchors(new, old, self.likeness)
            if found:
                at, there = 0, 0
                for i, j in found:
                    self._fill(new[at:i], old[there:j])
                    self._pair(new[i], old[j], 1.0)
                    at, there = i + 1, j + 1
                self._fill(new[at:], old[there:])
                return
        pairs = most_alike(new, old, self.likeness)
        for a, b in pairs:
            if a not in self.to_old and b not in self.to_new:
                self._pair(a, b, self.likeness(a, b))
        self._last_chance(new, old, pairs)

    def _last_chance(
        self, new: Sequence[Unit], old: Sequence[Unit], pairs: Sequence[tuple[Unit, Unit]]
    ) -> None:
        """Between two pairs, the only compound statement of a kind is the same on both sides,
        where the headers differ by names alone, or two loops hold much the same."""
        mine = {unit: i for i, unit in enumerate(new)}
        theirs = {unit: j for j, unit in enumerate(old)}
        at, there = 0, 0
        for i, j in [*((mine[a], theirs[b]) for a, b in pairs), (len(new), len(old))]:
            left = [u for u in new[at:i] if u.blocks and u not in self.to_old]
            right = [u for u in old[there:j] if u.blocks and u not in self.to_new]
            at, there = i + 1, j + 1
            for unit in left:
                same = [u for u in right if u.kind == unit.kind]
                alone = len(same) == 1 == sum(u.kind == unit.kind for u in left)
                if not alone or unit.kind not in _HEADED:
                    continue
                if unit.shape == same[0].shape or self._is_same_loop(unit, same[0]):
                    self._pair(unit, same[0], _LAST_CHANCE)

    def _is_same_loop(self, new: Unit, old: Unit) -> bool:
        """Whether a third of the statements of two loops are alike, in order."""
        if not isinstance(new.node, LOOPS):
            return False
        mine = [u for u in new.blocks[0].units if u not in self.hidden and u not in self.to_old]
        theirs = [u for u in old.blocks[0].units if u not in self.to_new]
        alike = len(most_alike(mine, theirs, self.likeness))
        return alike >= _LEAST_ALIKE and 3 * alike >= min(len(mine), len(theirs))

    def _settle(self, new: Unit, old: Unit) -> bool:
        """Match two statements with the same words at the edge, unless their insides disagree."""
        score = self.likeness(new, old)
        if score < 0.8:
            return False
        self._pair(new, old, score)
        return True

    def _same_text(self, old: Mapping[str, Source], new: Mapping[str, Source]) -> None:
        """A telling statement that occurs once in both versions is itself, wherever it stands."""
        mine, theirs = self._left(new, self.to_old), self._left(old, self.to_new)
        for words, units in mine.items():
            others = theirs.get(words, [])
            if len(units) == len(others) == 1 and _is_telling(units[0]):
                self._pair(units[0], others[0], 1.0)

    def _moved_files(self, old: Mapping[str, Source], new: Mapping[str, Source]) -> None:
        """Files that only one version has by that path are matched by what is in them."""
        mine = [s.root for p, s in new.items() if s.root not in self.to_old]
        theirs = [s.root for p, s in old.items() if s.root not in self.to_new]
        scored = [
            (inside_alike(a, b), i, j) for i, a in enumerate(mine) for j, b in enumerate(theirs)
        ]
        for score, i, j in sorted(scored, key=lambda s: -s[0]):
            if score > 0.5 and mine[i] not in self.to_old and theirs[j] not in self.to_new:
                self._pair(mine[i], theirs[j], score)

    def _definitions(self, old: Mapping[str, Source], new: Mapping[str, Source]) -> None:
        """Functions that moved or were renamed: by name and insides, the most alike first."""
        mine = _free_definitions(new, self.to_old)
        theirs = _free_definitions(old, self.to_new)
        scored = [
            (self.likeness(a, b), i, j)
            for i, a in enumerate(mine)
            for j, b in enumerate(theirs)
            if a.kind == b.kind and len(a.below) > 1
        ]
        for score, i, j in sorted(scored, key=lambda s: -s[0]):
            if score >= 0.6 and mine[i] not in self.to_old and theirs[j] not in self.to_new:
                self._pair(mine[i], theirs[j], score)

    def _moved_statements(self, old: Mapping[str, Source], new: Mapping[str, Source]) -> None:
        """Statements left over on both sides that occur once are the same ones, moved."""
        for renamed in (False, True):
            mine = self._left(new, self.to_old, renamed)
            theirs = self._left(old, self.to_new, renamed)
            for key, units in mine.items():
                others = theirs.get(key, [])
                if len(units) != 1 or len(others) != 1 or not _is_known_by(key, renamed):
                    continue
                unit, other = units[0], others[0]
                if unit in self.to_old or other in self.to_new:
                    continue
                if unit.blocks and self.likeness(unit, other) < 0.6:
                    continue
                self._pair(unit, other, 0.7 if renamed else 0.9)

    def _joined(self) -> None:
        """The blocks that matched statements join are aligned, those of most of them first."""
        joined: Counter[tuple[Block, Block]] = Counter(
            (unit.block, other.block)
            for unit, other in self.to_old.items()
            if unit.block is not None and other.block is not None
        )
        for pair, count in joined.most_common():
            if self._aligned.get(pair, 0) < count:
                self.align(*pair)
                self._aligned[pair] = count

    def _reordered(self, new: Mapping[str, Source]) -> None:
        """What is left over in two matched blocks and alike to one statement only is that one."""
        for owner in [u for s in new.values() for u in (s.root, *s.units) if u.blocks]:
            other = self.to_old.get(owner)
            theirs = {block.part: block for block in other.blocks} if other is not None else {}
            for block in owner.blocks:
                if block.part in theirs:
                    self._pair_by_likeness(block, theirs[block.part])

    def _pair_by_likeness(self, new: Block, old: Block) -> None:
        mine = [
            u for u in new.units if not u.blocks and u not in self.to_old and u not in self.hidden
        ]
        theirs = [u for u in old.units if not u.blocks and u not in self.to_new]
        if not mine or not theirs or len(mine) * len(theirs) > _MOST_CELLS:
            return
        table = [[self.likeness(a, b) for b in theirs] for a in mine]
        columns = list(zip(*table, strict=True))
        for i, row in enumerate(table):
            best = max(row)
            j = row.index(best)
            others = [*row[:j], *row[j + 1 :], *columns[j][:i], *columns[j][i + 1 :]]
            if best >= _REORDERED and best - max(others, default=0.0) >= _MARGIN:
                self._pair(mine[i], theirs[j], best)

    def _left(
        self, sources: Mapping[str, Source], done: Mapping[Unit, Unit], renamed: bool = False
    ) -> dict[Words, list[Unit]]:
        found: dict[Words, list[Unit]] = defaultdict(list)
        for source in sources.values():
            for unit in source.units:
                if unit not in done and unit not in self.hidden:
                    found[unit.shape if renamed else unit.words].append(unit)
        return found

    def _upwards(self, new: Mapping[str, Source]) -> None:
        """A compound statement whose inside is matched into one of its kind is that one."""
        for source in new.values():
            for unit in reversed(source.units):
                if not unit.blocks or unit in self.to_old:
                    continue
                votes: dict[Unit, int] = defaultdict(int)
                for child in (u for block in unit.blocks for u in block.units):
                    other = self.to_old.get(child)
                    if other is not None and other.parent is not None:
                        votes[other.parent] += 1
                for other, _ in sorted(votes.items(), key=lambda item: -item[1])[:1]:
                    fits = other.kind == unit.kind and other not in self.to_new
                    if fits and other.block is not None and self._insides_match(unit, other):
                        self._pair(unit, other, 0.7)

    def _insides_match(self, new: Unit, old: Unit) -> bool:
        """Whether enough of what is inside two statements is alike, or matched."""
        if inside_alike(new, old) > _INSIDE:
            return True
        mine, theirs = list(new.inside()), set(old.inside())
        common = sum(self.to_old.get(unit) in theirs for unit in mine)
        return 2 * common > _INSIDE * (len(mine) + len(theirs))


def _moved_out(mine: Mapping[str, Source], others: Mapping[str, Source]) -> dict[Unit, Unit]:
    """The only call of each function that just this version has: there, its body is run."""
    known = {name for source in others.values() for name in _function_names(source)}
    found: dict[Unit, Unit] = {}
    for source in mine.values():
        for unit in source.units:
            if isinstance(unit.node, FUNCTIONS) and unit.node.name not in known:
                call = single_call(unit, mine.values())
                if call is not None and unit not in call.above():
                    found[call] = unit
    return found


def _function_names(source: Source) -> set[str]:
    return {unit.node.name for unit in source.units if isinstance(unit.node, FUNCTIONS)}


def _is_known_by(key: Words, renamed: bool) -> bool:
    """Whether words (or a shape) that occur once are enough to know a statement again."""
    if not renamed:
        return len(key) >= 4 or key[0] in _TOLD
    return sum(word[0] in ".=#" for word in key) >= 1


def _is_telling(unit: Unit) -> bool:
    """Whether a statement says enough to be known by its words alone."""
    return not unit.blocks and sum(word[0] != "<" for word in unit.words) >= 3


def _free_definitions(sources: Mapping[str, Source], done: Mapping[Unit, Unit]) -> list[Unit]:
    return [
        unit
        for source in sources.values()
        for unit in source.units
        if isinstance(unit.node, _DEFINITIONS) and unit not in done
    ]
