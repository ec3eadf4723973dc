"""Recording when things end badly: full disks, kills, children, threads, loops of all kinds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from flordb.store.runfile import read_run


def test_a_full_disk_loses_only_what_had_no_room(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, resource, signal, time\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "flor.log('before', 1)\n"
        "time.sleep(0.5)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))\n"
        "for i in range(2000):\n    flor.log('x', i)\n"
        "time.sleep(0.3)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "flor.log('after', 1)\n"
        "print('trained')\n",
    )
    done = sandbox.run("train.py")
    assert done.stdout == "trained\n"
    assert done.stderr.count("cannot be written: [Errno 27] File too large") == 1
    assert sandbox.logged("x") == list(range(2000))  # kept until there was room again
    assert sandbox.logged("after") == [1]


def test_a_disk_that_stays_full_does_not_stop_the_training(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, resource, signal, time\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "flor.log('x', 0)\ntime.sleep(0.5)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))\n"
        "for i in range(1, 5000):\n    flor.log('x', i)\n"
        "print('trained')\n",
    )
    done = sandbox.run("train.py")
    assert done.stdout == "trained\n"
    assert "Traceback" not in done.stderr
    (path,) = sandbox.run_files()
    kept = [line["v"] for line in read_run(path).singly() if line.get("n") == "x"]
    assert kept == list(range(len(kept)))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_file_system_is_said_once(sandbox, tmp_path) -> None:
    store = sandbox.root / ".flor"
    store.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(store)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no tmpfs here")
    try:
        sandbox.write(
            "train.py",
            "import flordb as flor, os\n"
            "for i in range(40):\n"
            "    flor.log('x', os.urandom(8000).hex())\n"
            "print('trained')\n",
        )
        done = sandbox.run("train.py")
        assert done.stdout == "trained\n"
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        (path,) = sandbox.run_files()
        assert read_run(path).header["filename"] == "train.py"
    finally:
        subprocess.run(["umount", str(store)], check=True)


def test_a_run_that_is_long_goes_on_compressed_and_a_kill_leaves_it_readable(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, itertools, time\n"
        "for e in flor.loop('epoch', itertools.count()):\n"
        "    for s in flor.loop('step', range(100)):\n"
        "        flor.log('x', (e * 100 + s) / 7)\n"
        "    if e == 300: print('long', flush=True)\n"
        "    if e > 300: time.sleep(0.01)\n",
    )
    process = sandbox.start("train.py", FLORDB_COMPRESS_BYTES="100000", FLORDB_EPSILON="0.05")
    assert process.stdout.readline() == "long\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (path,) = sandbox.run_files()
    assert path.suffix == ".gz"
    values = sandbox.logged("x")
    assert len(values) > 30_000
    assert values == [number / 7 for number in range(len(values))]


def test_a_compressed_run_is_committed_and_read_from_git(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor\n"
        "for s in flor.loop('step', range(3000)):\n    flor.log('x', s / 7)\n",
    )
    sandbox.commit()
    sandbox.run("train.py", FLORDB_COMPRESS_BYTES="1000", FLORDB_EPSILON="0.05")
    (path,) = sandbox.run_files()
    assert path.name.endswith(".jsonl.gz")
    path.unlink()
    code = "import flor; print(flor.sql('SELECT count(x) AS n, sum(x) AS s FROM flor').iloc[0].n)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=sandbox.root,
        env=sandbox.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() in ("3000", "3000.0")


def test_pools_made_in_the_loop_end(sandbox) -> None:
    """A pool ends its workers by SIGTERM, also one that just began to wait for a task, in C."""
    sandbox.write(
        "train.py",
        "import flordb as flor, multiprocessing, signal\n"
        "def handler(_):\n    return signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
        "for epoch in flor.loop('epoch', range(12)):\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "        flor.log('default', all(pool.map(handler, range(4))))\n",
    )
    sandbox.run("train.py")
    assert sandbox.logged("default") == [True] * 12


def test_a_child_that_is_ended_while_it_is_forked_ends(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import os, signal\n"
        "end = lambda: os.kill(os.getpid(), signal.SIGTERM)\n"
        "os.register_at_fork(after_in_child=end)\n"
        "import flordb as flor\n"
        "for epoch in flor.loop('epoch', range(2)):\n"
        "    if (pid := os.fork()) == 0: os._exit(0)\n"
        "    flor.log('status', os.waitpid(pid, 0)[1])\n"
        "    flor.log('blocked', len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))\n",
    )
    sandbox.run("train.py")
    assert sandbox.logged("status") == [signal.SIGTERM] * 2
    assert sandbox.logged("blocked") == [0, 0]
    assert [line["status"] for line in sandbox.lines() if line["k"] == "exit"] == [0]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_cost_the_parent_nothing(sandbox, method) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, multiprocessing as mp, os, sys\n"
        "def child(how):\n"
        "    flor.log('inside', 1)\n"
        "    for x in flor.loop('c', range(3)): pass\n"
        "    if how == 'exit': os._exit(3)\n"
        "    if how == 'raise': raise KeyError\n"
        "    if how == 'leave': sys.exit(4)\n"
        "if __name__ == '__main__':\n"
        "    for i in flor.loop('epoch', range(3)):\n"
        "        flor.log('x', i)\n"
        f"        p = mp.get_context('{method}').Process(target=child, args=(\n"
        "            ['exit', 'raise', 'leave'][i],))\n"
        "        p.start(); p.join(); flor.log('code', p.exitcode)\n",
    )
    sandbox.run("train.py")
    assert sandbox.logged("x") == [0, 1, 2]
    assert sandbox.logged("code") == [3, 1, 4]
    assert sandbox.logged("inside") == []
    assert len(sandbox.run_files()) == 1
    assert sandbox.lines()[-1]["status"] == 0


def test_a_child_that_ends_by_os_exit_loses_nothing_of_its_parent(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, os\n"
        "for i in range(1000):\n"
        "    flor.log('x', i)\n"
        "    if i % 100 == 99:\n"
        "        if os.fork() == 0:\n            os._exit(0)\n"
        "        os.wait()\n",
    )
    sandbox.run("train.py")
    assert sandbox.logged("x") == list(range(1000))


def test_sigterm_while_logging_as_fast_as_possible_loses_nothing(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, itertools, os, signal\n"
        "for i in itertools.count():\n"
        "    flor.log('x', i)\n"
        "    if i == 300_000: os.kill(os.getpid(), signal.SIGTERM)\n",
    )
    done = sandbox.run("train.py", check=False)
    assert done.returncode == -signal.SIGTERM
    values = sandbox.logged("x")
    assert values == list(range(len(values)))
    assert len(values) > 300_000
    assert sandbox.lines()[-1]["k"] == "exit"


def test_threads_with_loops_of_their_own_have_contexts_of_their_own(sandbox) -> None:
    sandbox.write(
        "serve.py",
        "import flordb as flor, threading, time\n"
        "def work(n):\n"
        "    with flor.iteration('document', n, f'd{n}'):\n"
        "        for page in flor.loop('page', range(50)):\n"
        "            flor.log('text', n * 1000 + page)\n"
        "            time.sleep(0.0005)\n"
        "flor.log('begin', 1)\n"
        "ts = [threading.Thread(target=work, args=(n,)) for n in range(4)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]\n"
        "flor.log('end', 1)\n",
    )
    sandbox.run("serve.py")
    contexts = {line["c"]: line for line in sandbox.lines() if line["k"] == "ctx"}
    seen = []
    for line in sandbox.lines():
        if line["k"] == "log" and line["n"] == "text":
            page = contexts[line["c"]]
            document = contexts[page["p"]]
            assert (page["l"], document["l"]) == ("page", "document")
            assert line["v"] == document["i"] * 1000 + page["i"]
            seen.append(line["v"])
        elif line["k"] == "log":
            assert line["c"] == 0
    assert sorted(seen) == [n * 1000 + page for n in range(4) for page in range(50)]


def test_asynchronous_tasks_have_contexts_of_their_own(sandbox) -> None:
    sandbox.write(
        "serve.py",
        "import flordb as flor, asyncio\n"
        "async def handle(n):\n"
        "    with flor.iteration('request', n, None):\n"
        "        for _ in range(3):\n"
        "            flor.log('n', n)\n"
        "            await asyncio.sleep(0)\n"
        "async def main(): await asyncio.gather(*map(handle, range(5)))\n"
        "asyncio.run(main())\n",
    )
    sandbox.run("serve.py")
    contexts = {line["c"]: line for line in sandbox.lines() if line["k"] == "ctx"}
    assert all(line["p"] == 0 for line in contexts.values())
    found = [(contexts[x["c"]]["i"], x["v"]) for x in sandbox.lines() if x["k"] == "log"]
    assert sorted(found) == [(n, n) for n in range(5) for _ in range(3)]


def test_loops_over_anything_keep_their_values_and_places(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, itertools, numpy, torch\n"
        "def endless():\n    yield from itertools.count(5)\n"
        "data = torch.utils.data.DataLoader(torch.arange(6.0), batch_size=2)\n"
        "for e in flor.loop('epoch', ['a', 'b']):\n"
        "    for s in flor.loop('range', range(10, 2, -3)):\n        flor.log('r', s)\n"
        "    for s in flor.loop('endless', endless()):\n"
        "        if s == 8: break\n"
        "        flor.log('g', s)\n"
        "    for s in flor.loop('array', numpy.arange(3)):\n        flor.log('n', s)\n"
        "    for i, x in flor.loop('pairs', enumerate('xy')):\n"
        "        for k in flor.loop('deep', {'p': 1, 'q': 2}):\n            flor.log('d', x + k)\n"
        "        flor.log('after', i)\n"
        "    for b in flor.loop('batch', data):\n        flor.log('b', b.sum())\n"
        "    for s in flor.loop('range', range(2)):\n        flor.log('again', s)\n",
    )
    sandbox.run("train.py")
    contexts = {line["c"]: line for line in sandbox.lines() if line["k"] == "ctx"}

    def place(number: int) -> list[tuple[str, int, object, int]]:
        if not number:
            return []
        line = contexts[number]
        own = (line["l"], line["i"], line.get("v"), line.get("e", 0))
        return [*place(line["p"]), own]

    found: dict[str, list[tuple[object, list[tuple[str, int, object, int]]]]] = {}
    for line in sandbox.lines():
        if line["k"] == "log":
            where = place(line["c"])
            assert where[0] in [("epoch", 0, "a", 0), ("epoch", 1, "b", 0)]
            found.setdefault(line["n"], []).append((line["v"], where[1:]))
    once = {name: values[: len(values) // 2] for name, values in found.items()}
    assert all(once[name] * 2 == values for name, values in found.items())
    assert once["r"] == [(10 - 3 * i, [("range", i, 10 - 3 * i, 0)]) for i in range(3)]
    assert once["g"] == [(5 + i, [("endless", i, 5 + i, 0)]) for i in range(3)]
    assert once["n"] == [(i, [("array", i, None, 0)]) for i in range(3)]
    assert once["d"] == [
        (x + k, [("pairs", i, None, 0), ("deep", j, k, 0)])
        for i, x in enumerate("xy")
        for j, k in enumerate("pq")
    ]
    assert once["after"] == [(i, [("pairs", i, None, 0)]) for i in range(2)]
    assert once["b"] == [(4.0 * i + 1, [("batch", i, None, 0)]) for i in range(3)]
    assert once["again"] == [(i, [("range", i, i, 1)]) for i in range(2)]


def test_memory_is_bounded_where_values_come_faster_than_they_are_written(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, resource, time\n"
        "flor.log('x', 0.5); time.sleep(0.5)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for e in flor.loop('epoch', range(1)):\n"
        "    for s in flor.loop('step', range(600_000)):\n        flor.log('x', s * 0.5)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n",
    )
    done = sandbox.run("train.py", FLORDB_EPSILON="0.05")
    assert int(done.stdout) < 50_000  # kB; all events at once would be 50 MB
    assert len(sandbox.logged("x")) == 600_001
