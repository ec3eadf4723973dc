"""What snapshots know from one to the next: trees, loose tensors, and classes.

It decides only what has to be looked at again, never what a snapshot holds: all of it is compared
with what is there before it counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flordb.record.anchors import Kinds
from flordb.record.leaves import Leaf, Loose, Unfit
from flordb.record.reach import Bases, Classes, Path
from flordb.record.tree import Taken, Tree

_MOST_MISSES = 3
"""A tree that never fits is not made again and again."""

_MOST_ROOTS = 1_000


class Trees:
    """What the boundaries of one run know: trees, tensors outside of them, and classes."""

    def __init__(self) -> None:
        self.kinds: Kinds = {}
        self.foreign: dict[type, Bases] = {}
        self.bare: set[type] = set()
        self._of: dict[tuple[str, Path], Tree] = {}
        self._latest: dict[Path, Tree] = {}
        self._misses: dict[tuple[str, Path], int] = {}
        self._kind = ""
        self._recurs = False
        self._used: list[Tree | Loose] = []
        self._tensors: dict[Path, Loose] = {}
        self._by_root: dict[tuple[str, int], Tree] = {}
        self._learned: dict[int, Classes] = {}

    def known(self, value: Any) -> Classes | None:
        """The project's classes below a module or an optimizer, if nothing else is there than at
        the last boundary of this kind, and no function of the project's."""
        tree = self._by_root.get((self._kind, id(value)))
        if tree is None:
            return None
        self._used.append(tree)
        return tree.known(value)

    def learn(self, value: Any, classes: Classes) -> None:
        """There are these classes now."""
        self._learned[id(value)] = classes

    def _rooted(self, value: Any, tree: Tree) -> None:
        if len(self._by_root) > _MOST_ROOTS:
            self._by_root.clear()
        self._by_root[self._kind, id(value)] = tree
        if id(value) in self._learned:
            tree.learn(value, self._learned[id(value)])

    def begin(self, kind: str, recurs: bool) -> None:
        """A snapshot begins at this kind of boundary, which may come again or not."""
        self._kind, self._recurs = kind, recurs

    def find(self, path: Path, value: Any, first: int, numbers: dict[int, int]) -> Tree | None:
        """A tree that fits what is at ``path`` now.

        Parameters: ``first``, the number that its first anchor is to have; ``numbers``, those of
        the anchors met before, by their ids.
        """
        key = self._kind, path
        own = self._of.get(key)
        tree = own or self._latest.get(path)
        if tree is None or tree.first != first or not numbers.keys().isdisjoint(tree.numbers):
            return None
        self._used.append(tree)
        if not tree.fits(value, numbers) or (own is None and not tree.is_clean):
            self._missed(key)
            return None
        self._of[key] = tree
        self._rooted(value, tree)
        return tree

    def keep(self, path: Path, tree: Callable[[], Tree]) -> None:
        """Remember the tree at ``path``, unless it is of no use."""
        key = self._kind, path
        if not self._recurs or self._misses.get(key, 0) >= _MOST_MISSES:
            return
        try:
            made = tree()
        except (Unfit, LookupError, ValueError):
            self._misses[key] = _MOST_MISSES
            return
        self._used.append(made)
        self._of[key] = self._latest[path] = made

    def tensor_at(self, path: Path, value: Any) -> Loose | None:
        """What is known of the tensor at ``path``, outside of all trees, if it still is so."""
        found = self._tensors.get(path)
        if found is None or not found.fits(value):
            return None
        self._used.append(found)
        return found

    def keep_tensor(self, path: Path, taken: Taken) -> None:
        """Remember the tensor at ``path``, if there is no more to it than its own numbers."""
        if taken.state[3] is None or len(taken.pieces) != 1:
            return
        try:
            found = Loose(Leaf.of(taken.pieces[0], taken.origins[0]), taken.state)
        except Unfit:
            return
        if len(self._tensors) > _MOST_ROOTS:
            self._tensors.clear()
        self._tensors[path] = found
        self._used.append(found)

    def drop(self, path: Path) -> None:
        """The tree at ``path`` could not be used."""
        self._missed((self._kind, path))

    def _missed(self, key: tuple[str, Path]) -> None:
        self._of.pop(key, None)
        self._misses[key] = self._misses.get(key, 0) + 1

    def release(self) -> None:
        """The snapshot was taken: let go of the program's objects."""
        for tree in self._used:
            tree.release()
        self._used.clear()
        self._learned.clear()
