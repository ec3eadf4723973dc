"""What goes wrong while serving, beyond the errors of queries (`flordb.query.errors`)."""

from __future__ import annotations

from flordb.errors import FlorError
from flordb.query.errors import NotSupportedError, OperationalError


class ServeError(FlorError):
    """The server cannot start: a port is taken, an extension or a certificate cannot be had."""


class Refused(NotSupportedError):
    """A statement that sessions from outside may not run."""


class Cancelled(OperationalError):
    """The client has cancelled the statement, or has gone away."""
