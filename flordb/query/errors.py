"""The errors of PEP 249, for everything that goes through a flordb connection.

::

    Exception
    ├── Warning                        (also duckdb.Warning)
    └── Error                          (also FlorError, duckdb.Error)
        ├── InterfaceError             the connection or cursor is used wrongly, e.g. after close()
        └── DatabaseError
            ├── DataError
            ├── OperationalError
            │   └── BudgetExceeded     the answer costs more replay than the budget allows
            ├── IntegrityError
            ├── InternalError
            ├── ProgrammingError
            │   └── UnknownName        a column that was never logged and that no statement logs
            └── NotSupportedError

Each also inherits DuckDB's class of that name where there is one, so ``except duckdb.Error`` keeps
working. What DuckDB raises comes back as its own class and ours at once (`translate`): a
``duckdb.CatalogException`` is still one, and a `ProgrammingError` of this module too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

from flordb.errors import FlorError
from flordb.query.explain import describe

if TYPE_CHECKING:
    from flordb.replay.plan import Plan


class Warning(duckdb.Warning):  # type: ignore[misc]
    """Something that a query's author should know."""


class Error(FlorError, duckdb.Error):  # type: ignore[misc]
    """A statement could not be answered."""


class InterfaceError(Error):
    """The connection or cursor is used wrongly: closed, or fetched from before execute()."""


class DatabaseError(Error, duckdb.DatabaseError):  # type: ignore[misc]
    """The database could not answer."""


class DataError(DatabaseError, duckdb.DataError):  # type: ignore[misc]
    """A value does not fit: a failed cast, a number out of range."""


class OperationalError(DatabaseError, duckdb.OperationalError):  # type: ignore[misc]
    """Something outside the statement is wrong: files, memory, connections."""


class IntegrityError(DatabaseError, duckdb.IntegrityError):  # type: ignore[misc]
    """A constraint of a table is violated."""


class InternalError(DatabaseError, duckdb.InternalError):  # type: ignore[misc]
    """The database itself failed."""


class ProgrammingError(DatabaseError, duckdb.ProgrammingError):  # type: ignore[misc]
    """The statement is wrong: its syntax, its names, its parameters."""


class NotSupportedError(DatabaseError, duckdb.NotSupportedError):  # type: ignore[misc]
    """The database cannot do this."""


class BudgetExceeded(OperationalError):
    """The answer needs more replay than the budget allows. ``plan`` is what would be done."""

    def __init__(self, plan: Plan, budget_seconds: float) -> None:
        super().__init__(
            f"This query needs about {plan.seconds:.0f} s of replay, and the budget is "
            f"{budget_seconds:g} s.\n\n{describe(plan)}\n\n"
            "Three ways on:\n"
            f"  raise the budget:   flordb.connect(budget={_rounded(plan.seconds)}), "
            f"FLORDB_BUDGET_SECONDS={_rounded(plan.seconds)}, or flordb replay\n"
            "  narrow the query:   WHERE tstamp >= …, fewer iterations, ORDER BY … LIMIT …\n"
            "  take what is there: flordb.connect(acquire='never'); missing values are NULL"
        )
        self.plan = plan
        self.budget_seconds = budget_seconds


def _rounded(seconds: float) -> int:
    """A budget that is enough, with some room for the estimate."""
    step = 10 if seconds < 300 else 60
    return int(-(-seconds * 1.2 // step) * step)


class UnknownName(ProgrammingError, duckdb.BinderException):  # type: ignore[misc]
    """No run has logged this name, and no statement of the project's code logs it."""

    def __init__(self, name: str, candidates: Iterable[str]) -> None:
        near = nearest(name, candidates)
        found = ", ".join(f'"{candidate}"' for candidate in near)
        super().__init__(
            f'Binder Error: Referenced column "{name}" not found in FROM clause!'
            + (f"\nCandidate bindings: {found}" if found else "")
            + "\n\nNo run has logged this name, and no flor.log statement in the project's code "
            "logs it. To make it a column, write that statement; SELECT name FROM names lists "
            "those that there are."
        )
        self.name = name
        self.candidates = near


def nearest(name: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """The names that are most like this one, best first."""
    by_key = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.lower(), by_key, n=5, cutoff=0.4)
    return tuple(by_key[key] for key in found)


_OURS = (
    (duckdb.DataError, DataError),
    (duckdb.OperationalError, OperationalError),
    (duckdb.IntegrityError, IntegrityError),
    (duckdb.InternalError, InternalError),
    (duckdb.ProgrammingError, ProgrammingError),
    (duckdb.NotSupportedError, NotSupportedError),
    (duckdb.DatabaseError, DatabaseError),
    (duckdb.Error, Error),
)


def _twin(theirs: type[Exception]) -> type[Error]:
    """The class that is both ours and DuckDB's."""
    if theirs not in _TWINS:
        _TWINS[theirs] = _make_twin(theirs)
    return _TWINS[theirs]


_TWINS: dict[type[Exception], type[Error]] = {}


def _make_twin(theirs: type[Exception]) -> type[Error]:
    ours = next(mine for base, mine in _OURS if issubclass(theirs, base))
    if issubclass(ours, theirs):
        return ours
    return type(theirs.__name__, (ours, theirs), {"__doc__": theirs.__doc__})


def translate(error: duckdb.Error) -> Error:
    """The same error as a class of ours that is DuckDB's too."""
    if isinstance(error, Error):
        return error
    return _twin(type(error))(*error.args)


@contextmanager
def mapped() -> Iterator[None]:
    """Raise DuckDB's errors as ours, with DuckDB's words; Ctrl-C as KeyboardInterrupt."""
    try:
        yield
    except Error:
        raise
    except duckdb.Error as error:
        raise translate(error) from error
    except RecursionError:
        raise ProgrammingError("the statement is nested too deeply to be planned") from None
    except RuntimeError as error:
        # DuckDB raises this instead of what a signal's handler has raised during a query.
        if str(error) == "Query interrupted":
            raise error.__cause__ or KeyboardInterrupt() from None
        raise
