"""Functions that are called in one place only: there, a function is code that was moved out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

from flordb.replay.propagate.units import FUNCTIONS, Source, Unit


def single_call(function: Unit, sources: Iterable[Source]) -> Unit | None:
    """The one statement that mentions a function, or None where there are none or several."""
    name = getattr(function.node, "name", "")
    found = [unit for source in sources for unit in _mentions(source).get(name, ())]
    found = [unit for unit in found if unit is not function]
    return found[0] if len(found) == 1 else None


@lru_cache(maxsize=256)
def _mentions(source: Source) -> dict[str, list[Unit]]:
    """The statements that mention each of a file's names, variables and attributes alike."""
    found: dict[str, list[Unit]] = defaultdict(list)
    for unit in source.units:
        names = {word.lstrip(".") for word in unit.words if word[0] not in "=#<~"}
        if isinstance(unit.node, FUNCTIONS):
            names.discard(unit.node.name)
        for name in names:
            found[name].append(unit)
    return found
