"""Puts the pivot of just the needed names where a statement says ``flor``."""

from __future__ import annotations

from collections.abc import Sequence

from flordb.query.facts import Columns
from flordb.query.needs import Needs
from flordb.query.statement import Reference


def spliced(
    text: str, changes: Sequence[tuple[Reference, str]], dropped: Sequence[tuple[int, int]] = ()
) -> str:
    """The text with each reference replaced; everything else stays, byte for byte.

    ``dropped``: places whose text is left out.
    """
    places = [(reference.start, reference.end, new) for reference, new in changes]
    for start, end, new in sorted([*places, *((*place, "") for place in dropped)], reverse=True):
        text = text[:start] + new + text[end:]
    return text


def relation_of(names: Sequence[str]) -> str:
    """The pivot as a call, which whoever reads a view or prepared statement binds anew."""
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
    return f"flor_pivot([{quoted}])"


def widened(reference: Reference, names: Sequence[str]) -> str:
    """All stored columns, and these, which have no value anywhere yet."""
    quoted = ", ".join('NULL::DOUBLE AS "' + name.replace('"', '""') + '"' for name in names)
    return f"(SELECT *, {quoted} FROM flor){alias_of(reference)}"


def alias_of(reference: Reference) -> str:
    """The name that the statement uses for a reference, as it follows a relation."""
    # DESCRIBE, SUMMARIZE, COPY and PIVOT take a relation, but no name for it.
    if reference.has_alias or reference.scope is None:
        return ""
    return f" AS {reference.alias}"


def pivot_names(needs: Needs, columns: Columns) -> list[str]:
    """The list for the pivot: the logged names, and loops that none of them stands in."""
    covered = {
        loop for name in needs.logged for nest in columns.stored.get(name, ()) for loop in nest
    }
    loops = [loop for loop in needs.loops if loop not in covered]
    return [*loops, *needs.logged]
