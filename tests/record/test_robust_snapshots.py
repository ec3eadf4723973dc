"""Whatever happens to the process or the disk, a visible snapshot is whole and training goes on."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import resource
import shutil
import time

import pytest

from flordb.errors import SnapshotError
from flordb.store.objects import ObjectStore, digest
from flordb.store.snapshots import SnapshotStore
from tests.conftest import Sandbox
from tests.support import mounted

TRAIN = """\
import flordb as flor, torch, time, sys, pathlib, shutil, os
w = [torch.zeros(400_000) for _ in range(6)]
for epoch in flor.loop("epoch", range(int(sys.argv[1]))):
    for step in flor.loop("step", range(2)):
        for t in w: t += 1
    flor.log("w", w[0][0].item())
    {between}
print("trained")
"""


def _check_all(sandbox: Sandbox) -> int:
    """Every visible snapshot can be read in full; how many there are."""
    count = 0
    for folder in sandbox.project.snapshots.iterdir():
        store, objects = SnapshotStore(folder), ObjectStore(sandbox.project.objects)
        for boundary in store.boundaries():
            for name in store.load(boundary).objects:
                objects.get(name)
            count += 1
    return count


@pytest.mark.slow
def test_kill_at_any_moment_leaves_whole_snapshots_only(sandbox) -> None:
    sandbox.write("train.py", TRAIN.format(between="pass"))
    wait = random.Random(5)
    seen = 0
    for _ in range(4):
        process = sandbox.start("train.py", "100000")
        deadline = time.monotonic() + 60
        known = len(list(sandbox.project.objects.glob("*/*")))
        while len(list(sandbox.project.objects.glob("*/*"))) < known + 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(wait.random() * 0.4)
        process.kill()
        process.communicate()
        seen = max(seen, _check_all(sandbox))
    assert seen > 4


def test_full_disk_costs_snapshots_and_nothing_else(sandbox) -> None:
    # Files may grow to 300 kB: enough for values, too little for a tensor.
    limit = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
    sandbox.write("train.py", limit + TRAIN.format(between="pass"))
    done = sandbox.run("train.py", "5")
    assert done.stdout == "trained\n"
    assert done.stderr.count("could not be written") == 1
    assert sandbox.logged("w") == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert not list(sandbox.project.objects.rglob("*.tmp"))
    _check_all(sandbox)


def test_snapshots_stop_before_the_disk_is_full_and_go_on_when_there_is_room(sandbox) -> None:
    objects = sandbox.root / ".flor" / "objects"
    with mounted(objects, "size=10m"):
        between = (
            "time.sleep(0.2)\n"
            "    if epoch == 8:\n"
            "        free = os.statvfs('.flor/objects'); print(free.f_bavail * free.f_frsize)\n"
            "        for folder in os.listdir('.flor/objects'):\n"
            "            shutil.rmtree('.flor/objects/' + folder)"
        )
        sandbox.write("train.py", TRAIN.format(between=between))
        done = sandbox.run("train.py", "11")
        free, trained = done.stdout.split()
        assert int(free) > 0.02 * 10e6
        assert trained == "trained"
        assert done.stderr.count("(disk_reserve_bytes)") == 1
        (folder,) = sandbox.project.snapshots.iterdir()
        store, kept = SnapshotStore(folder), ObjectStore(objects)
        assert not kept.lacks(sorted(store.load("epoch=10@end").objects))
        assert "epoch=7@end" not in store.boundaries()
        captured = {line["at"] for line in sandbox.lines() if line["k"] == "snap"}
        assert "epoch=7@end" not in captured  # it is not even captured
        assert "epoch=10@end" in captured


def test_store_that_can_only_be_read_costs_snapshots_and_nothing_else(sandbox) -> None:
    with mounted(sandbox.root / ".flor" / "objects", "ro"):
        sandbox.write("train.py", TRAIN.format(between="pass"))
        done = sandbox.run("train.py", "3")
    assert done.stdout == "trained\n"
    assert done.stderr.count("Read-only file system") == 1
    assert sandbox.logged("w") == [2.0, 4.0, 6.0]


def test_store_that_is_deleted_meanwhile_is_filled_again(sandbox) -> None:
    between = "time.sleep(0.5); epoch == 3 and shutil.rmtree('.flor/objects')"
    sandbox.write("train.py", TRAIN.format(between=between))
    done = sandbox.run("train.py", "9")
    assert done.stdout == "trained\n"
    (folder,) = sandbox.project.snapshots.iterdir()
    store, objects = SnapshotStore(folder), ObjectStore(sandbox.project.objects)
    for name in store.load("epoch=8@end").objects:
        objects.get(name)


def test_damaged_object_is_never_restored(tmp_path) -> None:
    objects = ObjectStore(tmp_path)
    data = b"x" * 100_000
    objects.put(digest(data), data)
    path = objects.path(digest(data))
    path.write_bytes(data[:-1] + b"y")
    with pytest.raises(SnapshotError, match="damaged"):
        objects.get(digest(data))
    path.unlink()
    with pytest.raises(SnapshotError, match="removed"):
        objects.get(digest(data))


def test_writing_past_the_page_cache_and_through_it_store_the_same(tmp_path, monkeypatch) -> None:
    from flordb.record.buffers import Buffers

    buffer = Buffers(1 << 20).take(100_001)
    buffer.memory[:100_001] = os.urandom(100_001)
    name = digest(buffer.view)
    for direct in (True, False):
        objects = ObjectStore(tmp_path / str(direct))
        objects._direct = direct
        assert objects.put_aligned(name, buffer.memory, buffer.size) == 100_001
        assert objects.put_aligned(name, buffer.memory, buffer.size) == 0
        assert bytes(objects.get(name)) == bytes(buffer.view)


def test_file_system_without_direct_writing_is_written_through_the_cache(tmp_path) -> None:
    from flordb.record.buffers import Buffers

    refused = []

    def refusing(path, flags, *more, _open=os.open):
        if flags & os.O_DIRECT:
            refused.append(path)
            raise OSError(22, "Invalid argument")
        return _open(path, flags, *more)

    buffer = Buffers(1 << 20).take(8192)
    objects = ObjectStore(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refusing)
        objects.put_aligned(digest(buffer.view), buffer.memory, buffer.size)
    assert len(refused) == 1
    assert bytes(objects.get(digest(buffer.view))) == bytes(8192)
    shutil.rmtree(tmp_path)


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTFORK"), reason="Linux only")
def test_while_a_fork_lives_writing_a_used_buffer_copies_none_of_its_pages() -> None:
    from flordb.record.buffers import Buffers

    size = 8_000_000
    buffer = Buffers(1 << 30).take(size)
    ctypes.memset(buffer.address, 1, size)
    waits, ends = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ends)
        os.read(waits, 1)
        os._exit(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    ctypes.memset(buffer.address, 2, size)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    os.close(ends)
    os.close(waits)
    assert os.waitpid(child, 0)[1] == 0
    assert faults < size / mmap.PAGESIZE / 10


COLLECTED = """\
import flordb as flor, gc, sys, threading, torch
inside = []
def collected(phase, info):
    behind = threading.current_thread() is not threading.main_thread()
    frame, names = sys._getframe(), []
    while frame is not None:
        names.append(frame.f_code.co_filename)
        frame = frame.f_back
    inside.append(not behind and any(name.endswith("record/snapshotter.py") for name in names))
net = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(20)])
for epoch in flor.loop("epoch", range(6)):
    if epoch == 1:
        gc.callbacks.append(collected)
        gc.set_threshold(20, 1, 1)
    if epoch == 3:
        enabled = gc.isenabled()
        gc.disable()
    with torch.no_grad():
        for p in net.parameters(): p += 1
gc.callbacks.clear()
print(enabled, gc.isenabled(), len(inside) > 0, any(inside))
"""


def test_no_collection_of_garbage_falls_into_a_snapshot_and_the_users_choice_stays(
    sandbox: Sandbox,
) -> None:
    sandbox.write("train.py", COLLECTED)
    assert sandbox.run("train.py").stdout == "True False True False\n"
    assert _check_all(sandbox) > 6
