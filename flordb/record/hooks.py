"""Whether a loop has registered or removed hooks, which no snapshot holds.

A hook is code in a library's dictionary, and what is restored later finds those of the set-up. So
where a loop's iteration ends with other hooks than the loop began with, nothing can go on from
there, and the snapshot says so of the modules. torch counts all hooks that are registered, which
tells most of the time that there is nothing to look for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from flordb.record.anchors import Anchor

_KINDS = frozenset(("module", "optimizer", "tensor"))
_GLOBAL = "_global_"
_OWN = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"),
    "_post_accumulate_grad_hooks",
)


class Hooks:
    """The hooks of a run's modules, optimizers and tensors, by their numbers in torch."""

    def __init__(self) -> None:
        self._begun: set[int] | None = None
        self._used: list[Any] = []
        self._count = -1
        self._differ = False

    def differ(self, boundary: str, anchors: Iterable[Anchor]) -> bool:
        """Whether the last iteration ended with other hooks than its loop began with; so this one
        does, where it ends here."""
        torch = sys.modules.get("torch")
        is_enter = "=" not in boundary and boundary.endswith("@enter")
        if torch is None or not (is_enter or boundary.endswith("@end")):
            return self._differ
        count = torch.utils.hooks.RemovableHandle.next_id
        if is_enter or count != self._count:
            self._look(torch, anchors)
        now = {number for hooks in self._used for number in hooks}
        if self._begun is None or (is_enter and not self._differ):
            self._begun = now  # the code between two loops is run by a replay, too
        self._count, self._differ = count, now != self._begun
        return self._differ

    def _look(self, torch: Any, anchors: Iterable[Anchor]) -> None:
        """Find the dictionaries that have hooks."""
        shared = vars(torch.nn.modules.module)
        found = [d for name, d in shared.items() if name.startswith(_GLOBAL)]
        for anchor in anchors:
            if anchor.kind in _KINDS:
                found += (getattr(anchor.value, name, None) for name in _OWN)
        self._used = [hooks for hooks in found if isinstance(hooks, dict) and hooks]
