"""Which source files are the project's: what runs from them is followed, libraries are not."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path


def is_project_file(root: Path) -> Callable[[str], bool]:
    """A test for file names: in the root, and not of an environment that lies in it."""
    cwd = os.getcwd()
    base = os.path.join(str(root), "")
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

    @lru_cache(maxsize=4096)
    def test(name: str) -> bool:
        if not name or name.startswith("<"):
            return False
        path = os.path.join(cwd, name)
        if path.startswith(os.path.join(own, "")):
            return False
        return path.startswith(base) and not any(
            part in ("site-packages", "dist-packages") for part in path.split(os.sep)
        )

    return test
