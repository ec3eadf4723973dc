"""The checks that every patch passes: it is the insertion and nothing else, and it compiles."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from flordb.replay.propagate.model import Patch, Refused
from flordb.replay.propagate.units import split_lines


def check(old: Mapping[str, str], patch: Patch) -> Patch:
    """The patch itself. Raises Refused where it is more than an insertion, or no Python."""
    for path, text in patch.files.items():
        if path in old and without_insertions(patch, path) != _bare(old[path]):
            raise Refused(f"{path} cannot be patched by adding lines alone")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile(text, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise Refused(f"{path} would not compile with the statement in it: {error}") from None
    return patch


def without_insertions(patch: Patch, path: str) -> list[str]:
    """The lines of a patched file that were there before, without their ends."""
    added = {
        number
        for place in patch.insertions
        if place.file == path
        for number in range(place.first, place.last + 1)
    }
    lines = _bare(patch.files[path])
    return [line for number, line in enumerate(lines, 1) if number not in added]


def _bare(text: str) -> list[str]:
    return [line.rstrip("\r\n") for line in split_lines(text)]
