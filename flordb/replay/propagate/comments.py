"""The comments that stand beside a statement in both versions: they stay when code changes.

Only whole lines count, with some words in them, that both files have once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from flordb.replay.propagate.units import Block, Source, Unit

_WORDS = re.compile(r"[A-Za-z]{2,}")
_LEAST_LETTERS = 5


@dataclass(frozen=True)
class Gap:
    """Where a comment stands: before statement ``index`` of ``block``, which may be past its end.

    ``above``: in the newer version it stands above the statement that is asked for.
    """

    block: Block
    index: int
    above: bool


def beside(unit: Unit, old: Sequence[Source]) -> Iterator[Gap]:
    """The gaps of the older version that hold the comments round a statement, nearest first."""
    mine = _places(unit.source)
    for above in (True, False):
        for number in _lines(unit, above):
            text = _text(unit.source.lines[number - 1])
            theirs = [(s, line) for s in old for line in _places(s).get(text or "", ())]
            if text is not None and len(mine[text]) == 1 == len(theirs):
                gap = gap_at(*theirs[0])
                if gap is not None:
                    yield Gap(*gap, above)


def gap_at(source: Source, number: int) -> tuple[Block, int] | None:
    """The slot that a line between statements stands in, by its place and its indentation."""
    if not source.root.blocks:
        return None
    line = source.lines[number - 1]
    indent = line[: len(line) - len(line.lstrip())]
    block = source.root.blocks[0]
    while True:
        index = sum(unit.first <= number for unit in block.units)
        holder = block.units[index - 1] if index else None
        if holder is None or not holder.blocks or len(indent) <= len(block.indent):
            return block, index
        if holder.last >= number and holder.blocks[0].units[0].first > number:
            return holder.blocks[0], 0
        block = [b for b in holder.blocks if b.units[0].first <= number][-1]


def _lines(unit: Unit, above: bool) -> Iterator[int]:
    """The comment lines between a statement and the next code above or below, nearest first."""
    source, step = unit.source, -1 if above else 1
    number = unit.first - 1 if above else unit.last + 1
    indent = unit.block.indent if unit.block is not None else ""
    while 0 < number <= len(source.lines):
        line = source.lines[number - 1]
        if line.strip() and not line.strip().startswith("#"):
            return
        if line.strip() and line.startswith(indent + "#"):
            yield number
        number += step


@lru_cache(maxsize=256)
def _places(source: Source) -> dict[str, list[int]]:
    """The lines on which each comment stands."""
    found: dict[str, list[int]] = {}
    inside = {line for u in source.units if not u.blocks for line in range(u.first, u.last + 1)}
    for number, line in enumerate(source.lines, 1):
        text = _text(line)
        if text is not None and number not in inside:
            found.setdefault(text, []).append(number)
    return found


def _text(line: str) -> str | None:
    """What a comment line says, or None where it is none or says nothing."""
    text = line.strip()
    if not text.startswith("#"):
        return None
    words = _WORDS.findall(text)
    return " ".join(words) if sum(map(len, words)) >= _LEAST_LETTERS else None
