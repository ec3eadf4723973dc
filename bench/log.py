"""What `flor.log` and a recorded loop cost, side by side with plain Python in the same run.

Prints medians of alternating rounds: an empty call, `flor.log` of a float in a nested loop, a line
of `json.dumps` written to a file, and the import.
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

CALLS = 100_000
ROUNDS = 5


def _empty(name: str, value: float) -> float:
    return value


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / CALLS


def _import_seconds(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Run the rounds in a temporary folder and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        subprocess.run(["git", "init", "--quiet"], check=True)
        import flordb as flor

        flor.log("first", 0.0)
        lines = open(Path(folder) / "lines.jsonl", "w")  # noqa: SIM115 (closed with the process)

        def empty() -> None:
            for step in range(CALLS):
                _empty("loss", step * 0.5)

        def log() -> None:
            for step in range(CALLS):
                flor.log("loss", step * 0.5)

        def loop() -> None:
            for _ in flor.loop("epoch", range(10)):
                for step in flor.loop("step", range(CALLS // 10)):
                    flor.log("loss", step * 0.5)

        def dumps() -> None:
            for step in range(CALLS):
                lines.write(json.dumps({"name": "loss", "step": step, "value": step * 0.5}) + "\n")

        found: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for work in (empty, log, loop, dumps):
                found.setdefault(work.__name__, []).append(_seconds(work))
                time.sleep(0.5)  # let the flusher finish, so that it disturbs nobody else's round
        base = statistics.median(found["dumps"])
        for name, seconds in found.items():
            median = statistics.median(seconds)
            print(f"{name:8} {median * 1e6:8.3f} µs a call  {median / base:6.2f} x json.dumps")
        imports = [_import_seconds("flordb") for _ in range(ROUNDS)]
        print(f"import   {min(imports) * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
