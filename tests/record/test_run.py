"""What a run leaves behind, and what it leaves alone."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path

import pytest

LOOP = """
import flordb as flor
lr = flor.arg("lr", 0.1)
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", "ab"):
        flor.log("loss", epoch + lr)
    flor.log("acc", epoch)
flor.log("done", True)
"""


def test_run_file_holds_values_with_their_contexts(sandbox) -> None:
    sandbox.write("train.py", LOOP)
    sandbox.run("train.py")
    lines = sandbox.lines()
    header = lines[0]
    assert (header["projid"], header["filename"]) == ("proj", "train.py")
    assert sandbox.logged("loss") == [0.1, 0.1, 1.1, 1.1, 2.1, 2.1]
    contexts = {line["c"]: line for line in lines if line["k"] == "ctx"}
    acc = [line for line in lines if line["k"] == "log" and line["n"] == "acc"]
    assert [contexts[line["c"]]["i"] for line in acc] == [0, 1, 2]
    loss = next(line for line in lines if line["k"] == "log" and line["n"] == "loss")
    step = contexts[loss["c"]]
    assert (step["l"], step["i"], step["v"], contexts[step["p"]]["l"]) == ("step", 0, "a", "epoch")
    assert lines[-1]["k"] == "exit"
    assert lines[-1]["status"] == 0


def test_kwargs_set_args_and_leave_argv(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, argparse, sys\n"
        "p = argparse.ArgumentParser(); p.add_argument('--quick', action='store_true')\n"
        "assert p.parse_args().quick\n"
        "print(flor.arg('lr', 0.1), flor.arg('n', 3), flor.arg('s', 'x'), flor.arg('b', False))\n",
    )
    done = sandbox.run("train.py", "--kwargs", "lr=0.5", "n=7", "b=true", "--quick")
    assert done.stdout == "0.5 7 x True\n"
    assert [line.get("a") for line in sandbox.lines() if line["k"] == "log"] == [
        *("given", "given", "default", "given")
    ]


def test_arg_of_another_type_is_an_error_that_names_it(sandbox) -> None:
    sandbox.write("train.py", "import flordb as flor\nflor.arg('lr', 0.1)\n")
    done = sandbox.run("train.py", "--kwargs", "lr=fast", check=False)
    assert done.returncode == 1
    assert "lr=fast: expected a value of type float, like the default 0.1" in done.stderr


def test_values_keep_their_types(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, numpy as np, torch\n"
        "for v in (float('nan'), float('-inf'), 2**70, -1, True, None, 'ünï\\n', [1, {'a': 2.5}],\n"
        "          np.float32(0.5), np.int64(3), np.array([1, 2]), torch.tensor(0.25), object,\n"
        "          {'x': float('nan')}):\n"
        "    assert flor.log('v', v) is v\n",
    )
    sandbox.run("train.py")
    from flordb.store.encoding import decode_value

    values = [decode_value(line) for line in sandbox.lines() if line["k"] == "log"]
    assert math.isnan(values[0])
    assert values[1:8] == [-math.inf, 2**70, -1, True, None, "ünï\n", [1, {"a": 2.5}]]
    assert values[8:12] == [0.5, 3, [1, 2], 0.25]
    assert values[12] == "<class 'object'>"
    assert math.isnan(values[13]["x"])


def test_value_is_taken_at_the_moment_of_the_call(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor\nxs = [1]\nflor.log('xs', xs)\nxs.append(2)\nflor.log('xs', xs)\n",
    )
    sandbox.run("train.py")
    assert sandbox.logged("xs") == [[1], [1, 2]]


def test_recording_leaves_everything_of_the_users_as_it_was(sandbox) -> None:
    sandbox.write("train.py", LOOP)
    sandbox.write("tracked.txt", "one\n")
    sandbox.write(".gitignore", "*.log\n")
    sandbox.commit()
    sandbox.write("tracked.txt", "stashed\n")
    sandbox.git("stash")
    sandbox.write("tracked.txt", "staged\n")
    sandbox.git("add", "tracked.txt")
    sandbox.write("tracked.txt", "changed\n")
    sandbox.write("new.py", "x = 1\n")
    sandbox.write("noise.log", "ignored\n")
    before = sandbox.everything_of_the_users()
    sandbox.run("train.py")
    assert sandbox.everything_of_the_users() == before


def _version_files(sandbox, number: int = -1) -> dict[str, str]:
    commit = next(line["commit"] for line in sandbox.lines(number) if line["k"] == "version")
    names = sandbox.git("ls-tree", "-r", "--name-only", commit).split()
    return {name: sandbox.git("show", f"{commit}:{name}") for name in names}


def test_version_is_the_exact_code_with_changes_and_untracked_files(sandbox) -> None:
    sandbox.write("train.py", LOOP)
    sandbox.commit()
    sandbox.write("train.py", LOOP + "# changed\n")
    sandbox.write("helper.py", "x = 1\n")
    sandbox.write(".gitignore", "secret.txt\n")
    sandbox.write("secret.txt", "s\n")
    sandbox.run("train.py")
    files = _version_files(sandbox)
    assert files["train.py"].endswith("# changed\n")
    assert files["helper.py"] == "x = 1\n"
    assert "secret.txt" not in files


def test_edits_made_during_training_do_not_belong_to_the_version(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, pathlib, time\n"
        "flor.log('a', 1)\ntime.sleep(1)\n"
        "p = pathlib.Path('train.py'); p.write_text(p.read_text() + '# edited')\n",
    )
    sandbox.run("train.py")
    assert not _version_files(sandbox)["train.py"].endswith("# edited")


def test_equal_code_is_the_same_version_and_both_runs_land_on_flors_branch(sandbox) -> None:
    sandbox.write("train.py", LOOP)
    sandbox.commit()
    sandbox.run("train.py")
    sandbox.run("train.py")
    commits = [
        line["commit"] for n in (0, 1) for line in sandbox.lines(n) if line["k"] == "version"
    ]
    assert commits[0] == commits[1]
    tip = sandbox.git("ls-tree", "-r", "--name-only", "flor/main").split()
    assert f".flor/runs/{sandbox.run_files()[1].name}" in tip
    assert len(sandbox.git("rev-list", "--first-parent", "flor/main", "^main").split()) == 3
    assert sandbox.git("for-each-ref", "refs/flor/runs") == ""


def test_runs_at_the_same_time_all_land(sandbox) -> None:
    sandbox.write("train.py", LOOP)
    sandbox.commit()
    processes = [sandbox.start("train.py") for _ in range(4)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    from flordb.store.history import list_run_files

    names = {path.name for path in sandbox.run_files()}
    assert len(names) == 4
    assert names == set(list_run_files(sandbox.root))


@pytest.mark.parametrize("state", ["detached", "merge", "rebase", "worktree", "unborn", "taken"])
def test_recording_in_unusual_states_of_git_changes_nothing(sandbox, state, tmp_path) -> None:
    sandbox.write("train.py", LOOP)
    sandbox.write("f", "1\n")
    sandbox.commit()
    if state == "detached":
        sandbox.git("checkout", "--quiet", "--detach")
    elif state in ("merge", "rebase"):
        sandbox.git("checkout", "--quiet", "-b", "other")
        sandbox.write("f", "2\n")
        sandbox.commit()
        sandbox.git("checkout", "--quiet", "main")
        sandbox.write("f", "3\n")
        sandbox.commit()
        with pytest.raises(Exception, match="exit status 1"):
            sandbox.git(state, "other")
    elif state == "worktree":
        sandbox.git("worktree", "add", "--quiet", str(tmp_path / "proj2"), "-b", "tree")
        sandbox.root = tmp_path / "proj2"
    elif state == "unborn":
        sandbox.git("checkout", "--quiet", "--orphan", "fresh")
    else:
        sandbox.git("branch", "flor")
    before = {k: v for k, v in sandbox.everything_of_the_users().items() if state != "worktree"}
    done = sandbox.run("train.py")
    assert done.stderr == ""
    if state != "worktree":
        assert sandbox.everything_of_the_users() == before
    from flordb.store.history import list_run_files

    assert set(list_run_files(sandbox.root)) == {path.name for path in sandbox.run_files()}


def test_outside_git_values_are_recorded_and_the_cost_is_said_once(folder) -> None:
    folder.write("train.py", LOOP)
    done = folder.run("train.py")
    assert done.stderr.count("not in a git repository") == 1
    assert f"{folder.root / 'train.py'}:" in done.stderr  # the user's line, not one of ours
    assert "cannot be replayed" in done.stderr
    assert folder.logged("acc") == [0, 1, 2]


def test_script_outside_the_repository_is_recorded_without_a_version(sandbox, tmp_path) -> None:
    script = tmp_path / "elsewhere.py"
    script.write_text(LOOP)
    done = sandbox.run(str(script))
    assert "lies outside the repository" in done.stderr
    assert sandbox.logged("acc") == [0, 1, 2]
    version = next(line for line in sandbox.lines() if line["k"] == "version")
    assert version["commit"] is None


@pytest.mark.parametrize(
    ("ending", "status", "error"),
    [
        ("raise ValueError('bad batch')", 1, "ValueError: bad batch"),
        ("import sys; sys.exit(3)", 3, None),
        ("import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", 143, None),
        ("exit(4)", 4, None),
        ("quit()", 0, None),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
    ],
)
def test_end_of_a_run_is_told_truthfully_and_nothing_is_lost(
    sandbox, ending, status, error
) -> None:
    body = "import flordb as flor\nfor i in range(500):\n    flor.log('x', i)\n"
    sandbox.write("train.py", body + ending)
    done = sandbox.run("train.py", check=False)
    assert done.returncode in (status, -signal.SIGTERM, -signal.SIGINT, 130)
    assert sandbox.logged("x") == list(range(500))
    last = sandbox.lines()[-1]
    assert last["k"] == "exit"
    assert last["status"] == status
    assert error is None or last["error"] == error


def test_kill_9_costs_at_most_a_fraction_of_a_second(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, time, itertools\n"
        "for i in itertools.count():\n    flor.log('t', time.time())\n    time.sleep(0.001)\n",
    )
    process = sandbox.start("train.py")
    time.sleep(2.5)
    killed = time.time()
    process.kill()
    process.wait()
    times = sandbox.logged("t")
    assert len(times) > 100
    assert killed - times[-1] < 0.5


def test_deleted_store_costs_nothing(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, shutil, time\n"
        "flor.log('x', 1)\ntime.sleep(0.5)\nshutil.rmtree('.flor')\nflor.log('x', 2)\n",
    )
    sandbox.run("train.py", check=False)
    assert sandbox.logged("x") == [1, 2]


def test_store_that_cannot_be_made_is_said_once_and_training_goes_on(sandbox) -> None:
    sandbox.write(".flor", "in the way")
    sandbox.write("train.py", LOOP + "print('trained')\n")
    done = sandbox.run("train.py")
    assert done.stdout == "trained\n"
    assert done.stderr.count("this run is not recorded") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("options", [(), ("-Werror",)])
def test_full_disk_is_said_once_and_training_goes_on(sandbox, options) -> None:
    sandbox.write(
        "full.py",
        "import os\n"
        "def write(fd, data):\n"
        "    raise OSError(28, 'No space left on device')\n"
        "import flordb as flor\nflor.log('before', 1)\n"
        "import time; time.sleep(0.3)\nos.write = write\n"
        "for i in range(10):\n    flor.log('x', i)\n    time.sleep(0.05)\n"
        "print('trained')\n",
    )
    done = sandbox.run(*options, "full.py")
    assert done.stdout == "trained\n"
    assert done.stderr.count("cannot be written: [Errno 28] No space left on device") == 1


def test_disabled_records_nothing(sandbox) -> None:
    sandbox.write("train.py", LOOP + "print(lr)\n")
    done = sandbox.run("train.py", "--kwargs", "lr=2.0", FLORDB_DISABLED="1")
    assert done.stdout == "2.0\n"
    assert not (sandbox.root / ".flor").exists()


def test_commit_ends_a_run_and_the_next_call_begins_another(sandbox) -> None:
    sandbox.write(
        "serve.py",
        "import flordb as flor\n"
        "for n in range(2):\n"
        "    with flor.iteration('document', None, f'd{n}'):\n"
        "        flor.log('color', n)\n"
        "    flor.commit()\n",
    )
    sandbox.run("serve.py")
    assert [sandbox.logged("color", n) for n in (0, 1)] == [[0], [1]]
    context = next(line for line in sandbox.lines(1) if line["k"] == "ctx")
    assert (context["l"], context["i"], context["v"]) == ("document", 0, "d1")


def test_start_can_be_set_for_simulations(sandbox) -> None:
    sandbox.write("train.py", LOOP)
    sandbox.run("train.py", FLORDB_TSTAMP="2023-06-23T10:00:00+02:00")
    assert sandbox.lines()[0]["tstamp"] == "2023-06-23T08:00:00.000000Z"


def test_children_log_nothing_and_say_so_once(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, torch, multiprocessing as mp\n"
        "class Data(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, i):\n"
        "        flor.log('inside', i)\n        return i\n"
        "def child(): flor.log('spawned', 1)\n"
        "if __name__ == '__main__':\n"
        "    loader = torch.utils.data.DataLoader(Data(), num_workers=2)\n"
        "    for e in flor.loop('epoch', range(2)):\n"
        "        for x in flor.loop('step', loader):\n            flor.log('x', x.item())\n"
        "    p = mp.get_context('spawn').Process(target=child); p.start(); p.join()\n"
        "    assert p.exitcode == 0\n",
    )
    done = sandbox.run("train.py")
    assert sandbox.logged("x") == [*range(8), *range(8)]
    assert sandbox.logged("inside") == []
    assert len(sandbox.run_files()) == 1
    assert "'spawned' is not recorded" in done.stderr


def test_ranks_of_one_job_are_one_run_with_a_file_each(sandbox) -> None:
    sandbox.write("train.py", LOOP)
    sandbox.commit()
    environments = [
        {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": "29511"} for rank in (1, 0)
    ]
    processes = [sandbox.start("train.py", **env) for env in environments]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    headers = [sandbox.lines(number)[0] for number in (0, 1)]
    assert {header["rank"] for header in headers} == {0, 1}
    assert headers[0]["tstamp"] == headers[1]["tstamp"]
    versions = [x["commit"] for n in (0, 1) for x in sandbox.lines(n) if x["k"] == "version"]
    assert versions.count(None) == 1


def test_runs_that_a_script_reads_are_noted_in_its_run_file(sandbox) -> None:
    sandbox.write("train.py", LOOP)
    sandbox.run("train.py")
    tstamp = sandbox.lines()[0]["tstamp"]
    sandbox.write(
        "infer.py",
        "import flordb as flor\nflor.log('begin', 1)\n"
        "assert len(flor.utils.latest(flor.dataframe('acc'))) == 3\n",
    )
    sandbox.run("infer.py")
    read = next(line for line in sandbox.lines() if line["k"] == "read")
    assert read["runs"] == [["proj", tstamp, "train.py"]]


def test_loading_puts_a_runs_state_into_live_objects(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, torch\n"
        "net = torch.nn.Linear(2, 1)\n"
        "with flor.checkpointing(model=net):\n"
        "    for epoch in flor.loop('epoch', range(3)):\n"
        "        net.weight.data.fill_(epoch + 0.5)\n"
        "        flor.log('acc', epoch)\n",
    )
    sandbox.run("train.py")
    sandbox.write(
        "infer.py",
        "import flordb as flor, torch\n"
        "rows = flor.dataframe('acc')\n"
        "net = torch.nn.Linear(2, 1)\n"
        "# Several may be the best, as in figure 6.6: the first of them counts.\n"
        "for best in (rows[rows.acc == 1], rows[rows.acc >= 1]):\n"
        "    net.weight.data.zero_()\n"
        "    with flor.loading({'model': net}, best):\n"
        "        print(net.weight.flatten().tolist())\n",
    )
    assert sandbox.run("infer.py").stdout == "[1.5, 1.5]\n" * 2


def test_threads_may_log_at_once(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, threading\n"
        "def work(n):\n    for i in range(2000): flor.log(f'v{n}', i)\n"
        "ts = [threading.Thread(target=work, args=(n,)) for n in range(4)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]\n",
    )
    sandbox.run("train.py")
    for n in range(4):
        assert sandbox.logged(f"v{n}") == list(range(2000))


@pytest.mark.parametrize("leave", ["break", "return", "raise"])
def test_loop_that_is_left_early_gives_back_its_context(sandbox, leave) -> None:
    how = {"break": "break", "return": "return", "raise": "raise KeyError"}[leave]
    sandbox.write(
        "train.py",
        "import flordb as flor\n"
        "def train():\n"
        "    for e in flor.loop('epoch', iter(range(100))):\n"
        "        for s in flor.loop('step', range(9)):\n"
        "            if s == 2: break\n"
        "        flor.log('in', s)\n"
        f"        if e == 1: {how}\n"
        "try: train()\nexcept KeyError: pass\n"
        "flor.log('after', 1)\n",
    )
    sandbox.run("train.py")
    after = next(x for x in sandbox.lines() if x["k"] == "log" and x["n"] == "after")
    assert after["c"] == 0
    ends = {(x["l"], x["end"]) for x in sandbox.lines() if x["k"] == "loop"}
    assert ("step", "left") in ends
    assert ("epoch", "raised" if leave == "raise" else "left") in ends


def test_iterations_that_are_cut_short_by_continue_are_iterations(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor\n"
        "w = [0]\n"
        "for e in flor.loop('epoch', range(4)):\n"
        "    for s in flor.loop('step', range(3)):\n"
        "        if s == 1: continue\n"
        "        flor.log('s', s)\n"
        "    w[0] += 1\n"
        "    if e % 2: continue\n"
        "    flor.log('e', e)\n",
    )
    sandbox.run("train.py", FLORDB_EPSILON="1000")
    assert sandbox.logged("s") == [0, 2] * 4
    assert sandbox.logged("e") == [0, 2]
    loops = [(x["l"], x["n"], x["end"]) for x in sandbox.lines() if x["k"] == "loop"]
    assert loops == [("step", 3, "exhausted")] * 4 + [("epoch", 4, "exhausted")]
    taken = [x["at"] for x in sandbox.lines() if x["k"] == "snap"]
    assert [at for at in taken if at.endswith("@end")] == [f"epoch={e}@end" for e in range(4)]


def test_large_untracked_files_stay_out_of_the_version_with_one_warning(sandbox) -> None:
    sandbox.write("train.py", LOOP)
    (sandbox.root / "data.bin").write_bytes(os.urandom(6_000_000))
    done = sandbox.run("train.py")
    assert done.stderr.count("too large for the version") == 1
    assert "data.bin" in done.stderr
    assert "data.bin" not in _version_files_of_names(sandbox)


def _version_files_of_names(sandbox) -> list[str]:
    commit = next(line["commit"] for line in sandbox.lines() if line["k"] == "version")
    return sandbox.git("ls-tree", "-r", "--name-only", commit).split()


def test_hooks_and_signing_of_the_user_stay_out(sandbox) -> None:
    sandbox.write("train.py", LOOP)
    sandbox.commit()
    hook = Path(sandbox.root / ".git" / "hooks" / "pre-commit")
    hook.write_text("#!/bin/sh\ntouch ../hook-ran\nexit 1\n")
    hook.chmod(0o755)
    sandbox.git("config", "commit.gpgSign", "true")
    done = sandbox.run("train.py")
    assert done.stderr == ""
    assert not (sandbox.root.parent / "hook-ran").exists()
    assert sandbox.git("rev-parse", "flor/main")


def test_children_that_are_forked_while_git_is_at_work_do_not_hold_it_up(sandbox) -> None:
    sandbox.write(
        "train.py",
        "import flordb as flor, os, signal, time\n"
        "flor.log('a', 1)\n"
        "children = []\n"
        "for _ in range(60):\n"
        "    children.append(os.fork())\n"
        "    if not children[-1]: signal.pause(); os._exit(0)\n"
        "    time.sleep(0.005)\n"
        "flor.commit()\n"
        "for child in children: os.kill(child, signal.SIGKILL)\n",
    )
    sandbox.commit()
    sandbox.run("train.py")
    assert any(line["k"] == "version" for line in sandbox.lines())
