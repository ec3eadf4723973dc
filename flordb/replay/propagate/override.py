"""The user's own choice of place: a line of the older version."""

from __future__ import annotations

from collections.abc import Mapping

from flordb.replay.propagate.model import Refused
from flordb.replay.propagate.place import Place
from flordb.replay.propagate.units import Source, Unit


def place_at(old: Mapping[str, Source], at: tuple[str, int]) -> Place:
    """The slot for a line: before the statement that begins there, else after the one above it.

    Above means: the innermost of the statements that begin before the line and end last. Raises
    Refused where there is no such file or the line is above all statements.
    """
    path, line = at
    if path not in old:
        raise Refused(f"the older version has no file {path}, or it is no Python")
    units = old[path].units
    here = next((unit for unit in units if unit.first == line), None)
    if here is not None:
        return _slot(here, here.index)
    above = [unit for unit in units if unit.first < line and (unit.last < line or not unit.blocks)]
    if not above:
        raise Refused(f"no statement stands on line {line} of {path} or above it")
    last = max(unit.last for unit in above)
    inner = [unit for unit in above if unit.last == last][-1]
    return _slot(inner, inner.index + 1)


def _slot(unit: Unit, index: int) -> Place:
    if unit.block is None:
        raise Refused("a module is no statement")
    return Place(unit.block, low=index, high=index, chosen=True)
