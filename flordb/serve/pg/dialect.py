"""What a client of PostgreSQL says to its session: transactions, settings, cursors, clean-up.

None of it reaches DuckDB. Everything else is a query, in which some words are DuckDB's others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from sqlglot.tokenizer_core import TokenType

from flordb.query.statement import tokens_of

_COMMENTS = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)+", re.DOTALL)
_OTHER_WORDS = re.compile(r"\bpublic\b|\bjsonb\b", re.IGNORECASE)
_NAME = r'(?:"((?:[^"]|"")+)"|([\w$]+))'


@dataclass(frozen=True)
class Command:
    """A statement to the session. ``kind`` says which, ``name`` and ``value`` what it is about,
    ``count`` how many rows (None: all) and ``way`` in which direction, ``hold`` whether a cursor
    outlives its transaction, ``scrolls`` whether it goes backward too."""

    kind: str
    name: str = ""
    value: str = ""
    count: int | None = None
    tag: str = ""
    hold: bool = False
    way: str = "forward"
    scrolls: bool = False


def command_of(sql: str) -> Command | None:
    """The command that a statement is, or None for a query."""
    text = _COMMENTS.sub(" ", sql, count=1).strip() if _COMMENTS.match(sql) else sql.strip()
    word = re.match(r"[a-z]+", text, re.IGNORECASE)
    reader = _READERS.get(word[0].lower()) if word else None
    return reader(text) if reader is not None else None


def in_duckdbs_words(sql: str) -> str:
    """A query with the schema ``main`` for PostgreSQL's ``public``, and JSON for JSONB."""
    if not _OTHER_WORDS.search(sql):
        return sql
    changes = []
    for token, following in pairwise([*(tokens_of(sql) or []), None]):
        if token is None:
            continue
        if token.token_type == TokenType.JSONB:
            changes.append((token, "JSON"))
        elif following is not None and following.token_type == TokenType.DOT:
            is_quoted = token.token_type == TokenType.IDENTIFIER
            if (token.text if is_quoted else token.text.lower()) == "public":
                changes.append((token, "main"))
    for token, word in reversed(changes):
        sql = f"{sql[: token.start]}{word}{sql[token.end + 1 :]}"
    return sql


def _begin(text: str) -> Command | None:
    if re.match(r"start\b(?!\s+transaction)", text, re.IGNORECASE):
        return None
    tag = "START TRANSACTION" if text[:5].lower() == "start" else "BEGIN"
    return Command("begin", tag=tag)


def _end(text: str) -> Command | None:
    return Command("commit", tag="COMMIT")


def _rollback(text: str) -> Command | None:
    if re.search(r"\bto\b", text, re.IGNORECASE):
        return Command("rollback to", tag="ROLLBACK")
    return Command("rollback", tag="ROLLBACK")


def _savepoint(text: str) -> Command | None:
    return Command("savepoint", tag=text.split()[0].upper())


def _set(text: str) -> Command | None:
    if re.match(r"set\s+(session\s+characteristics|transaction|constraints)\b", text, re.I):
        return Command("set", tag="SET")
    zone = re.fullmatch(r"set\s+(?:session\s+|local\s+)?time\s+zone\s+(.+)", text, re.I | re.S)
    if zone:
        return Command("set", "timezone", _value(zone[1]), tag="SET")
    given = re.fullmatch(
        rf"set\s+(?:session\s+|local\s+|global\s+)?{_NAME}(?:\.\w+)?\s*(?:=|\bto\b)\s*(.+)",
        text,
        re.IGNORECASE | re.DOTALL,
    )
    if given is None:
        return Command("set", tag="SET")
    return Command("set", _named(given[1], given[2]), _value(given[3]), tag="SET")


def _reset(text: str) -> Command | None:
    found = re.fullmatch(rf"reset\s+{_NAME}", text, re.IGNORECASE)
    return Command("reset", _named(found[1], found[2]) if found else "all", tag="RESET")


def _show(text: str) -> Command | None:
    """SHOW of a setting; SHOW TABLES and SHOW a_table are queries of DuckDB's."""
    level = re.fullmatch(r"show\s+transaction\s+isolation\s+level", text, re.IGNORECASE)
    if level:
        return Command("show", "transaction_isolation", tag="SHOW")
    if re.fullmatch(r"show\s+time\s+zone", text, re.IGNORECASE):
        return Command("show", "timezone", tag="SHOW")
    found = re.fullmatch(rf"show\s+{_NAME}", text, re.IGNORECASE)
    if found is None:
        return None
    return Command("show", _named(found[1], found[2]), tag="SHOW")


def _discard(text: str) -> Command | None:
    return Command("discard", text.split()[-1].lower(), tag=" ".join(text.upper().split()))


def _deallocate(text: str) -> Command | None:
    found = re.fullmatch(rf"deallocate\s+(?:prepare\s+)?{_NAME}", text, re.IGNORECASE)
    if found is None:
        return None
    name = found[1].replace('""', '"') if found[1] else found[2]
    is_all = not found[1] and name.lower() == "all"
    tag = "DEALLOCATE ALL" if is_all else "DEALLOCATE"
    return Command("deallocate", "" if is_all else name, tag=tag)


def _silent(text: str) -> Command | None:
    return Command("nothing", tag=text.split()[0].upper())


def _declare(text: str) -> Command | None:
    found = re.fullmatch(
        rf"declare\s+{_NAME}\s+((?:binary\s+|insensitive\s+|asensitive\s+|(?:no\s+)?scroll\s+)*)"
        r"cursor\s+(?:(with|without)\s+hold\s+)?for\s+(.+)",
        text,
        re.IGNORECASE | re.DOTALL,
    )
    if found is None:
        return None
    options = found[3].lower().split()
    scrolls = "scroll" in options and "no" not in options
    hold = (found[4] or "").lower() == "with"
    name = _cursor(found[1], found[2])
    tag = "DECLARE CURSOR"
    return Command("declare", name, found[5], tag=tag, hold=hold, scrolls=scrolls)


_WAYS = {
    "next": ("forward", 1),
    "prior": ("backward", 1),
    "first": ("absolute", 1),
    "last": ("absolute", -1),
    "all": ("forward", None),
}


def _fetch(text: str) -> Command | None:
    found = re.fullmatch(
        r"(fetch|move)\s+(?:(next|prior|first|last|all|[+-]?\d+|(?:absolute|relative)\s+[+-]?\d+"
        r"|(?:forward|backward)(?:\s+(?:all|\d+))?)\s+)?"
        rf"(?:(?:from|in)\s+)?{_NAME}",
        text,
        re.IGNORECASE,
    )
    if found is None:
        return None
    way, *rest = (found[2] or "next").lower().split()
    count: int | None
    if way in _WAYS:
        way, count = _WAYS[way]
    elif way in ("forward", "backward", "absolute", "relative"):
        number = rest[0] if rest else "1"
        count = None if number == "all" else int(number)
    else:
        way, count = "forward", int(way)
    name = _cursor(found[3], found[4])
    return Command("fetch", name, count=count, tag=found[1].upper(), way=way)


def _close(text: str) -> Command | None:
    found = re.fullmatch(rf"close\s+{_NAME}", text, re.IGNORECASE)
    if found is None:
        return None
    return Command("close", _cursor(found[1], found[2]), tag="CLOSE CURSOR")


def _named(quoted: str | None, plain: str | None) -> str:
    return (quoted or plain or "").lower()


def _cursor(quoted: str | None, plain: str | None) -> str:
    """A cursor's name as PostgreSQL folds it."""
    return quoted.replace('""', '"') if quoted else (plain or "").lower()


def _value(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    return text.strip('"')


_READERS: dict[str, Callable[[str], Command | None]] = {
    "abort": _rollback,
    "begin": _begin,
    "close": _close,
    "commit": _end,
    "deallocate": _deallocate,
    "declare": _declare,
    "discard": _discard,
    "end": _end,
    "fetch": _fetch,
    "listen": _silent,
    "move": _fetch,
    "notify": _silent,
    "release": _savepoint,
    "reset": _reset,
    "rollback": _rollback,
    "savepoint": _savepoint,
    "set": _set,
    "show": _show,
    "start": _begin,
    "unlisten": _silent,
}
