"""``flor.dataframe``: logged values as a pandas DataFrame (figures 5.4, 6.5, 6.6 and 6.10)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flordb import session
from flordb.query.connecting import connect

if TYPE_CHECKING:
    from flordb.query.connection import Connection


def dataframe(
    *names: str,
    where: str | None = None,
    acquire: str = "never",
    project: str | Path | None = None,
) -> Any:
    """The values of these names, one row a context, with their dimension columns.

    The columns are the loops' (``<loop>``, ``<loop>_value``), ``projid``, ``tstamp``, ``filename``,
    then the names; without names it has one row a run. Like the predecessor's call it shows what
    has been logged or acquired; pass ``acquire='auto'`` to have what is lacking replayed.
    ``where``: an SQL condition on columns of ``flor``; ``project``: the project's folder.
    Raises UnknownName for a name that nothing has logged or could log.
    """
    with connect(project, acquire=acquire) as connection:
        return dataframe_of(connection, names, where)


def dataframe_of(connection: Connection, names: Iterable[str], where: str | None = None) -> Any:
    """`dataframe` over a connection, which says what is acquired."""
    names = tuple(dict.fromkeys(names))
    condition = f" WHERE {where}" if where else ""
    # As a query it acquires what is lacking, and says which names nobody knows.
    connection.execute(f"SELECT {_quoted(names or ('tstamp',))} FROM flor{condition}")
    pivot = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
    query = f"FROM flor_pivot([{pivot}])"
    if where:
        # The condition may be on columns that are not to be shown.
        shown = [column[0] for column in connection.execute(query).description or ()]
        query = f"SELECT {_quoted(shown)} FROM flor{condition}"
    frame = connection.execute(query).df()
    dimensions = [column for column in frame.columns if column not in names]
    loops = [c for c in dimensions if c not in ("projid", "tstamp", "filename")]
    first = ("projid", "tstamp", "filename")
    _note_reading(frame[[*first]])
    order = [*loops, *(c for c in first if c in dimensions), *(c for c in names if c in frame)]
    frame = frame[order]
    return frame.sort_values([*first[1:2], *loops], kind="stable").reset_index(drop=True)


def _quoted(columns: Iterable[str]) -> str:
    return ", ".join('"' + column.replace('"', '""') + '"' for column in columns)


def _note_reading(runs: Any) -> None:
    """Tell a run that is being recorded whose values it has read (lineage)."""
    reader = session.peek()
    if reader is not None:
        distinct = runs.drop_duplicates().itertuples(index=False)
        reader.read([[run[0], f"{run[1]:%Y-%m-%dT%H:%M:%S.%f}Z", run[2]] for run in distinct])


def latest(frame: Any) -> Any:
    """The rows of a dataframe that belong to the newest run (``flor.utils.latest``, figure 6.6)."""
    if frame.empty:
        return frame
    return frame[frame["tstamp"] == frame["tstamp"].max()]


def sql(query: str, acquire: str | None = None) -> Any:
    """The rows of an SQL query on the project as a pandas DataFrame; see `connect`."""
    with connect(acquire=acquire) as connection:
        return connection.execute(query).df()
