"""Counts, in whatever process imports torch with this folder on PYTHONPATH, what is computed.

Each event is a line in the file that the environment variable COUNT_FILE names: ``step`` (an
optimizer's), ``forward`` (a pass through a network in training), ``evaluate`` (through
one in evaluation), ``loader`` (the beginning of an iteration over a DataLoader). Torch's own hooks
are used, so the scripts need not know. The file is opened once, before any fork and any guard.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any


class _AfterTorch:
    """A finder that lets torch be imported, and then hooks into it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_hook(module: Any) -> None:
            load(module)
            _hook()

        spec.loader.exec_module = load_and_hook
        return spec


def _hook() -> None:
    from torch.nn import Sequential
    from torch.nn.modules.module import register_module_forward_hook
    from torch.optim.optimizer import register_optimizer_step_post_hook
    from torch.utils.data import DataLoader

    file = os.open(os.environ["COUNT_FILE"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def count(event: str) -> None:
        os.write(file, f"{event}\n".encode())

    def forward(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(module, Sequential):
            count("forward" if module.training else "evaluate")

    iterate = DataLoader.__iter__

    def counted(loader: Any) -> Any:
        count("loader")
        return iterate(loader)

    register_module_forward_hook(forward)
    register_optimizer_step_post_hook(lambda *_: count("step"))
    DataLoader.__iter__ = counted


if "COUNT_FILE" in os.environ:
    sys.meta_path.insert(0, _AfterTorch())
