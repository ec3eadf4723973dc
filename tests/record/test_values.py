"""What `flor.log` keeps of objects of all kinds, and large arrays by reference."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import numpy
import pytest
import torch

import flordb
from flordb import udfs
from flordb.errors import FlorError
from flordb.record.encoder import fields_of
from flordb.record.values import Held, freeze
from flordb.store import references
from flordb.store.encoding import decode_value
from flordb.store.objects import ObjectStore
from flordb.store.project import Project
from tests.replay.support import acquire


class Color(enum.IntEnum):
    RED = 3


class Bad:
    def __repr__(self) -> str:
        raise RuntimeError


def kept(value: Any) -> Any:
    """What is read again of a logged value."""
    return decode_value(fields_of(freeze(value), lambda array: "stored"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (numpy.float64(0.1), 0.1),
        (numpy.float16(0.5), 0.5),
        (numpy.int8(-3), -3),
        (numpy.uint64(2**63 + 1), 2**63 + 1),
        (numpy.bool_(True), True),
        (numpy.str_("x"), "x"),
        (numpy.zeros((2, 2), numpy.int32), [[0, 0], [0, 0]]),
        (numpy.array(7), 7),
        (numpy.array([]), []),
        (numpy.array(["a", "b"]), ["a", "b"]),
        (numpy.array([{"a": 1}, None]), [{"a": 1}, None]),
        (torch.tensor([1.5]), 1.5),
        (torch.tensor(3), 3),
        (torch.tensor(True), True),
        (torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True), 0.5),
        (torch.ones(2, 2).t(), [[1, 1], [1, 1]]),
        (torch.nn.Parameter(torch.ones(2)), [1, 1]),
        (Color.RED, 3),
        ((1, (2, [3])), [1, [2, [3]]]),
        ({1: torch.tensor(2.5), "x": [torch.ones(2)]}, {"1": 2.5, "x": [[1, 1]]}),
        (numpy.zeros(1001), "stored"),
        ({"a": torch.zeros(40, 40)}, {"a": "stored"}),
    ],
    ids=repr,
)
def test_values_are_read_as_what_they_were(value: Any, expected: Any) -> None:
    found = kept(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "value",
    [
        numpy.longdouble(1) / 3,
        numpy.datetime64("2024-01-01"),
        1 + 2j,
        b"bytes",
        torch.ones(2).to_sparse(),
        torch.empty(2, device="meta"),
        Bad(),
        [Bad()],
        {"x": object},
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_a_text_and_never_an_error(value: Any) -> None:
    found = kept(value)
    assert isinstance(found, (str, list, dict))


def test_a_container_that_holds_itself_is_a_text() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert kept(loop) == "[1, [...]]"


def test_arrays_are_taken_at_the_call() -> None:
    array, tensor = numpy.zeros(3), torch.zeros(3)
    held = freeze({"a": [array], "t": tensor})
    array[:] = 9
    tensor.fill_(9)
    assert decode_value(fields_of(held, str)) == {"a": [[0, 0, 0]], "t": [0, 0, 0]}


class OnDevice(torch.Tensor):
    """A tensor that says where it was read: what a device's is like to the training thread."""

    reads: ClassVar[list[str]] = []

    @property
    def device(self) -> Any:  # type: ignore[override]
        return torch.device("xla")

    def item(self) -> Any:
        self.reads.append("item")
        return super().item()

    def cpu(self) -> Any:  # type: ignore[override]
        self.reads.append("cpu")
        return self.as_subclass(torch.Tensor)


def test_a_tensor_on_a_device_is_not_read_at_the_call() -> None:
    value = torch.tensor(2.5).as_subclass(OnDevice)
    held = freeze(value)
    assert type(held) is Held
    assert OnDevice.reads == []
    value.fill_(0)
    assert fields_of(held, str) == {"v": 2.5}
    assert OnDevice.reads == ["cpu"]


ARRAYS = [
    numpy.arange(2000.0),
    numpy.arange(2000, dtype=">i4").reshape(2, 1000),
    numpy.zeros((0, 5), numpy.float32),
    numpy.arange(4000).reshape(40, 100).T[::2],
    numpy.ones(1500, numpy.complex64),
    numpy.ones(1500, bool),
    torch.randn(3, 400),
    torch.randn(40, 50).t(),
    torch.randn(40, 50).bfloat16(),
    torch.randn(2000).to(torch.float8_e4m3fn),
    torch.randn(1500, dtype=torch.complex64).conj(),
    torch.zeros(0, 3),
]


@pytest.mark.parametrize("array", ARRAYS, ids=range(len(ARRAYS)))
def test_large_arrays_come_back_as_they_were(array: Any, tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    text = str(references.put(array, objects))
    found = references.load(text, objects)
    assert type(found) is type(array)
    assert found.shape == array.shape
    if isinstance(array, torch.Tensor):
        assert found.dtype == array.dtype
        assert torch.equal(found.to(torch.complex128), array.to(torch.complex128))
    else:
        assert found.dtype == array.dtype.newbyteorder("=")
        assert (found == array).all()
        found += 0 if found.dtype != bool else True  # writable


@pytest.mark.parametrize("text", ["", "x", "torch.float32[2]@12", "os.system[1]@" + "0" * 32])
def test_a_text_that_is_no_reference_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(FlorError, match="no reference"):
        references.load(text, ObjectStore(tmp_path))


def test_contents_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(FlorError, match="gone or damaged"):
        references.load("torch.float32[2]@" + "0" * 32, ObjectStore(tmp_path))


TRAIN = """\
import flordb as flor, torch
weight = torch.arange(2000.0)
for epoch in flor.loop("epoch", range(2)):
    weight += 1
    flor.log("weight", weight)
"""


def test_large_arrays_in_a_run_in_sql_and_in_a_replay(
    sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.write("train.py", TRAIN)
    sandbox.commit()
    sandbox.run("train.py")
    monkeypatch.chdir(sandbox.root)
    texts = sandbox.logged("weight")
    assert [flordb.load(text)[0].item() for text in texts] == [1, 2]
    db = duckdb.connect()
    udfs.register(db, Project(sandbox.root, has_git=True))
    query = "SELECT flor_array_shape(?), list_sum(flor_array(?)), flor_array('no')"
    row = db.execute(query, [texts[0], texts[0]]).fetchone()
    assert row == ([2000], 2000 * 1999 / 2 + 2000, None)
    sandbox.write("train.py", TRAIN + '    flor.log("twice", weight * 2)\n')
    values, _, report = acquire(sandbox, ["twice"])
    assert (report.failures, report.anomalies) == ((), ())
    twice = [values[f"epoch={epoch}", "twice"] for epoch in (0, 1)]
    assert [flordb.load(text)[0].item() for (text,) in twice] == [2, 4]
