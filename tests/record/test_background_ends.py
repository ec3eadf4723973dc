"""How ``flor.background.process`` ends, and what it does in a recorded run and in its replay."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.replay.support import acquire, alive, recorded_truths, truths, until, with_hindsight

# A logger without torch, so that its process is there at once. It writes when it is closed.
LOGGER = """
import os, signal, sys, time
import flordb as flor

class Log:
    def __init__(self, path):
        self.file, self.lines = open(path, "w"), []
        with open(path + ".pid", "w") as file:
            file.write(str(os.getpid()))

    def write(self, number, seconds=0.0):
        time.sleep(seconds)
        self.lines.append(f"{number}\\n")

    def flush(self):
        pass

    def close(self):
        if not self.file.closed:
            self.file.writelines(self.lines)
            self.file.close()

log = flor.background.process(Log, "log.txt")
"""
MANY = """
for number in range(1000):
    log.write(number)
"""
SLOW_ONES = """
log.flush()
for number in range(1000, 1200):
    log.write(number, 0.002)
time.sleep(0.2)  # all is sent now, and not all is made
"""


def written(folder: Path, name: str = "log.txt") -> list[int]:
    """What the logger wrote, once its process has gone."""
    pid = int((folder / f"{name}.pid").read_text())
    until(lambda: not alive(pid))
    return list(map(int, (folder / name).read_text().split()))


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("log.close()", 0),
        ("raise ValueError('the end')", 1),
        ("sys.exit(3)", 3),
        ("log.flush(); os._exit(4)", 4),
        (SLOW_ONES + "os._exit(4)", 4),
        (SLOW_ONES + "os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        (SLOW_ONES + "os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
)
def test_however_a_training_ends_all_that_was_sent_is_written(sandbox, end: str, status: int):
    sandbox.write("train.py", LOGGER + MANY + end)
    done = sandbox.run("train.py", check=False)
    assert done.returncode == status, done.stderr
    expected = 1200 if SLOW_ONES in end else 1000
    assert written(sandbox.root) == list(range(expected))
    assert "flordb" not in done.stderr
    assert not sandbox.project.runs.exists()  # nothing was recorded because of it


def test_ctrl_c_at_a_terminal_does_not_end_the_process(sandbox) -> None:
    sandbox.write(
        "train.py", LOGGER + MANY + SLOW_ONES + "print('ready', flush=True)\ntime.sleep(60)"
    )
    master, terminal = os.openpty()
    training = subprocess.Popen(
        [sys.executable, "train.py"],
        cwd=sandbox.root,
        env=sandbox.environment,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    assert training.stdout is not None
    assert training.stdout.readline() == "ready\n"
    os.write(master, b"\x03")
    _, err = training.communicate(timeout=60)
    os.close(master)
    assert training.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert written(sandbox.root) == list(range(1200))


def test_the_end_waits_for_the_process_but_not_for_ever(sandbox) -> None:
    sandbox.write("train.py", LOGGER + MANY + "log.write(1000, 600)")
    began = time.monotonic()
    done = sandbox.run("train.py", FLORDB_EXIT_WAIT_SECONDS="1")
    assert time.monotonic() - began < 60
    assert "1 calls that were submitted to flordb.background had not run 1 s" in done.stderr
    assert "Their process has as long again" in done.stderr
    assert written(sandbox.root) == []  # it was ended


def test_what_was_done_is_written_also_where_nobody_listens_any_more(sandbox) -> None:
    slow = "log.flush()\nfor number in range(1000, 2000):\n    log.write(number, 0.01)\n"
    sandbox.write("train.py", LOGGER + MANY + slow + "print('sent', flush=True)\ntime.sleep(60)")
    training = sandbox.start("train.py", FLORDB_EXIT_WAIT_SECONDS="1")
    assert training.stdout.readline() == "sent\n"
    training.stdout.close()
    training.stderr.close()
    training.kill()
    training.wait()
    found = written(sandbox.root)
    assert 1000 < len(found) < 2000
    assert found == list(range(len(found)))


def test_a_killed_training_leaves_work_for_a_while_and_what_was_done_is_written(sandbox) -> None:
    slow = "log.flush()\nfor number in range(1000, 2000):\n    log.write(number, 0.01)\n"
    sandbox.write(
        "train.py", LOGGER + MANY + slow + "time.sleep(0.2)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = sandbox.run("train.py", check=False, FLORDB_EXIT_WAIT_SECONDS="1")
    found = written(sandbox.root)
    assert 1000 < len(found) < 2000
    assert found == list(range(len(found)))
    assert f"flordb: {2000 - len(found)} calls that were submitted" in done.stderr


def test_a_slow_close_is_waited_for_but_not_for_ever(sandbox) -> None:
    slow = "class Slow(Log):\n    def close(self):\n        time.sleep(600)\n\nlog ="
    sandbox.write("train.py", LOGGER.replace("log =", slow).replace("(Log,", "(Slow,") + MANY)
    done = sandbox.run("train.py", FLORDB_EXIT_WAIT_SECONDS="1")
    assert "had not been closed 1 s after the script's end" in done.stderr
    assert written(sandbox.root) == []


def test_two_trainings_at_once_have_a_process_each(sandbox) -> None:
    sandbox.write("train.py", LOGGER.replace('"log.txt"', "sys.argv[1]") + MANY)
    both = [sandbox.start("train.py", name) for name in ("one.txt", "two.txt")]
    for training in both:
        assert training.communicate(timeout=60)[1] == ""
    for name in ("one.txt", "two.txt"):
        assert written(sandbox.root, name) == list(range(1000))


FORKS = """
if os.fork() == 0:
    log.write(-1)
    log.write(-2)
    log.close()
    own = flor.background.process(Log, "own.txt")
    own.write(1)
    own.close()
    sys.exit(0)
os.wait()
log.write(1000)
"""


def test_a_forked_child_leaves_the_objects_alone_and_may_make_its_own(sandbox) -> None:
    sandbox.write("train.py", LOGGER + MANY + FORKS)
    err = sandbox.run("train.py").stderr
    assert err.count("what its child") == 1
    assert written(sandbox.root) == list(range(1001))
    assert written(sandbox.root, "own.txt") == [1]


def test_a_worker_that_outlives_a_killed_training_does_not_hold_the_process(sandbox) -> None:
    worker = "if os.fork() == 0:\n    time.sleep(60)\nos.kill(os.getpid(), signal.SIGKILL)"
    sandbox.write("train.py", LOGGER + MANY + "log.flush()\n" + worker)
    with subprocess.Popen(
        [sys.executable, "train.py"],
        cwd=sandbox.root,
        env=sandbox.environment,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as training:
        training.wait(60)
        try:
            assert written(sandbox.root) == list(range(1000))
        finally:
            os.killpg(training.pid, signal.SIGKILL)


WITHOUT = "import os\ndel os.memfd_create\n"


def test_without_shared_memory_a_forked_child_leaves_the_objects_alone_too(sandbox) -> None:
    sandbox.write("train.py", WITHOUT + LOGGER + MANY + FORKS)
    err = sandbox.run("train.py").stderr
    assert err.count("belongs to the parent process") == 2  # of `write`, and of `close`
    found = [(sandbox.root / name).read_text().split() for name in ("log.txt", "own.txt")]
    assert [list(map(int, numbers)) for numbers in found] == [list(range(1001)), [1]]


def test_without_shared_memory_a_hanging_call_does_not_hold_up_the_end_for_ever(sandbox) -> None:
    hang = "log.write(1, 600)\nlog.write(2)\n"
    sandbox.write("train.py", WITHOUT + LOGGER + hang)
    done = sandbox.run("train.py", FLORDB_EXIT_WAIT_SECONDS="1", FLORDB_BACKGROUND_BYTES="2500")
    assert "2 calls that were submitted to flordb.background had not run" in done.stderr


@pytest.mark.parametrize("how", ["missing", "refused"])
def test_without_shared_memory_a_thread_makes_the_calls_and_closes_the_objects(sandbox, how: str):
    refused = "import os\ndef refuse(*_): raise OSError(38, 'no')\nos.memfd_create = refuse\n"
    sandbox.write("train.py", (WITHOUT if how == "missing" else refused) + LOGGER + MANY)
    err = sandbox.run("train.py").stderr
    assert ("no process for flordb.background, but a thread" in err) == (how == "refused")
    assert list(map(int, (sandbox.root / "log.txt").read_text().split())) == list(range(1000))


def test_a_call_for_which_there_is_no_memory_is_said_and_training_goes_on(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import numpy, resource\n"
        + LOGGER
        + "log.flush()\n"
        + "large = numpy.ones(10_000_000)\n"
        + "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        + "resource.setrlimit(resource.RLIMIT_AS, (size + 20_000_000,) * 2)\n"
        + "log.write(0)\nlog.write(large)\nlog.write(1)\n",
    )
    done = sandbox.run("train.py", FLORDB_BACKGROUND_BYTES="1000000")
    assert "Log.write failed in the process of flordb.background" in done.stderr
    assert "Cannot allocate memory" in done.stderr
    assert written(sandbox.root) == [0, 1]


def test_it_loads_no_library_before_it_is_used(sandbox) -> None:
    sandbox.write(
        "look.py",
        "import sys, flordb as flor\nflor.background.submit(len, '')\n"
        "print(sorted({'torch', 'numpy', 'cloudpickle', 'multiprocessing'} & set(sys.modules)))\n",
    )
    assert sandbox.run("look.py").stdout == "[]\n"


TRAINING = """
import flordb as flor, random, torch

class Norms:
    def __init__(self, path):
        self.file = open(path, "a")

    def add(self, weight, step):
        norm = weight.norm().item()
        self.file.write(f"{norm}\\n")
        flor.log("truth:norm", norm)
        flor.log("truth:size", float(weight.numpy().sum()) + step)
        weight.fill_(random.random() + torch.rand(()).item())

    def fail(self, weight):
        raise ValueError("always")

    def close(self):
        self.file.close()

def more(norms, weight):
    norms.add(weight, 100)

def main():
    torch.manual_seed(0)
    random.seed(0)
    norms = flor.background.process(Norms, "norms.txt")
    missing = flor.background.process(open, "no/such/file")
    net = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with flor.checkpointing(net=net, optimizer=optimizer):
        for epoch in flor.loop("epoch", range(3)):
            for step in flor.loop("step", range(2)):
                net(torch.randn(4, 3)).square().mean().backward()
                optimizer.step()
                norms.add(net.weight, step)
                flor.background.submit(more, norms, net.weight)
                norms.fail(net.weight)
                missing.write("text")
                drawn = random.random() + torch.rand(()).item()
                flor.log("truth:after", net.weight.sum().item() + drawn)
    norms.close()

main()
"""


def test_values_logged_in_calls_belong_where_they_were_made_also_in_a_replay(sandbox) -> None:
    sandbox.write("train.py", TRAINING)
    sandbox.commit()
    err = sandbox.run("train.py").stderr
    assert err.count("Norms.fail failed in the process") == 1
    assert err.count("open failed in the process") == 1
    found = recorded_truths(sandbox, "norm")
    assert len(found) == 6
    assert all(len(values) == 2 for values in found.values())  # of `add`, and of `more`
    sandbox.write("train.py", with_hindsight(TRAINING))
    before = sandbox.everything_of_the_users()
    names = [f"h:{name}" for name in truths(TRAINING)]
    assert names == ["h:norm", "h:size", "h:after"]
    replayed, _, report = acquire(sandbox, names)
    for name in truths(TRAINING):
        expected = recorded_truths(sandbox, name)
        assert expected == {k: v for k, v in replayed.items() if k[1] == f"h:{name}"}
    assert not report.anomalies
    assert sandbox.everything_of_the_users() == before  # its files are not written again


HANDLER = """
import numpy

class Checked(Log):
    def write(self, number, array):
        assert (array == number).all()
        super().write(number)

checked, beats = flor.background.process(Checked, "checked.txt"), [0]

def beat(*_):
    beats[0] += 1
    checked.write(-1, numpy.full(3000, -1))
    checked.flush()
    signal.setitimer(signal.ITIMER_REAL, 0.0005)  # again

signal.signal(signal.SIGALRM, beat)
signal.setitimer(signal.ITIMER_REAL, 0.0005)
for number in range(3000):
    checked.write(number, numpy.full(5000, number))
signal.signal(signal.SIGALRM, lambda *_: None)
time.sleep(0.2)  # the last of them are under way
print(beats[0])
"""


def test_a_handler_of_signals_may_call_in_the_middle_of_a_call(sandbox) -> None:
    sandbox.write("train.py", LOGGER + HANDLER)
    done = sandbox.run("train.py", FLORDB_BACKGROUND_BYTES="300000")
    found = written(sandbox.root, "checked.txt")
    assert done.stderr == ""
    assert [number for number in found if number >= 0] == list(range(3000))
    assert found.count(-1) == int(done.stdout) > 10


CALLS_BACK = """
def call_back():
    import __main__
    __main__.log.write(1)
    __main__.log.flush()
    return 2.5

class Value:
    def __reduce__(self):
        return call_back, ()
"""


def test_what_the_process_logs_may_call_it_when_it_is_read(sandbox) -> None:
    sandbox.write("values.py", CALLS_BACK)
    sandbox.write(
        "train.py",
        LOGGER + "import values\n"
        "flor.background.submit(lambda _: flor.log('value', values.Value()), log)\n"
        "log.flush()\nassert flor.background.wait(20)\ntime.sleep(0.1)\n",
    )
    assert sandbox.run("train.py").stderr == ""
    assert sandbox.logged("value") == [2.5]
    assert written(sandbox.root) == [1]
