"""Damage and company: flipped bits, lost and replaced objects, copies of a store, two at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flordb.errors import SnapshotError
from flordb.settings import Settings
from flordb.store import retention
from flordb.store.lock import acquire
from flordb.store.objects import ObjectStore, digest
from flordb.store.project import Project
from flordb.store.snapshots import BlockRef, Manifest, SnapshotStore, TensorRef, read_manifest

BYTES = [bytes([number]) * 5000 for number in range(4)]
NAMES = list(map(digest, BYTES))
RUN = "20261125T120000.000000-abcdef"


def manifest(state: str, *blocks: str, boundary: str = "epoch=3@end") -> Manifest:
    return Manifest(
        boundary,
        state,
        tuple(BlockRef(name, 64, 4096, digest(b"x")) for name in blocks),
        (TensorRef("torch", "float32", (32, 32), (128, 4), 0, 16, "cpu"),),
        {"var:f": "an open file"},
        ("w", "x"),
        {"version": 1},
        0.25,
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A store with four objects, of which a snapshot needs three. None was used just now."""
    made = Project(tmp_path / "project", has_git=False)
    made.prepare()
    (made.runs / f"{RUN}.jsonl").write_text("")
    objects = ObjectStore(made.objects)
    for name, data in zip(NAMES, BYTES, strict=True):
        objects.put(name, data)
    SnapshotStore(made.snapshots / RUN).save(manifest(*NAMES[:3]))
    age(made)
    return made


def age(project: Project) -> None:
    for path in project.objects.glob("*/*"):
        os.utime(path, (time.time() - 3600,) * 2)


def spooled(project: Project) -> list[Path]:
    """The files in the storage that `move` uses."""
    return sorted(path for path in bucket(project).rglob("*") if path.is_file())


def bucket(project: Project) -> Path:
    return project.root.parent / "bucket"


def move(project: Project, url: str = "") -> None:
    retention.move(project, url or f"file://{bucket(project)}", 0, dry_run=False)


def test_no_flipped_bit_of_a_manifest_goes_unseen(tmp_path) -> None:
    store = SnapshotStore(tmp_path)
    store.save(manifest(*NAMES))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    assert read_manifest(path) == manifest(*NAMES)
    for place in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(SnapshotError):
            read_manifest(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SnapshotError):
            read_manifest(path)


def test_snapshots_of_a_later_flordb_stay_and_keep_what_they_need(project) -> None:
    (path,) = project.snapshots.glob("*/*")
    text = path.read_bytes().rpartition(b',"digest"')[0].replace(b'"format":2', b'"format":3')
    path.write_bytes(text + b"}")
    os.utime(path, (time.time() - 3600,) * 2)
    with pytest.raises(SnapshotError, match=r"format is 3, this flordb reads 2\. Upgrade flordb"):
        retention.collect(project, Settings(), None, dry_run=False)
    assert SnapshotStore(path.parent).mend("epoch=3@end", ObjectStore(project.objects), {NAMES[0]})
    assert path.exists()
    assert ObjectStore(project.objects).lacks(NAMES) == []


def test_boundary_longer_than_a_file_name_is_found_again_and_thinned(project) -> None:
    store = SnapshotStore(project.snapshots / RUN)
    loop = "\N{WOMAN}'\"\n" * 40
    boundaries = {f"{loop}={number}@end" for number in range(3)}
    for boundary in boundaries:
        store.save(manifest(*NAMES[:3], boundary=boundary))
    assert store.boundaries() == {"epoch=3@end", *boundaries}
    assert all(store.load(boundary).boundary == boundary for boundary in boundaries)
    retention.collect(project, Settings(), 2, dry_run=False)
    assert store.boundaries() == {"epoch=3@end", f"{loop}=0@end", f"{loop}=2@end"}


def test_spooling_into_the_store_itself_is_refused(project, tmp_path) -> None:
    link = tmp_path / "link"
    link.symlink_to(project.store)
    for place in (project.objects, project.store / "elsewhere", link / "objects"):
        with pytest.raises(SnapshotError, match="in the store itself"):
            move(project, f"file://{place}")
    assert ObjectStore(project.objects).get(NAMES[0]) == BYTES[0]


def test_gc_of_a_copied_store_spares_what_the_original_spooled(project, tmp_path) -> None:
    move(project)
    copy = Project(tmp_path / "copy", has_git=False)
    shutil.copytree(project.root, copy.root)
    before = spooled(project)
    for one in (copy, project):
        (one.runs / f"{RUN}.jsonl").unlink()
        age(one)
        retention.collect(one, Settings(), None, dry_run=False)
        assert not list(one.objects.glob("*/*"))
        assert spooled(one) == (before if one is copy else [])


def test_two_stores_may_spool_to_the_same_place(project, tmp_path) -> None:
    move(project)
    other = Project(tmp_path / "other", has_git=False)
    other.prepare()
    ObjectStore(other.objects).put(NAMES[0], BYTES[0])
    move(other)
    age(other)
    retention.collect(other, Settings(), None, dry_run=False)  # no snapshot of it needs the object
    assert len(spooled(project)) == 4
    assert ObjectStore(project.objects).get(NAMES[0]) == BYTES[0]


def test_damage_in_the_storage_is_told_and_not_brought_back(project) -> None:
    move(project)
    whole = {path: path.read_bytes() for path in spooled(project)}
    longest = max(whole.values(), key=len)
    damages = (
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: longest[::-1],
    )
    for damage in damages:
        for path, data in whole.items():
            path.write_bytes(damage(data))
        for name in NAMES:
            with pytest.raises(SnapshotError, match="damaged"):
                ObjectStore(project.objects).get(name)
    assert not [path for path in project.objects.glob("*/*") if path.suffix != ".spooled"]
    for path, data in whole.items():
        path.write_bytes(data)
    assert [ObjectStore(project.objects).get(name) for name in NAMES] == BYTES


def test_damaged_note_of_a_spooled_object_is_told(project) -> None:
    move(project)
    notes = [ObjectStore(project.objects).path(f"{name}.spooled") for name in NAMES]
    for note, text in zip(
        notes, ('{"url":', "[]", '{"url":"file:///nowhere"}', "\x80"), strict=True
    ):
        note.write_bytes(text.encode("latin-1"))
    for name in NAMES:
        with pytest.raises(SnapshotError, match="does not say where"):
            ObjectStore(project.objects).get(name)
    (project.runs / f"{RUN}.jsonl").unlink()
    age(project)
    retention.collect(project, Settings(), None, dry_run=False)
    assert not list(project.objects.glob("*/*"))


def test_damaged_objects_are_not_spooled_but_named(project) -> None:
    path = ObjectStore(project.objects).path(NAMES[1])
    path.write_bytes(b"\0" + BYTES[1][1:])
    with pytest.raises(SnapshotError, match=f"1 objects are damaged.*{NAMES[1][2:]}"):
        move(project)
    assert path.exists()
    assert len(spooled(project)) == 3


def test_spooled_objects_are_read_where_nothing_can_be_written(project) -> None:
    move(project)
    script = (
        "import resource\n"
        "from pathlib import Path\n"
        "from flordb.store.objects import ObjectStore\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # as on a full disk\n"
        f"print(ObjectStore(Path({str(project.objects)!r})).get({NAMES[1]!r})[0])\n"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.check_output(command, text=True, timeout=60) == "1\n"
    assert not ObjectStore(project.objects).path(NAMES[1]).exists()


def test_what_a_power_failure_left_of_an_object_is_written_again(project) -> None:
    objects = ObjectStore(project.objects)
    for length in (0, 4096):
        objects.path(NAMES[0]).write_bytes(BYTES[0][:length])
        assert (NAMES[0] in ObjectStore(project.objects)) == bool(length)
        assert ObjectStore(project.objects).put(NAMES[0], BYTES[0]) == len(BYTES[0])
        assert objects.get(NAMES[0]) == BYTES[0]


def test_gc_and_spool_work_one_after_the_other(project) -> None:
    lock = acquire(project.store / "gc.lock", exclusive=True, wait_seconds=0)
    assert lock is not None
    with pytest.raises(SnapshotError, match="at work"):
        move(project)
    with pytest.raises(SnapshotError, match="at work"):
        retention.collect(project, Settings(), None, dry_run=False)
    lock.release()
    move(project)


def test_gc_spares_what_was_used_or_referred_to_since_it_looked(project, monkeypatch) -> None:
    look = retention.survey

    def slow(of: Project) -> retention.Survey:
        found = look(of)
        snapshot = manifest(NAMES[3], boundary="epoch=4@end")  # a training, meanwhile
        SnapshotStore(of.snapshots / RUN).save(snapshot)
        return found

    monkeypatch.setattr(retention, "survey", slow)
    retention.collect(project, Settings(), None, dry_run=False)
    assert NAMES[3] in ObjectStore(project.objects)
    path = ObjectStore(project.objects).path(NAMES[3])
    os.utime(path)
    retention.carry_out(project, retention.Removal("an object", (path,), 5000))
    assert path.exists()
