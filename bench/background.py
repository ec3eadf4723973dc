"""Conservative logging (figure 4.1) behind the training: histograms of everything, four times an
epoch, with TensorBoard.

    python bench/background.py
    python bench/background.py calls

A small residual network trains on one core, so that one is free: torch and NumPy's BLAS have one
thread each (else TensorBoard's sums of squares are computed by BLAS threads on all cores, whoever
asks for them). Logged are the weights, gradients and activations of all its layers. Each way of
logging is a process of its own, in alternating rounds: ``none``; ``plain`` (TensorBoard as its
users call it); ``thread`` (`flordb.background.submit`); ``process`` (the same, with a writer of
`flordb.background.process`); ``fork`` (a child process for each time, which writes an event file of
its own). The clock starts when imports are done, those of the writer's process, too; how long these
take is printed. A run in which other programs took more than a tenth of a core is repeated, while
there is time. Prints medians: of the clock; of the clock without the time for which the training
thread waited for a core, which other programs may have taken; of its processor time. The machine's
own limit is what one busy loop loses while another runs, without what it waited for a core.

``calls`` prints what one ``add_scalar`` costs, of many in a row.
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
DISTURBED, SECONDS = 0.1, 220
CALLS = 10_000


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
    thread's processor, without waiting for one, and until the writer was there."""
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
    began = time.perf_counter()
    if kind == "process":
        writer.flush()
    ready = time.perf_counter() - began
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
    logged = time.perf_counter() - began
    print(json.dumps([trained, logged, used, trained - waited, ready]))


def calls() -> None:
    """Print what a call of ``add_scalar`` costs."""
    from torch.utils.tensorboard import SummaryWriter

    import flordb as flor

    with tempfile.TemporaryDirectory() as folder:
        plain = SummaryWriter(folder + "/plain")
        elsewhere = flor.background.process(SummaryWriter, folder + "/process")
        ways: dict[str, Callable[..., Any]] = {
            "plain": plain.add_scalar,
            "thread": lambda *given: flor.background.submit(plain.add_scalar, *given),
            "process": elsewhere.add_scalar,
        }
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in ways}
        for _ in range(ROUNDS):
            for kind, call in ways.items():
                elsewhere.flush()
                began, used = time.perf_counter(), time.thread_time()
                for number in range(CALLS):
                    call("loss", 0.5, number)
                seconds = time.perf_counter() - began, time.thread_time() - used
                found[kind].append(seconds)
                flor.background.wait()
        plain.close()
        elsewhere.close()
    for kind, rounds in found.items():
        clock, used = (statistics.median(c) / CALLS * 1e6 for c in zip(*rounds, strict=True))
        print(f"{kind:8} {clock:6.1f} us a call, {used:5.1f} of the thread's processor")


def _busy() -> float:
    """Seconds that all cores have worked, for all programs (Linux; elsewhere 0)."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq, *_ = map(int, file.readline().split()[1:])
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _run(kind: str, folder: str) -> tuple[list[float], float]:
    """What a training prints, and how much of a core other programs took meanwhile."""
    began, busy, ours = time.monotonic(), _busy(), os.times()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), kind],
        cwd=folder,
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, **dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")},
    )
    now = os.times()
    own = now.children_user + now.children_system - ours.children_user - ours.children_system
    others = (_busy() - busy - own) / (time.monotonic() - began)
    return json.loads(done.stdout), others


def main() -> None:
    """Run the rounds and print the table."""
    began, left = time.monotonic(), ROUNDS * len(KINDS)

    def has_time(left: int, made: int) -> bool:
        """Whether one run can be repeated, and those that are left be made."""
        passed = time.monotonic() - began
        return passed + (left + 1) * passed / (made + 1) < SECONDS

    found: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    loops: list[tuple[float, float]] = []
    disturbed: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            loops.append((_together(1), _together(2)))
            for kind in KINDS:
                tries = [_run(kind, folder)]
                left -= 1
                while tries[-1][1] > DISTURBED and has_time(left, len(disturbed)):
                    tries.append(_run(kind, folder))
                measured, others = min(tries, key=lambda tried: tried[1])
                found[kind].append(measured)
                disturbed.append(others)
    alone, beside = (statistics.median(column) for column in zip(*loops, strict=True))
    print(f"a busy loop beside another one takes {beside / alone:.2f} x as long as alone")
    medians = {
        kind: [statistics.median(column) for column in zip(*rounds, strict=True)]
        for kind, rounds in found.items()
    }
    for kind in KINDS:
        clock, logged, used, held, _ = medians[kind]
        print(
            f"{kind:8} trains {clock:6.2f} s {_over(medians, kind, 0)}"
            f"  without waiting for a core {held:5.2f} s {_over(medians, kind, 3)}"
            f"  of the processor {used:5.2f} s {_over(medians, kind, 2)}"
            f"  all logged after {logged:6.2f} s"
        )
        print("         by the clock, each:", *(f"{run[0]:.2f}" for run in found[kind]))
    print(f"the writer's process was ready after {medians['process'][4]:.1f} s")
    median, most = statistics.median(disturbed), max(disturbed)
    print(f"other programs took {median:.2f} of a core during a run, at most {most:.2f}")


def _over(medians: dict[str, list[float]], kind: str, column: int) -> str:
    """What logging adds, as a share of the training and of what it adds as it is."""
    none, plain = medians["none"][column], medians["plain"][column]
    over = medians[kind][column] - none
    return f"({over / none:+6.1%}; {over / (plain - none):5.2f} x plain's)"


if __name__ == "__main__":
    if sys.argv[1:] == ["spin"]:
        spin()
    elif sys.argv[1:] == ["calls"]:
        calls()
    elif sys.argv[1:]:
        train(sys.argv[1])
    else:
        main()
