"""``%load_ext flordb``: SQL in a notebook's cells.

::

    %flor SELECT tstamp, lr FROM flor ORDER BY tstamp DESC LIMIT 3

    %%flor --budget '5 min' --output frame
    SELECT epoch, loss FROM flor
    WHERE lr > $low

A cell's ``$name`` is the variable of that name; DataFrames that it names are tables. Options:
``--project DIR``, ``--acquire auto|always|never``, ``--budget DURATION`` and ``--output NAME``,
which puts the rows into a pandas DataFrame of that name instead of showing them.
"""

from __future__ import annotations

import re
from typing import Any

from flordb.errors import FlorError
from flordb.query.connecting import connect
from flordb.query.connection import Connection
from flordb.query.cursor import Cursor
from flordb.query.errors import ProgrammingError
from flordb.query.html import plan_of
from flordb.query.statement import parameter_names
from flordb.replay.plan import Plan

_OPTIONS = ("project", "acquire", "budget", "output")
_OPTION = re.compile(r"""\s*--([a-z]+)(?:\s*=\s*|\s+)('[^']*'|"[^"]*"|\S+)""")


class Magics:
    """The magics of one IPython shell. A project's connection is kept from cell to cell."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._connections: dict[str | None, Connection] = {}

    def line(self, line: str) -> Cursor | None:
        """``%flor [options] SELECT …``"""
        options, sql = _options(line)
        return self._run(options, sql)

    def cell(self, line: str, cell: str = "") -> Cursor | None:
        """``%%flor [options]``, and SQL in the lines below."""
        options, rest = _options(line)
        return self._run(options, f"{rest}\n{cell}" if rest else cell)

    def _run(self, options: dict[str, str], sql: str) -> Cursor | None:
        connection = self._connection(options.get("project"))
        variables = self.shell.user_ns
        named = {name: variables[name] for name in parameter_names(sql) if name in variables}
        # DataFrames are looked up in the frame of the call, which is here the notebook's.
        given = {k: options[k] for k in ("acquire", "budget") if k in options}
        scope = {"_flordb_call": connection.cursor().execute, "_named": named, "_options": given}
        call = f"_flordb_call({sql!r}, _named, **_options)"
        try:
            cursor: Cursor = eval(call, variables, scope)
        except FlorError as error:
            text = f"{type(error).__name__}: {error}"
            # What IPython shows instead of a traceback: the fault is in the cell's SQL.
            error._render_traceback_ = lambda: [text]  # type: ignore[attr-defined]
            raise
        if cursor.description is None:
            return None
        if "output" in options:
            variables[options["output"]] = cursor.df()
            return None
        return cursor

    def _connection(self, project: str | None) -> Connection:
        if project not in self._connections:
            self._connections[project] = connect(project)
        return self._connections[project]


def _options(line: str) -> tuple[dict[str, str], str]:
    """The options at the beginning of a line, and what follows them."""
    found: dict[str, str] = {}
    while line.lstrip().startswith("--") and line.lstrip()[2:3].isalpha():
        option = _OPTION.match(line)
        name = option[1] if option is not None else line.split()[0].removeprefix("--")
        if option is None or name not in _OPTIONS:
            known = ", ".join(f"--{option} VALUE" for option in _OPTIONS)
            raise ProgrammingError(f"%flor has no option --{name}; it has {known}")
        found[name] = option[2].strip("'\"")
        line = line[option.end() :]
    return found, line.strip()


def load_ipython_extension(shell: Any) -> None:
    """Give an IPython shell ``%flor`` and ``%%flor``, and tables for plans."""
    magics = Magics(shell)
    shell.register_magic_function(magics.line, "line", "flor")
    shell.register_magic_function(magics.cell, "cell", "flor")
    html = shell.display_formatter.formatters["text/html"]
    html.for_type(Plan, plan_of)
