"""The token that clients of a project's server need: the password of the PostgreSQL protocol, the
TOKEN of Quack. It is made when the server first starts, and kept in the store for its owner alone.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from flordb.serve.errors import ServeError
from flordb.store.project import Project

_FILE = "serve.token"
_LEAST = 16


def token_file(project: Project) -> Path:
    """Where the token is kept. Delete the file, and the next start makes a new one."""
    return project.store / _FILE


def token_of(project: Project) -> str:
    """The project's token, made if there is none yet.

    Raises ServeError where others could read it, or where it is no token.
    """
    project.prepare()
    path = token_file(project)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read(path)
    token = secrets.token_urlsafe(24)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), 0o600)  # whatever the umask is
        file.write(token + "\n")
    return token


def _read(path: Path) -> str:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ServeError(
            f"{path} can be read by others (mode {mode:o}): chmod 600 it, or delete it for a new "
            "token"
        )
    token = path.read_text().strip()
    if len(token) < _LEAST or not token.isascii() or not token.isprintable():
        raise ServeError(
            f"{path} does not hold a token of at least {_LEAST} printable ASCII characters; "
            "delete it for a new one"
        )
    return token
