"""FlorDB: a hindsight-logging database for machine learning.

Any expression you could have logged is a column you can SELECT. Importing this package does
nothing but take ``--kwargs name=value …`` out of ``sys.argv``, before the script's own parser
sees it, and watch how long imports take; a run begins at the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from flordb import session as _session
from flordb.kwargs import take_from_argv as _take_from_argv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from flordb import background, utils
    from flordb.query.connecting import connect
    from flordb.query.dataframe import dataframe, sql

__version__ = "0.1.0"

__all__ = [
    "arg",
    "background",
    "checkpointing",
    "commit",
    "connect",
    "dataframe",
    "iteration",
    "load",
    "loading",
    "log",
    "loop",
    "sql",
    "utils",
]

T = TypeVar("T")

_take_from_argv()


def log(name: str, value: T) -> T:
    """Log a value under a name, in the current context, and return it.

    Numbers, strings, None, lists and dicts keep their values; scalars of NumPy and one-element
    tensors (on any device, without waiting for it) are logged as numbers, small arrays and tensors
    as lists, large ones by reference (see `load`); anything else as its ``repr``. Never raises for
    its value.
    """
    return (_session._current or _session.current()).log(name, value)


def arg(name: str, default: T) -> T:
    """A parameter of the run: from ``--kwargs name=value`` where given, else ``default``.

    The text is read as the type of ``default``. The value is logged. In a replay it is the
    recorded one. Raises ValueError where the text is no value of that type.
    """
    return _session.current().arg(name, default)


def loop(name: str, iterable: Iterable[T]) -> Iterator[T]:
    """Iterate, making each iteration a context of what is logged in it.

    ``name`` becomes the column of the iteration's index (from 0) and ``<name>_value`` that of its
    value. At the ends of a top-level loop's iterations, and of the loops nested directly in them,
    snapshots are taken for later replay.
    """
    return _session.current().loop(name, iterable)


def iteration(name: str, index: int | None, value: Any = None) -> AbstractContextManager[None]:
    """One iteration of a loop that is not a ``for`` (a web request, a callback).

    ``index`` is None for "the next one in this context".
    """
    return _session.current().iteration(name, index, value)


def checkpointing(**objects: Any) -> AbstractContextManager[None]:
    """Objects (model, optimizer, …) whose state belongs to the snapshots taken inside the block.

    Anything with ``state_dict`` and ``load_state_dict``, tensors, arrays, containers, or objects
    that pickle.
    """
    return _session.current().checkpointing(objects)


def loading(objects: Mapping[str, Any], row: Any) -> AbstractContextManager[None]:
    """Load into ``objects`` the state that a run's snapshot has for them (figure 6.6).

    ``row``: a row of a dataframe, or a dataframe whose first row counts (several may be the best),
    that names the run (``projid``, ``tstamp``, ``filename``) and, where it has the top-level loop's
    column, the iteration. Raises
    SnapshotError where there is no snapshot, or none with such an object.
    """
    from flordb.record.loading import load

    return load(objects, row)


def load(reference: str) -> Any:
    """The array or tensor that a logged value refers to, of the working folder's project.

    Arrays and tensors of more than 1,000 elements are logged as references, texts like
    ``torch.float32[3,224,224]@…``; NumPy arrays come back as such, tensors in main memory. Raises
    FlorError where the text is no reference, or its contents are gone.
    """
    from flordb.store.objects import ObjectStore
    from flordb.store.project import find_project
    from flordb.store.references import load

    return load(reference, ObjectStore(find_project().values))


def commit() -> None:
    """End the current run here: write its file, commit it to git; the next call begins another."""
    session = _session.peek()
    if session is not None:
        session.commit()


_LAZY = {
    "background": ("flordb.background", None),
    "connect": ("flordb.query.connecting", "connect"),
    "dataframe": ("flordb.query.dataframe", "dataframe"),
    "sql": ("flordb.query.dataframe", "sql"),
    "utils": ("flordb.utils", None),
    "load_ipython_extension": ("flordb.query.magics", "load_ipython_extension"),
}

_PEP_249 = frozenset(
    {
        *("apilevel", "threadsafety", "paramstyle", "Connection", "Cursor", "Binary", "Date"),
        *("Time", "Timestamp", "DateFromTicks", "TimeFromTicks", "TimestampFromTicks", "STRING"),
        *("BINARY", "NUMBER", "DATETIME", "ROWID", "Warning", "Error", "InterfaceError"),
        *("DatabaseError", "DataError", "OperationalError", "IntegrityError", "InternalError"),
        *("ProgrammingError", "NotSupportedError", "BudgetExceeded", "UnknownName"),
    }
)
"""Names of `flordb.query.dbapi`."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    from flordb.uncollected import uncollected

    if name in _LAZY:
        module, attribute = _LAZY[name]
        with uncollected():
            found = import_module(module)
        return getattr(found, attribute) if attribute else found
    if name in _PEP_249:
        return getattr(import_module("flordb.query.dbapi"), name)
    from flordb.retired import retired

    return retired(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
