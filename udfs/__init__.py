"""Python functions that SQL can call, one family a file of this folder.

A family is a module with a function ``functions(project)`` that returns its `Function`s; putting
the file here is all it takes. What SQL makes of them (views, macros) stands in the file of the same
name in ``sql/``, where there is one.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any

import duckdb

from flordb.store.project import Project
from flordb.store.schema import script


@dataclass(frozen=True)
class Function:
    """A scalar function: its SQL name, the Python function, and the SQL types of both sides.

    ``volatile``: equal arguments may give another result in the next query. NULL as an argument
    gives NULL without a call.
    """

    name: str
    body: Callable[..., Any]
    parameters: tuple[str, ...]
    returns: str
    volatile: bool = False


def register(
    connection: duckdb.DuckDBPyConnection, project: Project, temporary: bool = True
) -> None:
    """Make all functions of this folder, and what ``sql/`` makes of them, known to a connection.

    They are about ``project``. The views are temporary ones: they are in no database file, where
    a shell without these functions could not use them. Where ``temporary`` is False they are put
    into the connection's database, for all of its connections.
    """
    for family in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        for function in import_module(f"{__name__}.{family}").functions(project):
            # `duckdb.sqltype` would open another database to ask for the type.
            connection.create_function(
                function.name,
                _without_null(function.body),
                [connection.sqltype(kind) for kind in function.parameters],
                connection.sqltype(function.returns),
                null_handling="special",  # so that they may return NULL
                side_effects=function.volatile,
            )
        text = script(f"{family}.sql")
        if text is not None:
            connection.execute(text if temporary else text.replace(" TEMP VIEW ", " VIEW "))


def _without_null(body: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(body)  # DuckDB counts the parameters of the signature
    def called(*arguments: Any) -> Any:
        return None if any(argument is None for argument in arguments) else body(*arguments)

    return called
