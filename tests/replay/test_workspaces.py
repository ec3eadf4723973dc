"""A replay may do with the project's files what it likes, and changes none of them."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flordb.replay import guard, namespace
from flordb.replay.workspace import Workspaces, cache_folder
from tests.replay.support import acquire, alive, until

MODES = ("overlay", "links")
SCRIPT = """
import flordb as flor, random
random.seed(flor.arg("seed", 3))
weights = [0.0]
for epoch in flor.loop("epoch", range(3)):
    weights.append(random.random())
    flor.log("weight", weights[-1])
flor.log("end", sum(weights))
"""


def _record(sandbox, text: str) -> None:
    sandbox.write("train.py", text)
    sandbox.commit()
    sandbox.run("train.py")


def _add(sandbox, after: str, line: str, text: str) -> None:
    assert text.count(after) == 1
    sandbox.write("train.py", text.replace(after, after + line))


@pytest.mark.parametrize("mode", MODES)
def test_replay_leaves_everything_of_the_users_as_it_was(sandbox, monkeypatch, mode) -> None:
    monkeypatch.setenv("FLORDB_WORKSPACES", mode)
    text = SCRIPT + (
        "import os, shutil, pathlib\n"
        "open('out/metrics.txt', 'w').write('overwritten')\n"
        "open('out/deep/er.txt', 'a').write('appended')\n"
        "os.remove('out/old.txt')\n"
        "os.rename('out/a.txt', 'out/b.txt')\n"
        "os.makedirs('out/new/folder')\n"
        "shutil.rmtree('out/tree')\n"
        "pathlib.Path('single.log').write_text('x')\n"
        "flor.log('listing', sorted(os.listdir('out')))\n"
    )
    sandbox.write(".gitignore", "out/\n*.log\n")

    def fill() -> None:
        for name in ("metrics.txt", "deep/er.txt", "old.txt", "a.txt", "tree/x.txt"):
            sandbox.write(f"out/{name}", f"the user's {name}\n")
        sandbox.write("single.log", "the user's log\n")

    fill()
    _record(sandbox, text)
    (sandbox.root / "out" / "b.txt").unlink()
    for name in ("new/folder", "new"):
        (sandbox.root / "out" / name).rmdir()
    fill()
    _add(sandbox, "flor.log('listing', sorted(os.listdir('out')))\n", "flor.log('h', 1)\n", text)
    sandbox.write("staged.txt", "staged\n")
    sandbox.git("add", "staged.txt")
    before = sandbox.everything_of_the_users()
    values, _, report = acquire(sandbox, ["h"])
    assert (report.failures, report.anomalies) == ((), ())
    assert values == {("", "h"): [1]}
    assert sandbox.everything_of_the_users() == before


@pytest.mark.parametrize("mode", MODES)
def test_replay_copies_no_snapshot_that_it_reads_and_those_count_as_used(
    sandbox, monkeypatch, mode
) -> None:
    monkeypatch.setenv("FLORDB_WORKSPACES", mode)
    newest = "max(map(os.path.getmtime, glob.glob(f'{folder}/objects/*/*')))"
    text = f"import glob, os\nfolder = {str(sandbox.project.store)!r}\n" + SCRIPT
    _record(sandbox, text)
    objects = list(sandbox.project.objects.glob("*/*"))
    for path in objects:
        os.utime(path, (1, 1))
    sandbox.write("train.py", text + f"flor.log('h', {newest})\n")
    values, _, report = acquire(sandbox, ["h"])
    assert report.failures == ()
    assert values == {("", "h"): [1.0]}  # a copy would be new
    assert any(path.stat().st_mtime > 1 for path in objects)


@pytest.mark.parametrize("mode", MODES)
def test_absolute_path_into_the_project_leads_no_write_to_the_users_files(
    sandbox, monkeypatch, mode
) -> None:
    monkeypatch.setenv("FLORDB_WORKSPACES", mode)
    target = sandbox.write("precious.txt", "mine\n")
    text = SCRIPT + (
        f"open({str(target)!r}, 'w').write('run')\nflor.log('last', open({str(target)!r}).read())\n"
    )
    _record(sandbox, text)
    target.write_text("mine\n")
    after = f"flor.log('last', open({str(target)!r}).read())\n"
    _add(sandbox, after, "flor.log('h', 1)\n", text)
    values, _, report = acquire(sandbox, ["h"])
    assert target.read_text() == "mine\n"
    if mode == "overlay":
        assert (values, report.failures, report.anomalies) == ({("", "h"): [1]}, (), ())
    else:
        assert "a replay may not change" in report.failures[0].reason
        assert "train.py:" in report.failures[0].reason


C_WRITES = {
    "sqlite3": (
        "import sqlite3\nwith sqlite3.connect('data/kept.db') as db: db.execute('DELETE FROM t')\n"
    ),
    "sed": "import subprocess\nsubprocess.run(['sed', '-i', 's/1/2/', 'data/a.txt'], check=True)\n",
    "rm": "import subprocess\nsubprocess.run(['rm', '-r', 'data/folder'], check=True)\n",
    "redirect": "import os\nif os.system('echo 2 > data/a.txt'): raise OSError\n",
    "mv": "import subprocess\nsubprocess.run(['mv', 'data/folder', 'data/other'], check=True)\n",
    "truncate": ("import ctypes\nif ctypes.CDLL(None).truncate(b'data/a.txt', 0): raise OSError\n"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", list(C_WRITES))
def test_writes_that_python_does_not_see_do_not_get_through(
    sandbox, monkeypatch, mode, way
) -> None:
    monkeypatch.setenv("FLORDB_WORKSPACES", mode)
    sandbox.write(".gitignore", "data/\n")
    sandbox.write("data/a.txt", "1\n")
    sandbox.write("data/folder/b.txt", "1\n")
    sqlite = "import sqlite3; d = sqlite3.connect('data/kept.db'); d.execute('CREATE TABLE t(i)')"
    command = [sys.executable, "-c", f"{sqlite}; d.execute('INSERT INTO t VALUES (1)'); d.commit()"]
    subprocess.run(command, cwd=sandbox.root, check=True)
    text = SCRIPT + "if hasattr(flor.session.peek(), 'job'):\n    "
    text += C_WRITES[way].replace("\n", "\n    ").rstrip() + "\nflor.log('last', 1)\n"
    _record(sandbox, text)
    _add(sandbox, "flor.log('last', 1)\n", "flor.log('h', 1)\n", text)
    before = sandbox.everything_of_the_users()
    values, _, report = acquire(sandbox, ["h"])
    assert sandbox.everything_of_the_users() == before
    if mode == "overlay":
        assert (values, report.failures) == ({("", "h"): [1]}, ())
    elif not values:
        assert report.failures[0].reason  # refused, which is what the kernel can do here


@pytest.mark.parametrize("mode", MODES)
def test_hdf5_file_of_the_users_is_kept(sandbox, monkeypatch, mode) -> None:
    h5py = pytest.importorskip("h5py")
    monkeypatch.setenv("FLORDB_WORKSPACES", mode)
    sandbox.write(".gitignore", "*.h5\n")
    with h5py.File(sandbox.root / "data.h5", "w") as file:
        file["x"] = [1, 2, 3]
    text = SCRIPT + (
        "import h5py\nif hasattr(flor.session.peek(), 'job'):\n"
        "    with h5py.File('data.h5', 'a') as file:\n"
        "        file['x'][0] = 5\n        del file['x']\n        file['y'] = [0]\n"
        "flor.log('last', 1)\n"
    )
    _record(sandbox, text)
    _add(sandbox, "flor.log('last', 1)\n", "flor.log('h', 1)\n", text)
    before = sandbox.everything_of_the_users()
    values, _, report = acquire(sandbox, ["h"])
    assert sandbox.everything_of_the_users() == before
    if mode == "overlay":
        assert (values, report.failures) == ({("", "h"): [1]}, ())
    else:
        # Python does not see who opens it, and the kernel refuses.
        assert "Permission denied" in report.failures[0].reason


def test_files_elsewhere_are_read_only(sandbox, monkeypatch, tmp_path) -> None:
    # The system's temporary folder, which the test's files are in, would be writable.
    monkeypatch.setattr(guard, "writable_folders", lambda: ("/dev", "/proc"))
    target = tmp_path / "notes.txt"
    target.write_text("mine\n")
    text = SCRIPT + (
        "if hasattr(flor.session.peek(), 'job'):\n"
        f"    open({str(target)!r}, 'a').write('x')\nflor.log('last', 1)\n"
    )
    _record(sandbox, text)
    _add(sandbox, "flor.log('last', 1)\n", "flor.log('h', 1)\n", text)
    _, _, report = acquire(sandbox, ["h"])
    assert target.read_text() == "mine\n"
    assert "Read-only file system" in report.failures[0].reason
    assert "a replay may not change" in report.failures[0].reason


def test_folder_of_the_users_is_renamed_within_the_workspace_only(sandbox) -> None:
    sandbox.write(".gitignore", "out/\n")
    text = SCRIPT + (
        "import os\n"
        "if os.path.exists('out/last'): os.rename('out/last', 'out/before')\n"
        "flor.log('listing', sorted(os.listdir('out')))\n"
    )
    sandbox.write("out/last/model.txt", "weights\n")
    _record(sandbox, text)
    (sandbox.root / "out" / "before").rename(sandbox.root / "out" / "last")
    after = "flor.log('listing', sorted(os.listdir('out')))\n"
    _add(sandbox, after, "flor.log('h', open('out/before/model.txt').read())\n", text)
    before = sandbox.everything_of_the_users()
    values, _, report = acquire(sandbox, ["h"])
    assert (report.failures, report.anomalies) == ((), ())
    assert values == {("", "h"): ["weights\n"]}
    assert sandbox.everything_of_the_users() == before


def test_newer_files_are_no_part_of_an_old_version(sandbox) -> None:
    text = SCRIPT + (
        "import os\n"
        "names = ('new.py', 'pkg', 'pkg/sub', 'new.txt', 'data.bin', 'old.txt')\n"
        "flor.log('there', [name for name in names if os.path.exists(name)])\n"
    )
    sandbox.write(".gitignore", "*.bin\n")
    sandbox.write("data.bin", "data\n")
    sandbox.write("old.txt", "old\n")
    _record(sandbox, text)
    for name in ("new.py", "pkg/new.py", "pkg/sub/new.py", "new.txt"):
        sandbox.write(name, "1\n")
    (sandbox.root / "old.txt").unlink()
    sandbox.commit("newer")
    after = "flor.log('there', [name for name in names if os.path.exists(name)])\n"
    _add(
        sandbox, after, after.replace("there", "h").replace("in names", "in (*names, '.git')"), text
    )
    values, _, report = acquire(sandbox, ["h"])
    assert not report.failures
    assert values == {("", "h"): [["data.bin", "old.txt"]]}


def test_untracked_files_cost_a_workspace_nothing(sandbox) -> None:
    sandbox.write(".gitignore", "data/\n")
    for number in range(2000):
        sandbox.write(f"data/{number % 10}/{number}.txt", "x")
    commit = sandbox.git("rev-parse", "HEAD").strip()
    with Workspaces(sandbox.project, overlay=True) as workspaces:
        place = workspaces.create(commit, {"train.py": "pass\n"})
        made = [path for path in workspaces.base.rglob("*") if path.is_file()]
        assert sorted(path.name for path in made) == ["README", "lock", "train.py"]
        workspaces.remove(place)
    assert not workspaces.base.exists()


def test_workspaces_of_dead_processes_are_removed_and_those_of_living_ones_are_not(sandbox) -> None:
    base = cache_folder() / "workspaces"
    for name in ("dead", "alive"):
        (base / name / "1" / "work" / "work").mkdir(parents=True)
        (base / name / "1" / "work" / "work").chmod(0)  # as the kernel leaves it
        (base / name / "lock").touch()
    with open(base / "alive" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with Workspaces(sandbox.project, overlay=True):
            assert sorted(p.name for p in base.iterdir() if p.is_dir() and len(p.name) < 6) == [
                "alive"
            ]


def test_replay_that_is_killed_with_its_client_leaves_no_process_and_no_workspace(
    sandbox, tmp_path
) -> None:
    pid_file = tmp_path / "pid"
    text = SCRIPT + (
        "import os, time\n"
        f"if hasattr(flor.session.peek(), 'job'): "
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)\n"
        "flor.log('last', 1)\n"
    )
    _record(sandbox, text)
    _add(sandbox, "flor.log('last', 1)\n", "flor.log('h', 1)\n", text)
    code = "import flordb; flordb.connect(acquire='always').execute('SELECT h FROM flor')"
    client = subprocess.Popen(
        [sys.executable, "-c", code], cwd=sandbox.root, env=sandbox.environment
    )
    until(lambda: pid_file.exists() and pid_file.read_text())
    pid = int(pid_file.read_text())
    client.send_signal(signal.SIGKILL)
    client.wait()
    until(lambda: not alive(pid))
    base = cache_folder() / "workspaces"
    assert [p for p in base.iterdir() if p.is_dir()]
    with Workspaces(sandbox.project, overlay=True) as workspaces:
        assert [p for p in base.iterdir() if p.is_dir()] == [workspaces.base]


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run without privileges")
def test_overlay_needs_no_privileges(sandbox) -> None:
    """In a fork, because a process cannot take its privileges back."""
    sandbox.write("data.txt", "mine\n")
    sandbox.root.chmod(0o777)
    for folder in (sandbox.root, *sandbox.root.parents[:4]):
        folder.chmod(folder.stat().st_mode | 0o011)
    outer = sandbox.root.parent / "outer"
    own = outer / "own"
    for name in ("version", "upper", "work"):
        (own / name).mkdir(parents=True)
    subprocess.run(["chown", "-R", "65534:65534", str(outer), str(sandbox.root)], check=True)
    layers = namespace.Layers(
        *(str(sandbox.root), str(own / "version"), str(own / "upper"), str(own / "work")),
        writable=(str(own),),
    )
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            # Else what it changed from keeps this process from its own files in /proc.
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
            namespace.enter(layers)
            os.chdir(sandbox.root)
            Path("data.txt").write_text("changed\n")
            assert os.system("rm data.txt && echo new > other.txt") == 0
            try:
                (outer / "escaped").touch()
            except OSError:
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (sandbox.root / "data.txt").read_text() == "mine\n"
    assert not (sandbox.root / "other.txt").exists()
