"""Replays side by side: how the work is shared, and what ends it early."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

import flordb
from flordb.replay import schedule
from flordb.replay.cost import makespan
from flordb.replay.execute import Progress, execute
from flordb.settings import load
from tests.replay.support import acquire, alive, plan, until

SCRIPT = """
import flordb as flor, os, time
replaying = hasattr(flor.session.peek(), "job")
state = [0]
for epoch in flor.loop("epoch", range(8)):
    for step in flor.loop("step", range(2)):
        state[0] += 1
    flor.log("state", state[0])
"""
STEP = "        state[0] += 1\n"


def _record(sandbox, text: str = SCRIPT) -> None:
    sandbox.write("train.py", text)
    sandbox.commit()
    sandbox.run("train.py")


def _look(sandbox, statement: str, text: str = SCRIPT) -> None:
    assert text.count(STEP) == 1
    sandbox.write("train.py", text.replace(STEP, f"{STEP}        {statement}\n"))


# How the work is shared.


def test_two_hundred_epochs_on_sixteen_workers_take_as_long_as_thirteen() -> None:
    """The dissertation's bound (figure 5.11): 200 / 13, or 15.38 times as fast as one worker."""
    parts = schedule.parts(range(200), 16, lambda part: float(len(part)))
    assert sorted(i for part in parts for i in part) == list(range(200))
    assert makespan(map(len, parts), 16) == 13
    split = schedule.balance(
        [tuple(range(200))], 16, len, lambda task, n: schedule.parts(task, n, len)
    )
    assert makespan(map(len, split), 16) == 13


def test_parts_are_even_in_seconds_and_begin_where_it_is_cheap() -> None:
    seconds = [9.0, *[1.0] * 9]

    def cost(part: tuple[int, ...]) -> float:
        begin = part[0] - part[0] % 5  # snapshots before 0 and 5 only
        return 0.5 + sum(seconds[begin : part[-1] + 1])

    assert schedule.parts(range(10), 2, cost) == [(0,), tuple(range(1, 10))] or (
        max(map(cost, schedule.parts(range(10), 2, cost))) == cost(tuple(range(5)))
    )


def test_long_task_is_split_among_short_ones_and_short_ones_are_not() -> None:
    tasks = [tuple(range(40)), *[(i,) for i in range(100, 110)]]
    found = schedule.balance(tasks, 4, len, lambda task, n: schedule.parts(task, n, len))
    assert makespan(map(len, found), 4) <= 14
    assert sum(len(task) == 1 for task in found) == 10
    many = [(i,) for i in range(20)]
    assert schedule.balance(many, 4, len, lambda task, n: schedule.parts(task, n, len)) == many


def test_runs_that_kept_several_cores_busy_are_replayed_by_fewer_workers(
    sandbox, monkeypatch
) -> None:
    script = SCRIPT.replace("state[0] += 1", "state[0] += 1; time.sleep(0.07)")
    _record(sandbox, script)
    monkeypatch.setattr(schedule, "cores", lambda: 8)
    sandbox.write("train.py", script + 'flor.log("end", state[0])\n')
    assert plan(sandbox, ["end"]).workers == 8  # it slept
    (file,) = sandbox.run_files()
    text = file.read_text()
    for busy, workers in ((1.2, 7), (2.1, 4), (5.0, 2), (16.0, 1)):
        file.write_text(re.sub(r'"cores": ?[\d.]+', f'"cores":{busy}', text))
        assert plan(sandbox, ["end"]).workers == workers


def test_parts_of_a_run_give_what_the_whole_gives(sandbox, monkeypatch) -> None:
    monkeypatch.setenv("FLORDB_WORKERS", "3")
    slow = SCRIPT.replace(STEP, STEP + "        time.sleep(0.1)\n")
    _record(sandbox, slow)
    _look(sandbox, 'flor.log("h", state[0])', slow)
    values, chosen, report = acquire(sandbox, ["h"])
    assert len(chosen.tasks) == 3
    assert (report.failures, report.anomalies) == ((), ())
    assert [v for (v,) in values.values()] == list(range(1, 17))


# What ends it early.


@pytest.mark.parametrize(
    ("code", "reasons"),
    [
        ("__import__('ctypes').string_at(0)", ("signal 11", "Fatal Python error: Segmentation")),
        ("os.kill(int(os.readlink('/proc/self')), 9)", ("signal 9",)),
        ("(print('my last words', file=__import__('sys').stderr, flush=True), os._exit(3))",
         ("status 3", "my last words")),
    ],
)  # fmt: skip
def test_worker_that_dies_fails_its_part_only(sandbox, monkeypatch, code, reasons) -> None:
    monkeypatch.setenv("FLORDB_WORKERS", "2")
    slow = SCRIPT.replace(STEP, STEP + "        time.sleep(0.1)\n")
    _record(sandbox, slow)
    _look(sandbox, f'flor.log("h", {code} if replaying and epoch == 7 else state[0])', slow)
    # Evaluated in the workers only: what is replayed has no `replaying` of today's.
    values, chosen, report = acquire(sandbox, ["h"])
    assert len(chosen.tasks) == 2
    assert len(report.failures) == 1
    assert all(reason in report.failures[0].reason for reason in reasons)
    assert {f"epoch={epoch}/step=0" for epoch in range(4)} <= {path for path, _ in values}


class _Enough(Exception):
    pass


def test_what_the_progress_raises_stops_all_and_keeps_complete_iterations(
    sandbox, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("FLORDB_WORKERS", "1")
    mark = tmp_path / "mark"
    _record(sandbox)
    wait = f"(open({str(mark)!r}, 'w').close(), time.sleep(60)) if epoch == 5 else 1"
    _look(sandbox, f'flor.log("h", ({wait}, state[0])[1])')
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if mark.exists() and time.time() - mark.stat().st_mtime > 0.5:
            raise _Enough

    chosen = plan(sandbox, ["h"])
    with pytest.raises(_Enough):
        execute(sandbox.project, chosen, load(sandbox.root), stop)
    assert time.time() - mark.stat().st_mtime < 15
    assert seen[0].total == len(chosen.tasks)
    with flordb.connect(sandbox.root, acquire="never") as connection:
        kept = connection.execute("SELECT epoch, h FROM flor WHERE h IS NOT NULL").fetchall()
        assert sorted({epoch for epoch, _ in kept}) == list(range(4))
        assert sorted(value for _, value in kept) == list(range(1, 9))
    # What is left, and nothing else, is asked for again.
    _look(sandbox, 'flor.log("h", state[0])')
    with flordb.connect(sandbox.root) as connection:
        again = connection.plan("SELECT epoch, h FROM flor")
        assert sorted(i for task in again.tasks for i in task.iterations) == [4, 5, 6, 7]
        rows = connection.execute("SELECT h FROM flor ORDER BY h").fetchall()
    assert [value for (value,) in rows] == list(range(1, 17))


def test_interrupt_at_the_terminal_ends_all_workers(sandbox, tmp_path) -> None:
    mark = tmp_path / "pid"
    _record(sandbox)
    wait = f"(open({str(mark)!r}, 'w').write(os.readlink('/proc/self')), time.sleep(60))"
    _look(sandbox, f'flor.log("h", {wait})')
    command = [sys.executable, "-m", "flordb", "replay", "--yes", "h"]
    client = subprocess.Popen(
        command, cwd=sandbox.root, env=sandbox.environment, stderr=subprocess.PIPE, text=True
    )
    until(lambda: mark.exists() and mark.read_text())
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=20)
    assert client.returncode == 130
    until(lambda: not alive(int(mark.read_text())))


# Nothing of one task is left for the next.


def test_tasks_find_nothing_that_others_left(sandbox, monkeypatch) -> None:
    monkeypatch.setenv("FLORDB_WORKERS", "1")
    sandbox.write("helper.py", "value = 1\n")
    text = """
import flordb as flor, os, signal, sys, helper
before = {
    "helper": helper.value,
    "path": [p for p in sys.path if "stray" in p],
    "module": "stray_module" in sys.modules,
    "variable": os.environ.get("STRAY"),
    "handler": str(signal.getsignal(signal.SIGUSR1)),
    "descriptors": len(os.listdir("/proc/self/fd")) < 16,
    "cwd": os.path.basename(os.getcwd()),
    "threads": len(os.listdir("/proc/self/task")),
}
flor.log("found", before)
sys.path.append("/stray"); sys.modules["stray_module"] = sys; os.environ["STRAY"] = "1"
signal.signal(signal.SIGUSR1, lambda *_: None)
kept = [open(os.devnull) for _ in range(50)]
os.chdir("/")
flor.log("last", 1)
"""
    for value in (1, 2, 3):
        sandbox.write("helper.py", f"value = {value}\n")
        sandbox.write("train.py", text)
        sandbox.commit()
        sandbox.run("train.py")
    sandbox.write("train.py", text.replace('flor.log("last", 1)\n', 'flor.log("h", before)\n'))
    with flordb.connect(sandbox.root) as connection:
        rows = connection.execute("SELECT h FROM flor ORDER BY tstamp").fetchall()
    found = [__import__("json").loads(text) for (text,) in rows]
    assert [each.pop("helper") for each in found] == [1, 2, 3]
    expected = {"path": [], "module": False, "variable": None, "handler": "0", "threads": 1}
    for each in found:
        assert each.pop("handler") in ("0", "Handlers.SIG_DFL")
        assert each == {k: v for k, v in expected.items() if k != "handler"} | {
            "descriptors": True,
            "cwd": sandbox.root.name,
        }


def test_library_that_starts_threads_on_import_is_left_to_the_workers(
    sandbox, tmp_path, monkeypatch
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "threaded.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n"
    )
    (library / "plain.py").write_text(
        "import os\nimporter = os.getpid()\ndef elsewhere(): return importer != os.getpid()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(library))
    sandbox.environment["PYTHONPATH"] = str(library)
    text = SCRIPT.replace("import flordb as flor", "import plain, threaded, flordb as flor")
    _record(sandbox, text)
    _look(sandbox, 'flor.log("h", plain.elsewhere())', text)
    values, _, report = acquire(sandbox, ["h"])
    assert not report.failures
    assert all(value == [True] for value in values.values())  # imported once, in the server


@pytest.mark.parametrize("start", ["fork", "fresh"])
def test_environment_is_the_runs_where_it_was_recorded(sandbox, monkeypatch, start) -> None:
    monkeypatch.setenv("FLORDB_WORKER_START", start)
    text = "import flordb as flor, os, sys\nflor.log('last', 1)\n"
    sandbox.write("train.py", text)
    sandbox.commit()
    sandbox.run("train.py", PYTHONHASHSEED="7", OMP_NUM_THREADS="3")
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.setenv("MINE", "now")
    names = "[os.environ.get(n) for n in ('PYTHONHASHSEED', 'OMP_NUM_THREADS', 'MINE')]"
    expected = subprocess.run(
        [sys.executable, "-c", "print(hash('flor'))"],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    sandbox.write("train.py", text + f"flor.log('h', [*{names}, hash('flor')])\n")
    values, _, report = acquire(sandbox, ["h"])
    assert not report.failures
    assert values == {("", "h"): [["7", "3", "now", int(expected)]]}
