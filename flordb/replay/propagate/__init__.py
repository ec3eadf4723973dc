"""Puts log statements of a newer version into the code of an older one, or says why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flordb.replay.propagate.matcher import Matcher
from flordb.replay.propagate.merge import merge
from flordb.replay.propagate.model import Insertion, Patch, Refusal, Site

__all__ = [
    "Insertion",
    "Matcher",
    "Patch",
    "Refusal",
    "Site",
    "merge",
    "propagate",
    "propagate_all",
    "propagate_source",
]


def propagate(
    old: Mapping[str, str],
    new: Mapping[str, str],
    site: Site,
    *,
    at: tuple[str, int] | None = None,
) -> Patch | Refusal:
    """Put the statement at ``site`` of the newer version into the older one.

    Parameters: ``old`` and ``new``, path to text of the Python modules of each version that the
    run's script imports, the script included; ``at``, the user's own choice of place, a file and
    a line of the older version: before the statement that begins there, else after the one above
    it. The answer is a `Patch`, or a `Refusal` that says what is missing.
    """
    return Matcher(old, new).propagate(site, at=at)


def propagate_all(
    old: Mapping[str, str], new: Mapping[str, str], sites: Sequence[Site]
) -> tuple[Patch | Refusal, ...]:
    """An answer for each of several statements of one pair of versions, which are matched once."""
    matcher = Matcher(old, new)
    return tuple(matcher.propagate(site) for site in sites)


def propagate_source(old: str, new: str, lineno: int) -> Patch | Refusal:
    """Put the statement that begins on a line of one source into an older text of it.

    The statement goes alone: where it would need code that only the newer text has, this refuses.
    """
    matcher = Matcher({"source.py": old}, {"source.py": new}, support=False)
    return matcher.propagate(Site("source.py", lineno))
