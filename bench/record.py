"""What recording costs a training: overhead, hold-up by snapshots, bytes stored.

Six trainings in the shapes of the dissertation's Table 4.3, each recorded with the default settings
and paired with the same training with flordb disabled, alternating. Each runs in a process of its
own, forked from one that has imported torch, in a project with an empty store; timed is the loop.

Where the machine's speed varies by more than what is looked for, the clock of whole trainings tells
little. So each step, and what follows the last one of an epoch, is timed by itself: a typical epoch
is the sum of the medians, over epochs, of each of these parts, and what flor takes shows in the
part in which it takes it. Epochs with a snapshot, those after one, and others count apart. The
processors' time is that of all threads, flor's and git's too; threads of torch that wait for one
another use it as well.

One process is some percent faster than the next one with the same training, from its first step to
its last, with flor and without. So the overhead is told in steps: how many of the process's own
usual ones (the median of those in the second half of each epoch, when flor has nothing left to do)
a typical epoch takes, with flor and without. Beside it stand the clock's ratios of typical epochs,
of usual steps and of whole trainings, pair by pair.

All trainings keep the memory that they free (`flordb.replay.memory`). With glibc's defaults it is
chance, with flor and without, whether a step's memory is given back to the kernel and faulted in
again: the same training took 138 to 197 ms an epoch, with 0.6 to 1.6 million page faults, from one
process to the next. ``--default-heap`` measures that.

What a snapshot may take is told by a training that has, in its place, only its tensors hashed and
those copied that have changed: once the last step has ended, when nothing of them is in the
processor's caches, and at the end of the epoch, when most are. Beside them the machine's own
limits: memcpy into used memory, hashing, writing past the page cache.

`python bench/record.py [--default-heap] [NAME …]` runs six or those that are named; one to six
minutes each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

from flordb.replay.memory import keep_freed_memory

PAIRS = 3

HEADER = """
import flordb as flor, torch
from torch import nn
from torch.nn import functional as F
torch.manual_seed(0)
"""
STAMPS = "import json, os, time\nfrom stamps import floor, floors, mark, stamps\n"
TRAIN = """
def cpu(): return sum(os.times()[:4])
began, used = time.perf_counter(), cpu()
with flor.checkpointing(net=net, opt=opt):
    for epoch in flor.loop("epoch", range(EPOCHS)):
        mark()
        for step in flor.loop("step", range(STEPS)):
            loss = loss_of(step)
            opt.zero_grad()
            loss.backward()
            opt.step()
            flor.log("loss", loss.item())
            mark()
        floor()
        flor.log("last", loss.item())
        floor()
        mark()
mark()
seconds, used = time.perf_counter() - began, cpu() - used
with open("result.json", "w") as file:
    trained = sum(p.nbytes for group in opt.param_groups for p in group["params"])
    found = {"seconds": seconds, "cpu": used, "trained": trained, "stamps": stamps}
    json.dump({**found, "floors": floors}, file)
"""
WORKLOADS = {
    "small CNN, short epochs": """
torch.set_num_threads(1)
EPOCHS, STEPS = 50, 20
net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3),
    nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(800, 64), nn.ReLU(), nn.Linear(64, 10))
opt = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
X, Y = torch.randn(STEPS, 64, 1, 28, 28), torch.randint(10, (STEPS, 64))
def loss_of(step): return F.cross_entropy(net(X[step]), Y[step])
""",
    "ResNet-20 with BatchNorm": """
torch.set_num_threads(2)
EPOCHS, STEPS = 12, 16
class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.c2, self.b2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.short = nn.Conv2d(i, o, 1, stride) if i != o else nn.Identity()
    def forward(self, x):
        y = F.relu(self.b1(self.c1(x)))
        return F.relu(self.b2(self.c2(y)) + self.short(x))
sizes = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
net = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
    *[Block(*s) for s in sizes], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
opt = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
X, Y = torch.randn(STEPS, 32, 3, 32, 32), torch.randint(10, (STEPS, 32))
def loss_of(step): return F.cross_entropy(net(X[step]), Y[step])
""",
    "transformer, short epochs": """
torch.set_num_threads(2)
EPOCHS, STEPS = 12, 6
layer = nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.0, batch_first=True)
net = nn.Sequential(nn.TransformerEncoder(layer, 8, enable_nested_tensor=False), nn.Linear(512, 64))
opt = torch.optim.AdamW(net.parameters(), lr=1e-4)
X, Y = torch.randn(STEPS, 8, 64, 512), torch.randint(64, (STEPS, 8 * 64))
def loss_of(step): return F.cross_entropy(net(X[step]).reshape(-1, 64), Y[step])
""",
    "seq2seq GRU": """
torch.set_num_threads(1)
EPOCHS, STEPS = 14, 12
class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(2000, 128)
        self.encoder = nn.GRU(128, 256, batch_first=True)
        self.decoder = nn.GRU(128, 256, batch_first=True)
        self.out = nn.Linear(256, 2000)
    def forward(self, x, y):
        _, h = self.encoder(self.embed(x))
        return self.out(self.decoder(self.embed(y), h)[0])
net = Seq2Seq()
opt = torch.optim.Adam(net.parameters())
X, Y = torch.randint(2000, (STEPS, 32, 20)), torch.randint(2000, (STEPS, 32, 20))
def loss_of(step):
    return F.cross_entropy(net(X[step], Y[step]).reshape(-1, 2000), Y[step].reshape(-1))
""",
    "adversarial fine-tune": """
torch.set_num_threads(1)
EPOCHS, STEPS = 30, 6
body = nn.Sequential(*[m for _ in range(64) for m in (nn.Linear(1024, 1024), nn.ReLU())])
body.requires_grad_(False)
head = nn.Linear(1024, 420)
net = nn.Sequential(body, head)
opt = torch.optim.Adam(head.parameters())
X, Y = torch.randn(STEPS, 32, 1024), torch.randint(420, (STEPS, 32))
def loss_of(step): return F.cross_entropy(net(X[step]), Y[step])
""",
    "autoencoder with EMA": """
torch.set_num_threads(1)
EPOCHS, STEPS = 20, 40
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 32),
            nn.Linear(32, 512), nn.ReLU(), nn.Linear(512, 784))
    def forward(self, x): return self.net(x)
net = Model()
ema = torch.optim.swa_utils.AveragedModel(
    net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
opt = torch.optim.Adam(net.parameters())
X = torch.rand(STEPS, 256, 784)
def loss_of(step):
    if net.training: ema.update_parameters(net)
    return F.mse_loss(net(X[step]), X[step])
""",
}
_SHORT = "transformer, short epochs"
"""Of 3 s, of which a snapshot of all of it takes some percent. Only measured where it is named."""
WORKLOADS["transformer, 100 MB"] = WORKLOADS[_SHORT].replace("STEPS = 12, 6", "STEPS = 4, 24")


def _stamping(floors: bool) -> types.ModuleType:
    """A module that takes the time, of which no snapshot knows.

    Parameters: ``floors``, whether ``floor`` hashes and copies, and tells what that takes.
    """
    module = types.ModuleType("stamps")
    # Its functions are found by their names, and so are none of the script's objects.
    exec(
        "import time\nstamps, floors = [], []\ndef mark(): stamps.append(time.perf_counter())\n"
        "def floor(): pass\n",
        vars(module),
    )
    if floors:
        module.floor = _Floor(module.floors)  # type: ignore[attr-defined]
    return module


class _Floor:
    """Hashes all tensors, and copies those that have changed, into memory that was used before."""

    def __init__(self, floors: list[tuple[float, int]]) -> None:
        """``floors``: takes the seconds and the bytes hashed of each time."""
        self._floors = floors
        self._tensors: list[Any] = []
        self._known: dict[int, str] = {}
        self._copies: Any = None

    def __call__(self) -> None:
        import numpy as np

        from flordb.store.objects import digest

        arrays = self._arrays()
        size = sum(array.nbytes for array in arrays)
        if self._copies is None:
            self._copies = np.ones(2 * size, np.uint8)
        at = 0
        began = time.perf_counter()
        for array in arrays:
            found, place = digest(array.data), array.ctypes.data
            if self._known.get(place) != found:
                self._known[place] = found
                self._copies[at : at + array.nbytes] = array
                at += array.nbytes
        self._floors.append((time.perf_counter() - began, size))

    def _arrays(self) -> list[Any]:
        """The bytes of each tensor that there is."""
        import gc

        import torch

        if not self._tensors:
            self._tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
        gradients = [found.grad for found in self._tensors if found.is_leaf]
        found = {}
        for tensor in (*self._tensors, *(grad for grad in gradients if grad is not None)):
            storage = tensor.untyped_storage()
            if size := storage.nbytes():
                whole = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,))
                found[storage.data_ptr()] = whole.numpy()
        return list(found.values())


def _epochs(result: dict[str, Any], steps: int) -> list[list[float]]:
    """The seconds of the parts of each epoch: its steps, their loop's end, its own end."""
    stamps = result["stamps"]
    parts = [after - before for before, after in pairwise(stamps)]
    size = steps + 2
    return [parts[at : at + size] for at in range(0, len(parts), size)]


def _usual_step(epochs: list[list[float]], steps: int) -> float:
    """Seconds of a step in the second half of an epoch."""
    return statistics.median(part for parts in epochs[1:] for part in parts[steps // 2 : steps])


def _typical(epochs: list[tuple[Any, list[float]]]) -> float:
    """The seconds of an epoch on average, of which each kind is typical: see above.

    Parameters: ``epochs``, the kind and the parts of each.
    """
    kinds: dict[Any, list[list[float]]] = {}
    for kind, parts in epochs:
        kinds.setdefault(kind, []).append(parts)
    total = 0.0
    for found in kinds.values():
        total += len(found) * sum(map(statistics.median, zip(*found, strict=True)))
    return total / len(epochs)


def _kinds(epochs: list[list[float]], taken: set[int]) -> list[tuple[Any, list[float]]]:
    """Each epoch but the first, in which memory is found: with a snapshot, after one, or neither,
    and the last, which ends with the loop."""
    last = len(epochs) - 1
    return [
        ((number in taken, number - 1 in taken, number == last), parts)
        for number, parts in enumerate(epochs)
        if number
    ]


def _run(root: Path, disabled: bool, keep: bool, floors: bool = False) -> dict[str, Any]:
    """Train in a forked process; what it measured.

    Parameters: ``keep``, whether it keeps the memory that it frees; ``floors``, whether it hashes
    and copies in the place of snapshots.
    """
    subprocess.run(["rm", "-rf", str(root / ".flor")], check=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(root)
            os.environ["FLORDB_DISABLED"] = str(int(disabled))
            sys.argv = ["train.py"]
            sys.modules["stamps"] = _stamping(floors)
            if keep:
                keep_freed_memory()
            runpy.run_path("train.py", run_name="__main__")
            import flordb

            flordb.commit()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit("a training failed")
    found: dict[str, Any] = json.loads((root / "result.json").read_text())
    return found


def _snapshots(root: Path) -> dict[str, dict[str, Any]]:
    """By boundary: hold-up, CPU behind the training (s), bytes stored, bytes in the snapshot."""
    from flordb.store.runfile import read_run
    from flordb.store.snapshots import SnapshotStore

    (path,) = (p for p in (root / ".flor" / "runs").iterdir() if ".jsonl" in p.name)
    store = SnapshotStore(root / ".flor" / "snapshots" / path.name.partition(".jsonl")[0])
    found: dict[str, dict[str, Any]] = {}
    for line in read_run(path).singly():
        if line["k"] == "snap":
            found.setdefault(line["at"], {})["held"] = line["s"]
        elif line["k"] == "time" and line["w"] == "snapshot":
            manifest = store.load(line["at"])
            size = sum(block.size for block in manifest.blocks)
            more = {"cpu": line["cpu"], "stored": line["bytes"], "size": size}
            found.setdefault(line["at"], {}).update(more)
    return found


def _limits(folder: Path) -> dict[str, float]:
    """The machine's speeds in bytes a second."""
    import ctypes

    from flordb.record.buffers import Buffer
    from flordb.store.objects import ObjectStore, digest

    size = 128_000_000
    one, other = Buffer(-(-size // 4096) * 4096), Buffer(-(-size // 4096) * 4096)
    one.size = other.size = size
    ctypes.memset(one.address, 1, size)
    ctypes.memset(other.address, 1, size)
    speeds: dict[str, list[float]] = {"memcpy": [], "hash": [], "disk": []}
    for number in range(5):
        store = ObjectStore(folder / str(number))
        for name, work in (
            ("memcpy", lambda: ctypes.memmove(other.address, one.address, size)),
            ("hash", lambda: digest(one.view)),
            ("disk", lambda s=store: s.put_aligned("00" + "0" * 30, one.memory, size)),
        ):
            began = time.perf_counter()
            work()
            speeds[name].append(size / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in speeds.items()}


def _measure(
    name: str, root: Path, limits: dict[str, float], keep: bool
) -> tuple[float, float, float, float]:
    """Measure and print a workload: its overhead, the share of the time that it was held up, the
    overhead by the clock, and how much longer usual steps took."""
    (root / "train.py").write_text(HEADER + STAMPS + WORKLOADS[name] + TRAIN)
    sizes = re.search(r"EPOCHS, STEPS = (\d+), (\d+)", WORKLOADS[name])
    assert sizes is not None
    count, steps = map(int, sizes.groups())
    clocks, processors, plains, changed = [], [], [], 0.0
    typical: list[float] = []
    usual: list[float] = []
    every: tuple[list[Any], list[Any]] = ([], [])
    snapshots: dict[str, dict[str, Any]] = {}
    for number in range(PAIRS):
        results: dict[bool, dict[str, Any]] = {}
        for disabled in (True, False) if number % 2 == 0 else (False, True):
            results[disabled] = _run(root, disabled, keep)
            if not disabled:
                snapshots = _snapshots(root)
        plain, recorded = results[True], results[False]
        inside = {at: s for at, s in snapshots.items() if "=" in at}
        taken = {int(at.split("=")[1].split("@")[0].split("/")[0]) for at in inside}
        epoch, step = [], []
        for all_epochs, found, at in zip(every, (plain, recorded), (set(), taken), strict=True):
            epochs = _epochs(found, steps)
            one = _usual_step(epochs, steps)
            kinds = _kinds(epochs, at)
            all_epochs += [(kind, [part / one for part in parts]) for kind, parts in kinds]
            epoch.append(_typical(kinds))
            step.append(one)
        typical.append(epoch[1] / epoch[0] - 1)
        usual.append(step[1] / step[0] - 1)
        processors.append(recorded["cpu"] / plain["cpu"] - 1)
        clocks.append(recorded["seconds"] / plain["seconds"] - 1)
        plains.append(plain["seconds"])
        changed = recorded["trained"]
    here = _run(root, True, keep, floors=True)["floors"]
    floors = [after[0] + end[0] for after, end in zip(here[2::2], here[3::2], strict=True)]
    hashed = here[-1][1]
    held = [s["held"] for s in inside.values()]
    total = sum(s.get("held", 0.0) for s in snapshots.values())
    outside = total - sum(held)
    last = [s for at, s in inside.items() if at.endswith("@exit")][-1:]
    bound = [
        s["size"] / limits["hash"] + min(s["stored"], s["size"]) / limits["memcpy"]
        for s in inside.values()
    ]
    ratio = statistics.median(h / b for h, b in zip(held, bound, strict=True)) if held else 0.0
    by_epoch = [sum(held[at : at + 2]) for at in range(0, len(held), 2)]
    in_place = statistics.median(by_epoch) / statistics.median(floors) if held else 0.0
    per_epoch = _typical(every[1]) / _typical(every[0]) - 1
    once = outside / statistics.median(plains)
    overhead = per_epoch + once
    print(
        f"{name:26}{statistics.median(plains):6.1f} s {overhead * 100:+6.1f} %"
        f" (a typical epoch {per_epoch * 100:+.1f} %, outside of epochs {outside:.2f} s)"
        f"  by the clock: epochs {_percent(typical)}, usual steps {_percent(usual)},"
        f" all {_percent(clocks)}"
        f"  processors {statistics.median(processors) * 100:+.1f} %"
        f"  held {total / statistics.median(plains) * 100:5.2f} %"
        f"  epochs {len(taken):2}/{count:2}"
        f"  M {statistics.median(by_epoch or [0.0]) * 1e3:6.2f} ms an epoch"
        f" = {in_place:4.2f} x (hash + copy) in its place"
        f" ({statistics.median(floors) * 1e3:.2f} ms, {hashed / 1e6:.0f} MB),"
        f" a snapshot {ratio:4.2f} x at the limits"
        + "".join(
            f"  {s['size'] / 1e6:.0f} MB, stored {s['stored'] / 1e6:.2f} MB an epoch"
            f" (trained {changed / 1e6:.2f})"
            for s in last
        ),
        flush=True,
    )
    clock = statistics.median(typical) + once
    return overhead, total / statistics.median(plains), clock, statistics.mean(usual)


def _percent(ratios: list[float]) -> str:
    return f"[{', '.join(f'{ratio * 100:+.1f}' for ratio in ratios)}]"


def main() -> None:
    """Run the workloads named on the command line, or all."""
    import torch  # noqa: F401 (once, for all processes)

    import flordb.record.recorder  # noqa: F401

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of the workloads' names")
    parser.add_argument("--default-heap", action="store_true", help="give freed memory back")
    options = parser.parse_args()
    wanted = [name.lower() for name in options.names]
    chosen = [n for n in WORKLOADS if any(a in n.lower() for a in wanted)]
    if not wanted:
        chosen = [n for n in WORKLOADS if n != _SHORT]
    if not chosen:
        raise SystemExit(f"no workload is named {options.names}; there are {list(WORKLOADS)}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "proj"
        root.mkdir()
        subprocess.run(["git", "init", "--quiet", str(root)], check=True)
        limits = _limits(Path(folder) / "limits")
        print("  ".join(f"{name} {speed / 1e9:.1f} GB/s" for name, speed in limits.items()))
        results = [_measure(name, root, limits, not options.default_heap) for name in chosen]
    overheads, held, clocks, usual = (statistics.mean(v) * 100 for v in zip(*results, strict=True))
    highest = max(overhead for overhead, *_ in results) * 100
    print(f"mean overhead {overheads:+.1f} %, held up {held:.2f} %; highest {highest:+.1f} %")
    print(f"by the clock: mean overhead {clocks:+.1f} %, of which usual steps {usual:+.1f} %")


if __name__ == "__main__":
    main()
