"""Conservative logging (figure 4.1) behind the training: histograms of everything, four times an
epoch, with TensorBoard.

    python bench/background.py

A small residual network trains on one core, so that one is free. Logged are the weights, gradients
and activations of all its layers. Each way of logging is a process of its own, in alternating
rounds: ``none``; ``plain`` (TensorBoard as its users call it); ``thread`` (`flordb.background`);
``fork`` (a child process for each time, which writes an event file of its own). Prints medians, of
the clock and of the training thread's processor time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 3
EPOCHS, STEPS, A_STEP = 1, 48, 8
KINDS = ("none", "plain", "thread", "fork")


def _network(torch: Any) -> Any:
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.BatchNorm2d(channels),
            )

        def forward(self, x: Any) -> Any:
            return torch.relu(x + self.layers(x))

    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        *(Block(32) for _ in range(3)),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        *(Block(64) for _ in range(3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def train(kind: str) -> None:
    """Train and log in one way; prints the seconds of the epochs, and until all was logged."""
    import torch
    from torch.utils.tensorboard import SummaryWriter

    import flordb as flor

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = _network(torch)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.randn(A_STEP, 3, 32, 32), torch.randint(10, (A_STEP,))
    activations: dict[str, Any] = {}
    wanted = False

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if wanted:
                activations[name] = output.detach()

        return hook

    for name, module in net.named_modules():
        if not list(module.children()):
            module.register_forward_hook(keep(name))
    writer = SummaryWriter("events") if kind in ("plain", "thread") else None

    def histograms(writer: Any, values: dict[str, Any], step: int) -> None:
        for name, value in values.items():
            writer.add_histogram(name, value, step)

    def in_child(values: dict[str, Any], step: int) -> None:
        if os.fork() == 0:
            torch.set_num_threads(1)
            with SummaryWriter("events") as own:
                histograms(own, values, step)
            os._exit(0)

    def step_once() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()

    for _ in range(4):
        step_once()
    began, used = time.perf_counter(), time.thread_time()
    for number in range(EPOCHS * STEPS):
        wanted = number % (STEPS // 4) == STEPS // 4 - 1 and kind != "none"
        step_once()
        if wanted:
            values = {f"activations/{name}": value for name, value in activations.items()}
            for name, parameter in net.named_parameters():
                values[f"weights/{name}"] = parameter
                values[f"gradients/{name}"] = parameter.grad
            if kind == "plain":
                histograms(writer, values, number)
            elif kind == "thread":
                flor.background.submit(histograms, writer, values, number)
            else:
                in_child(values, number)
    trained, used = time.perf_counter() - began, time.thread_time() - used
    flor.background.wait()
    if writer is not None:
        writer.close()
    while kind == "fork":
        try:
            os.wait()
        except ChildProcessError:
            break
    print(json.dumps([trained, time.perf_counter() - began, used]))


def main() -> None:
    """Run the rounds and print the table."""
    found: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            for kind in KINDS:
                command = [sys.executable, str(Path(__file__).resolve()), kind]
                done = subprocess.run(
                    command, cwd=folder, capture_output=True, check=True, text=True
                )
                found[kind].append(json.loads(done.stdout))
    trained = {k: statistics.median(r[0] for r in rounds) for k, rounds in found.items()}
    logged = {k: statistics.median(r[1] for r in rounds) for k, rounds in found.items()}
    used = {k: statistics.median(r[2] for r in rounds) for k, rounds in found.items()}
    over = {kind: seconds / trained["none"] - 1 for kind, seconds in trained.items()}
    for kind in KINDS:
        share = over[kind] / over["plain"]
        print(
            f"{kind:8} trains {trained[kind]:6.2f} s ({over[kind]:+7.1%}; {share:5.2f} x plain's), "
            f"of the processor {used[kind]:6.2f} s ({used[kind] / used['none'] - 1:+7.1%}), "
            f"all logged after {logged[kind]:6.2f} s"
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(sys.argv[1])
    else:
        main()
