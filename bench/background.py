"""Conservative logging (figure 4.1) behind the training: histograms of everything, four times an
epoch, with TensorBoard.

    python bench/background.py

A small residual network trains on one core, so that one is free: torch and NumPy's BLAS have one
thread each (else TensorBoard's sums of squares are computed by BLAS threads on all cores, whoever
asks for them). Logged are the weights, gradients and activations of all its layers. Each way of
logging is a process of its own, in alternating rounds: ``none``; ``plain`` (TensorBoard as its
users call it); ``thread`` (`flordb.background.submit`); ``process`` (the same, with a writer of
`flordb.background.process`); ``fork`` (a child process for each time, which writes an event file of
its own). Prints medians: of the clock; of the clock without the time for which the training thread
waited for a core, which other programs may have taken; of its processor time. The machine's own
limit is what one busy loop loses while another runs.
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
KINDS = ("none", "plain", "thread", "process", "fork")


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


def _waited() -> float:
    """Seconds for which this thread was ready to run and had no core (Linux; elsewhere 0)."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0


def spin() -> None:
    """Compute for a while in Python; prints the seconds without those of waiting for a core."""
    began, waited = time.perf_counter(), _waited()
    sum(number * number for number in range(10_000_000))
    print(time.perf_counter() - began - (_waited() - waited))


def _together(count: int) -> float:
    """How long busy loops take, if so many run at the same time."""
    command = [sys.executable, str(Path(__file__).resolve()), "spin"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return statistics.mean(float(process.communicate()[0]) for process in running)


def train(kind: str) -> None:
    """Train and log in one way; prints the seconds of the epochs, until all was logged, of the
    thread's processor, and of waiting for one."""
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
    writer = None
    if kind in ("plain", "thread"):
        writer = SummaryWriter("events")
    elif kind == "process":
        writer = flor.background.process(SummaryWriter, "events")

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
    began, used, waited = time.perf_counter(), time.thread_time(), _waited()
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
            elif kind in ("thread", "process"):
                flor.background.submit(histograms, writer, values, number)
            else:
                in_child(values, number)
    trained, used = time.perf_counter() - began, time.thread_time() - used
    waited = _waited() - waited
    flor.background.wait()
    if writer is not None:
        writer.close()
    while kind == "fork":
        try:
            os.wait()
        except ChildProcessError:
            break
    print(json.dumps([trained, time.perf_counter() - began, used, trained - waited]))


def main() -> None:
    """Run the rounds and print the table."""
    found: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    loops: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            loops.append((_together(1), _together(2)))
            for kind in KINDS:
                command = [sys.executable, str(Path(__file__).resolve()), kind]
                done = subprocess.run(
                    command,
                    cwd=folder,
                    capture_output=True,
                    check=True,
                    text=True,
                    env={**os.environ, **one_thread},
                )
                found[kind].append(json.loads(done.stdout))
    alone, beside = (statistics.median(column) for column in zip(*loops, strict=True))
    print(f"a busy loop beside another one takes {beside / alone:.2f} x as long as alone")
    medians = {
        kind: [statistics.median(column) for column in zip(*rounds, strict=True)]
        for kind, rounds in found.items()
    }
    for kind in KINDS:
        clock, logged, used, held = medians[kind]
        print(
            f"{kind:8} trains {clock:6.2f} s {_over(medians, kind, 0)}"
            f"  without waiting for a core {held:5.2f} s {_over(medians, kind, 3)}"
            f"  of the processor {used:5.2f} s {_over(medians, kind, 2)}"
            f"  all logged after {logged:6.2f} s"
        )
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")


def _over(medians: dict[str, list[float]], kind: str, column: int) -> str:
    """What logging adds, as a share of the training and of what it adds as it is."""
    none, plain = medians["none"][column], medians["plain"][column]
    over = medians[kind][column] - none
    return f"({over / none:+6.1%}; {over / (plain - none):5.2f} x plain's)"


if __name__ == "__main__":
    if sys.argv[1:] == ["spin"]:
        spin()
    elif sys.argv[1:]:
        train(sys.argv[1])
    else:
        main()
