"""Copies of what a call is given, for calls that are made in the same process."""

from __future__ import annotations

import sys
from typing import Any


class Copies:
    """Copies arguments. ``nbytes``: what the copies take; ``ready``: events of devices on which
    they are being made."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.ready: list[Any] = []

    def of(self, value: Any) -> Any:
        """``value`` with copies of what may change in it."""
        kind = type(value)
        if kind in (int, float, str, bool, type(None)):
            return value
        if kind is dict:
            return {key: self.of(item) for key, item in value.items()}
        if kind in (list, tuple):
            return kind(self.of(item) for item in value)
        numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor(value, torch)
        if numpy is not None and isinstance(value, numpy.ndarray):
            self.nbytes += value.nbytes
            return numpy.array(value)
        return value

    def _tensor(self, value: Any, torch: Any) -> Any:
        copy = value.detach().clone()
        self.nbytes += copy.nbytes
        if copy.is_cuda:
            self.ready.append(torch.cuda.current_stream(copy.device).record_event())
        return copy


def in_main_memory(value: Any) -> Any:
    """``value`` with tensors of devices brought over."""
    kind = type(value)
    if kind is dict:
        return {key: in_main_memory(item) for key, item in value.items()}
    if kind in (list, tuple):
        return kind(in_main_memory(item) for item in value)
    torch = sys.modules.get("torch")
    return value.cpu() if torch is not None and isinstance(value, torch.Tensor) else value
