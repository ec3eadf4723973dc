"""Files that a script writes in its loops and reads again: the user's own checkpoints.

A replay that skips the loop finds what lies there now, perhaps from another run. Calls are told by
their names, and files by what the calls' arguments have in common.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from flordb.analysis.walk import Visit

_WRITING = frozenset(
    (
        *("save", "savez", "dump", "to_csv", "to_parquet", "to_pickle", "to_json", "write_text"),
        *("write_bytes", "savetxt", "save_pretrained", "save_file", "copyfile"),
    )
)
_READING = frozenset(
    (
        *("load", "read_csv", "read_parquet", "read_pickle", "read_json", "read_text"),
        *("read_bytes", "loadtxt", "genfromtxt", "from_pretrained", "load_file"),
    )
)
_SHORTEST_NAME = 3


def rereads(visits: Iterable[Visit], after_loops: bool) -> str | None:
    """A file that the loops write and that is read in them again, or also after them, as text."""
    written: set[str] = set()
    read: set[str] = set()
    for visit in visits:
        for call in (n for n in ast.walk(visit.statement) if isinstance(n, ast.Call)):
            if visit.top_loop is not None and _writes(call):
                written |= _hints(call)
            if (visit.top_loop is not None or (after_loops and visit.done)) and _reads(call):
                read |= _hints(call)
    shared = sorted(written & read)
    return shared[0] if shared else None


def _name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _mode(call: ast.Call) -> str:
    """The mode that a file is opened with."""
    given = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode")]
    found = given[0].value if given and isinstance(given[0], ast.Constant) else "r"
    return str(found)


def _writes(call: ast.Call) -> bool:
    if _name(call) == "open":
        return any(letter in _mode(call) for letter in "wax+")
    return _name(call) in _WRITING


def _reads(call: ast.Call) -> bool:
    if _name(call) == "open":
        return any(letter in _mode(call) for letter in "r+")
    return _name(call) in _READING


def _hints(call: ast.Call) -> set[str]:
    """The texts and variables of a call's arguments, and of the path whose method it is."""
    found: set[str] = set()
    owner = [call.func.value] if isinstance(call.func, ast.Attribute) else []
    for given in (*owner, *call.args, *(k.value for k in call.keywords)):
        functions = {id(n.func) for n in ast.walk(given) if isinstance(n, ast.Call)}
        for node in ast.walk(given):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                name = node.value.rpartition("/")[2]  # the folder may come from elsewhere
                if len(name) >= _SHORTEST_NAME and name != "utf-8":
                    found.add(name)
            elif isinstance(node, ast.Name) and id(node) not in functions:
                found.add(node.id)
    return found - {"torch", "np", "numpy", "pickle", "json", "joblib", "pd", "os", "shutil"}
