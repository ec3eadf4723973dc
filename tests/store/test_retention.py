"""The store stays within bounds: gc, thinning, spooling to S3 and back."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flordb.settings import Settings
from flordb.store import retention
from flordb.store.objects import ObjectStore, digest
from flordb.store.snapshots import SnapshotStore, read_manifest
from tests.conftest import Sandbox

TRAIN = """\
import flordb as flor, torch
w = torch.zeros(400_000)
frozen = torch.ones(400_000)
with flor.checkpointing(w=w, frozen=frozen):
    for epoch in flor.loop("epoch", range(9)):
        for step in flor.loop("step", range(2)):
            w += 1
        flor.log("w", w[0].item())
"""
MORE = '        flor.log("h", w[1].item())\n'
SIZE = 1_600_000


def flor(sandbox: Sandbox, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flordb", *arguments],
        cwd=sandbox.root,
        env={**sandbox.environment, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.fixture
def trained(sandbox: Sandbox) -> Sandbox:
    sandbox.write("train.py", TRAIN)
    sandbox.run("train.py")
    for path in sandbox.project.objects.glob("*/*"):
        os.utime(path, (time.time() - 3600,) * 2)
    return sandbox


def _iterations(sandbox: Sandbox) -> list[int]:
    (folder,) = sandbox.project.snapshots.iterdir()
    found = SnapshotStore(folder).boundaries()
    return sorted(int(b.split("=")[1].split("@")[0]) for b in found if b.endswith("@end"))


def test_gc_removes_nothing_that_is_needed(trained) -> None:
    before = sorted(trained.project.objects.glob("*/*"))
    assert flor(trained, "gc", "--json").stdout == ""
    assert sorted(trained.project.objects.glob("*/*")) == before


def test_dry_run_says_what_gc_frees_and_leaves_it(trained) -> None:
    dry = flor(trained, "gc", "--keep", "3", "--dry-run", "--json")
    assert _iterations(trained) == list(range(9))
    wet = flor(trained, "gc", "--keep", "3", "--json")
    assert wet.stdout == dry.stdout
    assert _iterations(trained) == [0, 4, 8]
    freed = sum(json.loads(line)["bytes"] for line in wet.stdout.splitlines())
    assert freed == pytest.approx(6 * SIZE, rel=0.05)
    assert flor(trained, "gc", "--keep", "3", "--json").stdout == ""


def test_thinned_run_still_replays(trained) -> None:
    flor(trained, "gc", "--keep", "2")
    statement = '        flor.log("w", w[0].item())\n'
    trained.write("train.py", TRAIN.replace(statement, statement + MORE))
    answer = flor(trained, "sql", "SELECT epoch, h FROM flor ORDER BY epoch", "--json")
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [row["h"] for row in rows] == [2.0 * (epoch + 1) for epoch in range(9)]


def test_missing_files_are_no_error(trained) -> None:
    objects = sorted(trained.project.objects.glob("*/*"))
    objects[0].unlink()
    (folder,) = trained.project.snapshots.iterdir()
    next(folder.glob("epoch=3*")).unlink()
    damaged = next(folder.glob("epoch=5*"))
    damaged.write_text("not json")
    os.utime(damaged, (time.time() - 3600,) * 2)
    flor(trained, "gc", "--keep", "2")
    trained.run_files()[-1].unlink()
    done = flor(trained, "gc", "--json")
    assert "whose run file is gone" in done.stdout
    assert not list(trained.project.snapshots.iterdir())
    assert not list(trained.project.objects.glob("*/*"))


def test_arrays_among_the_logged_values_are_spared(sandbox) -> None:
    script = "import flordb as flor, numpy as np\nflor.log('a', np.arange(50_000.0))\n"
    sandbox.write("log.py", script)
    sandbox.run("log.py")
    for path in sandbox.project.store.glob("*/*/*"):
        os.utime(path, (time.time() - 3600,) * 2)
    shutil.rmtree(sandbox.project.snapshots)
    flor(sandbox, "gc", FLORDB_SNAPSHOT_BUDGET_BYTES="1")
    found = sandbox.logged("a")[0]
    assert found.rpartition("@")[2] in ObjectStore(sandbox.project.values)


def test_store_above_its_budget_is_thinned_but_to_two_iterations(trained) -> None:
    flor(trained, "gc", FLORDB_SNAPSHOT_BUDGET_BYTES=str(6 * SIZE))
    kept = _iterations(trained)
    assert 2 <= len(kept) <= 5
    assert (kept[0], kept[-1]) == (0, 8)
    flor(trained, "gc", FLORDB_SNAPSHOT_BUDGET_BYTES="1")
    assert _iterations(trained) == [0, 8]


def test_budget_is_kept_while_a_run_is_recorded_and_the_user_is_told(sandbox) -> None:
    sandbox.write("train.py", TRAIN + "import time; time.sleep(6)\n")
    done = sandbox.run("train.py", FLORDB_SNAPSHOT_BUDGET_BYTES=str(2 * SIZE))
    assert "exceed their budget" in done.stderr
    deadline = time.monotonic() + 20
    while _iterations(sandbox) == list(range(9)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert 2 <= len(_iterations(sandbox)) < 9


def test_failing_gc_behind_a_training_is_told_and_does_not_hold_up_who_waits_for_it(
    sandbox,
) -> None:
    more = "import time\nfor _ in range(100):\n    time.sleep(0.1)\n    w += 1\n"
    more += "    for more in flor.loop('more', range(1)):\n        w += 1\n"
    sandbox.write("train.py", TRAIN + more)
    chosen = {"FLORDB_SNAPSHOT_BUDGET_BYTES": "1", "FLORDB_SPOOL": "nonsense://nowhere"}
    process = sandbox.start("train.py", **chosen)
    assert process.stderr is not None
    said = ""
    while "failed" not in said and (line := process.stderr.readline()):
        said += line
    process.kill()
    process.communicate(timeout=60)
    assert "`flordb gc` failed (1): flordb: nonsense://nowhere" in said
    assert "bytes freed" not in said


def test_evenly_spaced_iterations_include_the_first_and_the_last() -> None:
    assert retention.evenly([0, 3, 4, 7, 9, 12], 3) == {0, 4, 12}
    assert retention.evenly([5, 6], 9) == {5, 6}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket in a real S3 API on loopback."""
    from moto.server import ThreadedMotoServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"s3://bucket/flor?scheme=http&endpoint_override=127.0.0.1:{port}&allow_bucket_creation=true"
    server.stop()


KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def test_spooled_snapshots_are_fetched_where_a_replay_needs_them(trained, s3) -> None:
    said = flor(trained, "spool", s3, "--dry-run", **KEYS).stderr
    before = len(list(trained.project.objects.glob("*/*")))
    assert said.startswith(f"{before} objects")
    flor(trained, "spool", s3, **KEYS)
    left = list(trained.project.objects.glob("*/*"))
    assert all(path.suffix == ".spooled" for path in left)
    assert len(left) == before
    statement = '        flor.log("w", w[0].item())\n'
    trained.write("train.py", TRAIN.replace(statement, statement + MORE))
    answer = flor(trained, "sql", "SELECT h FROM flor WHERE epoch = 6", "--json", **KEYS)
    assert [json.loads(line)["h"] for line in answer.stdout.splitlines()] == [14.0]


def test_least_recently_used_objects_are_spooled_beyond_the_budget(trained, s3) -> None:
    (folder,) = trained.project.snapshots.iterdir()
    recent = read_manifest(next(folder.glob("epoch=8*end.json"))).objects
    objects = ObjectStore(trained.project.objects)
    for name in recent:
        os.utime(objects.path(name))
    chosen = {"FLORDB_SPOOL": s3, "FLORDB_SNAPSHOT_BUDGET_BYTES": str(4 * SIZE)}
    flor(trained, "gc", **KEYS, **chosen)
    assert _iterations(trained) == list(range(9))
    assert retention.survey(trained.project).size <= 4 * SIZE
    assert all(objects.path(name).exists() for name in recent)


def test_unreachable_spool_leaves_the_objects_here(trained) -> None:
    before = sorted(trained.project.objects.glob("*/*"))
    url = "s3://bucket/flor?scheme=http&endpoint_override=127.0.0.1:9"
    with pytest.raises(subprocess.CalledProcessError) as failed:
        flor(trained, "spool", url, **KEYS)
    assert "cannot be written" in failed.value.stderr
    assert sorted(trained.project.objects.glob("*/*")) == before


@contextmanager
def cutting(server: str, cuts: int) -> Iterator[tuple[str, list[bytes]]]:
    """An S3 API whose first answers of objects are cut off in the middle, and what it is asked."""
    asked: list[bytes] = []
    (host, port) = re.findall(r"override=([\d.]+):(\d+)", server)[0]

    class Between(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            question = self.request.recv(1 << 16)
            if question.startswith(b"GET"):
                asked.append(question.split()[1])
            left = 20_000 if question.startswith(b"GET") and len(asked) <= cuts else 1 << 30
            # One answer a connection, so that each question passes here.
            question = question.replace(b"Keep-Alive", b"close")
            with socket.create_connection((host, int(port))) as behind:
                behind.sendall(question)
                while left > 0 and (part := behind.recv(min(left, 1 << 16))):
                    self.request.sendall(part)
                    left -= len(part)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Between) as between:
        threading.Thread(target=between.serve_forever, daemon=True).start()
        yield server.replace(f":{port}", f":{between.server_address[1]}"), asked
        between.shutdown()


def test_answers_that_are_cut_off_are_asked_for_again(sandbox, s3, monkeypatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    sandbox.project.prepare()
    data = os.urandom(3_000_000)
    objects = ObjectStore(sandbox.project.objects)
    objects.put(digest(data), data)
    retention.move(sandbox.project, s3, 0, dry_run=False)
    (note,) = sandbox.project.objects.glob("*/*")
    with cutting(s3, 2) as (url, asked):
        note.write_text(note.read_text().replace(s3.partition("?")[2], url.partition("?")[2]))
        assert bytes(objects.get(digest(data))) == data
        assert len(asked) == 3  # no more than one for each cut


def test_storage_that_refuses_is_not_asked_for_everything(sandbox) -> None:
    sandbox.write("train.py", TRAIN.replace("range(9)", "range(40)"))
    sandbox.run("train.py")
    bucket = sandbox.root.parent / "bucket"
    retention.move(sandbox.project, f"file://{bucket}", 0, dry_run=False)
    asked: set[str] = set()

    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.add(self.path)
            self.send_error(403)

        do_GET = do_HEAD

        def log_message(self, *what: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"?scheme=http&endpoint_override=127.0.0.1:{server.server_address[1]}"
        for path in sandbox.project.objects.glob("*/*.spooled"):
            note = json.loads(path.read_text())
            note["url"] = note["url"].replace(f"file://{bucket}", "s3://bucket") + there
            path.write_text(json.dumps(note))
        sandbox.write("train.py", TRAIN.replace("range(9)", "range(40)") + MORE)
        said = flor(sandbox, "sql", "SELECT h FROM flor", "--workers", "1", **KEYS).stderr
        server.shutdown()
    assert "s3://bucket/" in said
    assert "cannot be read" in said
    assert len([path for path in asked if path.count("/") > 3]) < 20


def test_budget_has_a_default() -> None:
    assert Settings().snapshot_budget_bytes > 0
