"""Errors and notices as PostgreSQL's clients know them: a code, a message, a detail, a hint."""

from __future__ import annotations

import duckdb
from pygwire import messages

from flordb.query.errors import BudgetExceeded, UnknownName
from flordb.query.explain import describe
from flordb.serve.errors import Cancelled, Refused
from flordb.serve.pg.parameters import ParameterError

# The first that fits. The codes are those of PostgreSQL's appendix A.
_CODES: tuple[tuple[type[BaseException], str], ...] = (
    (Refused, "42501"),
    (BudgetExceeded, "53400"),
    (UnknownName, "42703"),
    (Cancelled, "57014"),
    (ParameterError, "22P02"),
    (duckdb.InterruptException, "57014"),
    (duckdb.ParserException, "42601"),
    (duckdb.SyntaxException, "42601"),
    (duckdb.CatalogException, "42P01"),
    (duckdb.BinderException, "42703"),
    (duckdb.ConversionException, "22P02"),
    (duckdb.OutOfRangeException, "22003"),
    (duckdb.TransactionException, "25006"),
    (duckdb.PermissionException, "42501"),
    (duckdb.OutOfMemoryException, "53200"),
    (duckdb.NotImplementedException, "0A000"),
    (duckdb.InvalidInputException, "22023"),
    (duckdb.ProgrammingError, "42000"),
)


class SessionError(Exception):
    """An error with the code that a client expects of it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def error_message(error: BaseException, fatal: bool = False) -> messages.ErrorResponse:
    """An exception as a message; what is over budget: the plan as detail, the ways on as hint."""
    severity = "FATAL" if fatal else "ERROR"
    fields = {"S": severity, "V": severity, "C": _code(error)}
    if isinstance(error, BudgetExceeded):
        seconds = error.plan.seconds
        fields["M"] = (
            f"This query needs about {seconds:.0f} s of replay, and the budget is "
            f"{error.budget_seconds:g} s."
        )
        fields["D"] = describe(error.plan)
        fields["H"] = (
            f"Raise the budget: SET flor_budget = '{seconds * 1.2 + 1:.0f} s'. "
            "Narrow the query: WHERE tstamp >= …, fewer iterations, ORDER BY … LIMIT …. "
            "Take what is there: SET flor_acquire = 'never'; missing values are NULL."
        )
    else:
        fields["M"] = _plain(str(error)) or type(error).__name__
    return messages.ErrorResponse({key: _plain(value) for key, value in fields.items()})


def notice(text: str, severity: str = "NOTICE") -> messages.NoticeResponse:
    """A note for the client's user."""
    code = "01000" if severity == "WARNING" else "00000"
    return messages.NoticeResponse({"S": severity, "V": severity, "C": code, "M": _plain(text)})


def _plain(text: str) -> str:
    """Text that the protocol can carry."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _code(error: BaseException) -> str:
    if isinstance(error, SessionError):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), "XX000")
