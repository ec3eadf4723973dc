"""Which file of a project an import names."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import PurePosixPath

from flordb.replay.propagate.units import Source


def find_module(
    node: ast.Import | ast.ImportFrom, alias: ast.alias, path: str, files: Mapping[str, Source]
) -> str | None:
    """The file that an import in ``path`` reads, or None where it is none of the project's.

    For `from a import b` it is the file of `a.b` where there is one, else that of `a`.
    """
    if isinstance(node, ast.Import):
        return _file(alias.name, path, 0, files)
    module = node.module or ""
    inner = f"{module}.{alias.name}" if module else alias.name
    return _file(inner, path, node.level, files) or _file(module, path, node.level, files)


def _file(dotted: str, path: str, level: int, files: Mapping[str, Source]) -> str | None:
    folder = PurePosixPath(path).parent
    for _ in range(level - 1):
        folder = folder.parent
    bases = [folder] if level else [folder, PurePosixPath(), PurePosixPath("src")]
    for base in bases:
        place = base.joinpath(*dotted.split(".")) if dotted else base
        for candidate in (f"{place}.py", str(place / "__init__.py")):
            if candidate in files:
                return candidate
    return None
