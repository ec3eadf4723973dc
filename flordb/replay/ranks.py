"""Processes of one job (`torch.distributed`): a replay is one alone, and waits for no other."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from flordb.errors import ReplayError


def meet_nobody() -> None:
    """Have ``init_process_group`` need no port, and refuse where the run had other processes."""
    module = sys.modules.get("torch.distributed.rendezvous")
    handlers = getattr(module, "_rendezvous_handlers", None)
    if handlers is not None:  # it was imported, by a torch that has them
        handlers.update(dict.fromkeys(tuple(handlers), _alone))


def _alone(url: str, **_: Any) -> Iterator[tuple[Any, int, int]]:
    """A rendezvous of one process: its store, its rank and the number of processes."""
    query = parse_qs(urlsplit(url).query)
    count = int(query.get("world_size", [os.environ.get("WORLD_SIZE", "1")])[0])
    if count > 1:
        raise ReplayError(
            f"{count} processes trained together (torch.distributed), and a replay is one of them "
            "alone. Only a new run can log this."
        )
    yield sys.modules["torch.distributed"].HashStore(), 0, 1
