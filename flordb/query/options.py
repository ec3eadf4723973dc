"""What may be set for a connection, or for one statement: ``acquire`` and ``budget``.

In SQL these are ``SET flor_acquire = 'never'``, ``SET flor_budget = '5 min'`` and ``RESET`` of
either, which then is again what the connection was made with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import duckdb

from flordb.query.errors import ProgrammingError, translate
from flordb.settings import Settings, seconds_of

ACQUIRE = ("auto", "always", "never")

_COMMENT = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
_ASSIGNMENT = re.compile(
    rf"{_COMMENT}(?:set\s+(?:(?:session|global|local)\s+)?flor_(?P<set>\w+)\s*(?:=|\bto\b)\s*"
    rf"(?P<value>'(?:[^']|'')*'|\"[^\"]*\"|[^\s;]+)"
    rf"|reset\s+(?:(?:session|global|local)\s+)?flor_(?P<reset>\w+)){_COMMENT};?{_COMMENT}",
    re.IGNORECASE | re.DOTALL,
)
_SHOW = re.compile(rf"{_COMMENT}show\s+flor_(acquire|budget){_COMMENT};?{_COMMENT}", re.I | re.S)


@dataclass(frozen=True)
class Assignment:
    """``SET flor_<name> = value``; ``value`` is None for RESET."""

    name: str
    value: str | None


def assignment(sql: str) -> Assignment | None:
    """What a statement sets, if it sets one of ours."""
    found = _ASSIGNMENT.fullmatch(sql)
    if found is None:
        return None
    if found["reset"]:
        return Assignment(found["reset"].lower(), None)
    text = found["value"]
    if text[0] in "'\"":
        text = text[1:-1].replace("''", "'")
    return Assignment(found["set"].lower(), None if text.lower() == "default" else text)


def shown(sql: str, settings: Settings) -> tuple[str, str] | None:
    """The name and the value that ``SHOW flor_budget`` and ``SHOW flor_acquire`` ask for."""
    found = _SHOW.fullmatch(sql)
    if found is None:
        return None
    if found[1].lower() == "budget":
        return "flor_budget", f"{settings.budget_seconds:g} s"
    return "flor_acquire", settings.acquire


def assigned(settings: Settings, first: Settings, what: Assignment) -> Settings:
    """The settings after an assignment; ``first`` are those that RESET goes back to.

    Raises ProgrammingError for an unknown name or value.
    """
    if what.name == "acquire":
        return with_options(settings, what.value or first.acquire, None)
    if what.name == "budget":
        value = first.budget_seconds if what.value is None else what.value
        return with_options(settings, None, value)
    text = (
        f'Catalog Error: unrecognized configuration parameter "flor_{what.name}"\n\n'
        "There are flor_acquire ('auto', 'always', 'never') and flor_budget (seconds, '5 min')."
    )
    raise translate(duckdb.CatalogException(text))


def with_options(settings: Settings, acquire: str | None, budget: str | float | None) -> Settings:
    """The settings with those that are not None. Raises ProgrammingError for a wrong value."""
    if acquire is not None:
        if acquire.lower() not in ACQUIRE:
            raise ProgrammingError(f"acquire = {acquire!r}: expected 'auto', 'always' or 'never'")
        settings = replace(settings, acquire=acquire.lower())
    if budget is not None:
        try:
            settings = replace(settings, budget_seconds=seconds_of(budget))
        except ValueError as error:
            raise ProgrammingError(f"budget: {error}") from None
    return settings
