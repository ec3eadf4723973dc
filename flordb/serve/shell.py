"""DuckDB's own shell: where it is, and what it is told at its start."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import duckdb

from flordb.serve.engine import quoted
from flordb.serve.errors import ServeError
from flordb.serve.quack import EXTENSIONS, wheel_of


def find_shell() -> Path:
    """The DuckDB shell of this DuckDB's version: of the package duckdb-cli, or on the PATH.

    Raises ServeError where there is none.
    """
    spec = importlib.util.find_spec("duckdb_cli")
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    found = [Path(folder) / "duckdb" for folder in folders]
    on_path = shutil.which("duckdb")
    if on_path is not None:
        found.append(Path(on_path))
    said = []
    for path in found:
        if not path.exists():
            continue
        version = _version(path)
        if version == f"v{duckdb.__version__}":
            return path
        said.append(f"{path} is {version}")
    raise ServeError(
        f"no DuckDB shell of version {duckdb.__version__}, which the server runs on"
        + (f" ({'; '.join(said)})" if said else "")
        + f": pip install duckdb-cli=={duckdb.__version__}"
    )


def _version(shell: Path) -> str:
    command = [str(shell), "--version"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    words = str(done.stdout).split()
    return words[0] if words else "no shell"


def start_file(folder: Path, address: str, token: str) -> Path:
    """Write the file that connects a shell, readable by its user alone; it holds the token."""
    own = Path.home() / ".duckdbrc"
    lines = [f".read {own}"] if own.exists() else []
    for name in EXTENSIONS:
        wheel = wheel_of(name)
        lines.append(f"LOAD {quoted(str(wheel))};" if wheel is not None else f"LOAD {name};")
    if duckdb.__version__.startswith("1."):
        lines.append(f"ATTACH {quoted(address)} AS f (TOKEN {quoted(token)});")
    else:
        lines.append(f"CONNECT {quoted(address)} (TOKEN {quoted(token)});")
    path = folder / "start.sql"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(lines) + "\n")
    return path
