"""The user's own choices of place for log statements, kept for every later replay.

A choice is made in the text of one version's file, and holds in all versions in which that file
reads the same. They are kept in ``.flor/choices.json``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from flordb.analysis.statements import LogStatement, log_statements
from flordb.errors import ReplayError
from flordb.store import sources
from flordb.store.project import Project
from flordb.store.whole import write_whole

_AT = re.compile(r"(?P<file>.+):(?P<line>\d+)@(?P<version>[^@\s]+)")


@dataclass(frozen=True)
class Choice:
    """Where the statements that log ``name`` stand: a line of a file that reads as ``text`` says.

    ``line`` counts from 1: they go before the statement that begins there, else after the one
    above it. ``text`` is the SHA-256 of the file's text.
    """

    name: str
    file: str
    line: int
    text: str


def read_choices(project: Project) -> tuple[Choice, ...]:
    """All choices made so far. Raises ReplayError where their file is damaged."""
    path = project.store / "choices.json"
    try:
        return tuple(Choice(**row) for row in json.loads(path.read_text()))
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError) as error:
        raise ReplayError(f"{path} is damaged ({error}); remove it and choose again") from None


def keep_choice(project: Project, names: Sequence[str], at: str) -> tuple[Choice, ...]:
    """Keep the place ``FILE:LINE@VERSION`` for the statements that log some names.

    Returns the choices made. Raises ReplayError where there is no such place.
    """
    parts = _AT.fullmatch(at)
    if parts is None:
        raise ReplayError(f"{at!r} is not FILE:LINE@VERSION, such as train.py:12@4f2a91c")
    file, line, version = parts["file"], int(parts["line"]), parts["version"]
    text = sources.read_sources(project.root, version).get(file)
    if text is None:
        raise ReplayError(f"the version {version} has no Python file {file}")
    if not 1 <= line <= text.count("\n") + 1:
        raise ReplayError(f"{file} has no line {line} at {version}")
    made = tuple(Choice(name, file, line, _digest(text)) for name in names)
    places = {(c.name, c.file, c.text): c for c in (*read_choices(project), *made)}
    project.prepare()
    listed = json.dumps([asdict(c) for c in places.values()], indent=1)
    write_whole(project.store / "choices.json", listed.encode())
    return made


def chosen(choices: Iterable[Choice], name: str, old: Mapping[str, str]) -> tuple[str, int] | None:
    """The file and line chosen for a name in a version (path to text), if any; the last counts."""
    found = None
    for choice in choices:
        text = old.get(choice.file) if choice.name == name else None
        if text is not None and _digest(text) == choice.text:
            found = (choice.file, choice.line)
    return found


def statements_with_choices(project: Project) -> tuple[LogStatement, ...]:
    """The log statements of the working tree; their digests change with the choices for them."""
    return mixed(log_statements(project.root), read_choices(project))


def mixed(
    statements: Iterable[LogStatement], choices: Sequence[Choice]
) -> tuple[LogStatement, ...]:
    """Statements whose digests say the choices for them too: a new choice is worth a new try."""
    found = []
    for statement in statements:
        own = [repr(choice) for choice in choices if statement.logs(choice.name)]
        if own:
            digest = _digest(statement.digest + "".join(own))[:16]
            statement = replace(statement, digest=digest)
        found.append(statement)
    return tuple(found)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
