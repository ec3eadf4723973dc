"""Contexts: places in the nest of loops; and the names of the boundaries where snapshots are."""

from __future__ import annotations

from typing import Any

_SCALARS = frozenset((int, float, str, bool))


class Context:
    """One iteration of one loop, or the root of the run. Made for every iteration, so kept small.

    ``number`` is given when it is first written to the run file; ``entries`` counts how often each
    loop was entered directly in it.
    """

    __slots__ = ("entries", "entry", "index", "loop", "number", "parent", "value")

    def __init__(
        self, parent: Context | None, loop: str, index: int, value: Any, entry: int
    ) -> None:
        self.parent = parent
        self.loop = loop
        self.index = index
        # Only scalars: a batch must not stay in memory because something was logged about it.
        self.value = value if type(value) in _SCALARS else None
        self.entry = entry
        self.number: int | None = None
        self.entries: dict[str, int] | None = None

    def enter(self, loop: str) -> int:
        """Which entry of ``loop`` in this context this is, from 0."""
        if self.entries is None:
            self.entries = {}
        entry = self.entries.get(loop, 0)
        self.entries[loop] = entry + 1
        return entry

    @property
    def path(self) -> str:
        """``epoch=3/step=17``; with ``#`` and the entry where a loop was entered again."""
        if self.parent is None:
            return ""
        outer = self.parent.path
        own = f"{entry_name(self.loop, self.entry)}={self.index}"
        return f"{outer}/{own}" if outer else own


def root() -> Context:
    """The context outside all loops."""
    context = Context(None, "", 0, None, 0)
    context.number = 0
    return context


def entry_name(loop: str, entry: int) -> str:
    return f"{loop}#{entry}" if entry else loop


START = "start"
"""The boundary where the run begins: generators of random numbers only."""


def enter_of(outer: str, loop: str, entry: int) -> str:
    """The boundary before a loop's first iteration; ``outer`` is the path of its context."""
    return f"{outer}/{entry_name(loop, entry)}@enter".lstrip("/")


def exit_of(outer: str, loop: str, entry: int) -> str:
    """The boundary after a loop, however it ended."""
    return f"{outer}/{entry_name(loop, entry)}@exit".lstrip("/")


def end_of(path: str) -> str:
    """The boundary at the end of the iteration with this path."""
    return f"{path}@end"
