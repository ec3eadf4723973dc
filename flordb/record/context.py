"""Contexts: places in the nest of loops; and the names of the boundaries where snapshots are."""

from __future__ import annotations

from typing import Any

from flordb.store.encoding import encode_value

SCALARS = frozenset((int, float, str, bool))


class Context:
    """One iteration of one loop, or the root of the run.

    ``number`` is given when it is first written to the run file; ``entries`` counts how often each
    loop was entered directly in it; ``steps`` is the loop whose numbers it shares, if it has any.
    """

    __slots__ = ("entries", "entry", "index", "loop", "number", "parent", "steps", "value")

    def __init__(
        self, parent: Context | None, loop: str, index: int, value: Any, entry: int
    ) -> None:
        self.parent = parent
        self.loop = loop
        self.index = index
        # Only scalars: a batch must not stay in memory because something was logged about it.
        self.value = value if type(value) in SCALARS else None
        self.entry = entry
        self.number: int | None = None
        self.entries: dict[str, int] | None = None
        self.steps: Steps | None = None

    def here(self) -> Context:
        """The context itself, where `Steps` make the one of their iteration."""
        return self

    def enter(self, loop: str) -> int:
        """Which entry of ``loop`` in this context this is, from 0."""
        if self.entries is None:
            self.entries = {}
        entry = self.entries.get(loop, 0)
        self.entries[loop] = entry + 1
        return entry

    def line(self, parent: int) -> dict[str, Any]:
        """The run file's line that gives a context its number; ``parent``: its parent's."""
        line: dict[str, Any] = {"k": "ctx", "c": self.number, "p": parent}
        line |= {"l": self.loop, "i": self.index}
        if self.value is not None:
            line |= encode_value(self.value)
        if self.entry:
            line["e"] = self.entry
        return line

    @property
    def path(self) -> str:
        """``epoch=3/step=17``; with ``#`` and the entry where a loop was entered again."""
        if self.parent is None:
            return ""
        outer = self.parent.path
        own = f"{entry_name(self.loop, self.entry)}={self.index}"
        return f"{outer}/{own}" if outer else own


class Steps:
    """A loop inside a loop, at one of its iterations. Its iterations are contexts without being
    objects: nothing is made for them but an index, which makes the innermost loops cheap.

    ``values``: (start, step) where the iterations' values are the numbers of a range, None where
    they are no scalars. ``spans``: the numbers that the run file's encoder gave.
    """

    __slots__ = ("_here", "entry", "index", "loop", "outer", "spans", "values")

    def __init__(
        self, outer: Context, loop: str, entry: int, values: tuple[int, int] | None
    ) -> None:
        self.outer = outer
        self.loop = loop
        self.entry = entry
        self.values = values
        self.index = 0
        self.spans: Any = None
        self._here: Context | None = None

    def here(self) -> Context:
        """The context of the current iteration, which a loop inside of it needs."""
        index, here = self.index, self._here
        if here is None or here.index != index:
            value = None if self.values is None else self.values[0] + self.values[1] * index
            here = self._here = Context(self.outer, self.loop, index, value, self.entry)
            here.steps = self
        return here


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
