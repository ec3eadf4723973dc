"""What a hindsight statement does to PyTorch's modules is undone: modes and running statistics."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def put_back() -> Iterator[None]:
    """Leaves each module in the mode, and with the buffers, that it has now.

    A mode is seen when it is set, buffers (such as the averages of a BatchNorm) before a module
    runs. Parameters are left alone: statements that change these are refused before any replay.
    """
    if not hasattr(sys.modules.get("torch"), "nn"):
        yield
        return
    import torch

    modes: list[tuple[torch.nn.Module, bool]] = []
    buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    module = torch.nn.Module
    plain = module.__setattr__

    def watched(self: torch.nn.Module, name: str, value: Any) -> None:
        if name == "training" and "training" in vars(self):
            modes.append((self, self.training))
        plain(self, name, value)

    def before(ran: torch.nn.Module, _: Any) -> None:
        for buffer in ran._buffers.values():
            if buffer is not None and id(buffer) not in buffers:
                buffers[id(buffer)] = (buffer, buffer.detach().clone())

    hook = torch.nn.modules.module.register_module_forward_pre_hook(before)
    module.__setattr__ = watched
    try:
        yield
    finally:
        module.__setattr__ = plain
        hook.remove()
        for changed, mode in reversed(modes):
            changed.training = mode
        with torch.no_grad():
            for buffer, kept in buffers.values():
                if not torch.equal(buffer, kept):
                    buffer.copy_(kept)
