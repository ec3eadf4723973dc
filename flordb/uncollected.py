"""Imports and conversions without a search for garbage on the way.

They make tens of thousands of objects that stay. Python looks through them again and again as they
come, which takes 50 ms of the 500 that duckdb, pandas and the planner take to be imported.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No cyclic garbage is looked for meanwhile, unless the user has switched that off anyway."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
