"""What a run's environment was, beside what there is now, and interpreters that have it again."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from flordb.settings import Settings


def interpreter(header: Mapping[str, Any], settings: Settings) -> str:
    """The path of the interpreter that replays a run with this header."""
    return sys.executable
