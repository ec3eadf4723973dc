"""The reader of run files: cut off anywhere, foreign, hostile, compressed."""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flordb.errors import RunFileError
from flordb.record.context import Context, Steps, root
from flordb.record.encoder import WIDTH, Encoder
from flordb.record.values import freeze
from flordb.store.encoding import decode_value, dump_line
from flordb.store.runfile import FORMAT, decompress, parse_run, read_run

HEADER = {"k": "run", "flor": FORMAT, "projid": "p", "tstamp": "2026-01-01", "filename": "t.py"}
PATH = Path("r.jsonl")

plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=3),
    st.sampled_from([2**63, -(2**70), 5e-324, 3e-05, 1e16, -0.0]),
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
events = st.lists(
    st.tuples(st.sampled_from(["root", "outer", "inner", "other"]), st.sampled_from("abc"), values)
    | st.just("next"),
    max_size=40,
)


def encoded(script: list[Any], slices: int) -> tuple[bytes, list[tuple[str, str, Any]]]:
    """What the writer makes of events, and the values with the paths of their contexts."""
    made, expected = [], []
    outer = Context(root(), "epoch", 0, 0, 0)
    steps, other = Steps(outer, "step", 0, (0, 1)), Steps(outer, "other", 0, None)
    places: dict[str, Any] = {"root": root(), "outer": outer, "inner": steps, "other": other}
    for event in script:
        if event == "next":
            steps.index += 1
            other.index += 3
            continue
        place, name, value = event
        path = places[place].here().path
        made.extend((places[place], places[place].index, name, freeze(value)))
        expected.append((path, name, value))
    warnings: list[str] = []
    encoder = Encoder(10**6, repr, warnings.append)
    step = slices * WIDTH
    text = "".join(encoder.encode(made[at : at + step]) for at in range(0, len(made), step))
    assert not warnings
    return (dump_line(HEADER) + text).encode(errors="replace"), expected


def decoded(data: bytes) -> list[tuple[str, str, Any]]:
    run = parse_run(data, PATH)
    assert not run.problems
    paths = {0: ""}
    found = []
    for line in run.singly():
        if line["k"] == "ctx":
            above = paths[line["p"]]
            own = f"{line['l']}={line['i']}"
            paths[line["c"]] = f"{above}/{own}" if above else own
        elif line["k"] == "log":
            found.append((paths[line.get("c", 0)], line["n"], decode_value(line)))
    return found


def by_place(found: list[tuple[str, str, Any]]) -> dict[tuple[str, str], list[str]]:
    """Texts of the values by context and name, in order."""
    places: dict[tuple[str, str], list[str]] = {}
    for path, name, value in found:
        places.setdefault((path, name), []).append(_comparable(value))
    return places


def _comparable(value: Any) -> str:
    if isinstance(value, bytes):
        return repr(value)
    if isinstance(value, int) and abs(value) > 2**64:
        return hex(value)
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, (list, dict)):
        return "nested"  # NaN, huge integers and bytes inside: see the tests of single values
    return repr(value)


@given(events, st.integers(1, 50))
@example([("inner", "a", 1.5), "next", "next", ("inner", "a", 2.5), ("inner", "a", 3.5)], 1)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_again(script: list[Any], slices: int) -> None:
    data, expected = encoded(script, slices)
    assert by_place(decoded(data)) == by_place(expected)


@given(events, st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_file_cut_off_at_any_byte_is_a_prefix(script: list[Any], compressed: bool) -> None:
    data, _ = encoded(script, 5)
    first = data.index(b"\n") + 1
    whole = parse_run(data, PATH).lines
    stored = gzip.compress(data) if compressed else data
    seen = 0
    for end in range(len(stored) + 1):
        text = decompress(stored[:end]) if compressed else stored[:end]
        assert data.startswith(text)
        if len(text) < first:
            with pytest.raises(RunFileError):
                parse_run(text, PATH)
            continue
        run = parse_run(text, PATH)
        assert not run.problems
        assert run.torn == (not text.endswith(b"\n"))
        assert json.dumps(run.lines) == json.dumps(whole[: len(run.lines)])
        assert len(run.lines) >= seen
        seen = len(run.lines)
    assert seen == len(whole)


@given(st.lists(st.binary(max_size=60), max_size=5), st.randoms())
@settings(max_examples=100, deadline=None)
def test_foreign_bytes_between_the_lines_cost_only_themselves(junk: list[bytes], chance) -> None:
    ours = [{"k": "log", "n": "a", "v": number} for number in range(5)]
    lines = [dump_line(line).encode() for line in ours]
    for piece in junk:
        lines.insert(chance.randrange(len(lines) + 1), piece.replace(b"\n", b"") + b"\n")
    run = parse_run(dump_line(HEADER).encode() + b"".join(lines), PATH)
    assert [line["v"] for line in run.lines if line.get("n") == "a"] == list(range(5))


HOSTILE = [
    b"[" * 100_000,
    b'{"k":' * 100_000,
    b'{"k":"log","n":"a","v":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"k":"log","n":"a","v":' + b"9" * 100_000 + b"}",
    b'{"k":"log","n":"a","v":"' + b"9" * 10_000 + b'","y":"int"}',
    b'{"k":"log","n":"a","c":[1],"v":1}',
    b'{"k":"log","n":"a","c":{"x":1},"v":1}',
    b'{"k":"log","n":"a","c":true,"v":1}',
    b'{"k":"log","n":"a","c":1e400,"v":1}',
    b'{"k":"log","n":["a"],"v":1}',
    b'{"k":"log","n":"a","v":{},"y":"float"}',
    b'{"k":"log","n":"a","v":null,"y":"json"}',
    b'{"k":"log","n":"a","v":"' + b"[" * 100_000 + b'","y":"json"}',
    b'{"k":"logs","n":"a","v":1}',
    b'{"k":"logs","n":"a","c":0,"v":[1,2]}',
    b'{"k":"logs","n":"a","c":[0],"v":[1,2]}',
    b'{"k":"logs","n":"a","c":[0,[0]],"v":[1,2]}',
    b'{"k":"logs","n":"a","c":"0","v":[1,2]}',
    b'{"k":"logs","n":"a","c":-1,"v":[1,2]}',
    b'{"k":"logs","n":"a","c":[0,0],"v":[1,2],"y":{"7":"float"}}',
    b'{"k":"logs","n":"a","c":[0,0],"v":[1,2],"y":{"x":"float"}}',
    b'{"k":"logs","n":"a","c":[0,0],"v":[1,{}],"y":{"1":"float"}}',
    b'{"k":"logs","n":"a","c":[0,0],"v":[1,2],"y":[]}',
    b'{"k":"ctxs","c":1,"p":0,"l":"x","i":0,"m":1000000000000}',
    b'{"k":"ctxs","c":1,"p":0,"l":"x","i":0,"m":-1}',
    b'{"k":"ctxs","c":1,"p":0,"l":"x","i":0}',
    b'{"k":"ctxs","c":1,"p":0,"l":"x","i":[0,"1"]}',
    b'{"k":"ctxs","c":1,"p":0,"l":"x","i":[]}',
    b'{"k":"ctxs","c":1,"p":0,"l":"x","i":0,"m":2,"r":[1]}',
    b'{"k":"ctxs","c":1,"p":0,"l":"x","i":0,"m":2,"r":[1,99999999999999999999]}',
    b'{"k":"ctx","c":[],"p":0,"l":"x","i":0}',
    b'{"k":"ctx","c":1,"p":{},"l":"x","i":0}',
    b'{"k":"ctx","c":1,"p":0,"l":"x","i":true}',
    b'{"k":"ctx","c":1,"p":0,"l":"x","i":0,"e":"1"}',
    b'{"k":["log"]}',
    b'{"n":"a"}',
    b"null",
    b"\x00\x00\x00",
    b"\xff\xfe{}",
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_line_is_left_out_with_a_reason(line: bytes) -> None:
    good = dump_line({"k": "log", "n": "a", "v": 1}).encode()
    run = parse_run(dump_line(HEADER).encode() + line + b"\n" + good, PATH)
    assert [number for number, _ in run.problems] == [2]
    assert [found["v"] for found in run.singly()] == [1]


def test_keys_that_come_twice_count_once_and_the_last_one_does(tmp_path: Path) -> None:
    run = parse_run(dump_line(HEADER).encode() + b'{"k":"log","n":"a","v":1,"v":2}\n', PATH)
    assert [line["v"] for line in run.lines] == [2]


def test_a_line_of_a_hundred_megabytes_is_read() -> None:
    line = b'{"k":"log","n":"a","v":"' + b"x" * 100_000_000 + b'"}\n'
    run = parse_run(dump_line(HEADER).encode() + line, PATH)
    assert len(run.lines[0]["v"]) == 100_000_000


@pytest.mark.parametrize(
    "first",
    [b"", b"\n", b"{}\n", b'{"k":"run"}\n', b"[1]\n", b"\x00\n", b'{"k":"log","n":"a","v":1}\n']
    + [dump_line(HEADER | change).encode() for change in ({"flor": 99}, {"flor": "2"}, {"k": "x"})]
    + [dump_line(HEADER | {"tstamp": 5}).encode()],
    ids=range(11),
)
def test_what_is_no_run_file_is_refused_with_its_name(first: bytes) -> None:
    with pytest.raises(RunFileError, match=r"r\.jsonl"):
        parse_run(first, PATH)


def test_format_1_is_read() -> None:
    old = dump_line(HEADER | {"flor": 1}).encode()
    old += b'{"k":"ctx","c":1,"p":0,"l":"epoch","i":0,"v":0}\n{"k":"log","c":1,"n":"a","v":0.5}\n'
    assert [line["k"] for line in parse_run(old, PATH).lines] == ["ctx", "log"]


def test_a_damaged_gzip_file_gives_what_stands_before_the_damage(tmp_path: Path) -> None:
    lines = [dump_line({"k": "log", "n": "a", "v": os.urandom(8).hex()}) for _ in range(20_000)]
    data = (dump_line(HEADER) + "".join(lines)).encode()
    packed = bytearray(gzip.compress(data))
    packed[len(packed) // 2 : len(packed) // 2 + 400] = b"\xff" * 400
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(packed)
    run = read_run(tmp_path / "r.jsonl")
    assert 5_000 < len(run.lines) < 20_000
    assert [line["v"] for line in run.lines[:5]] == [json.loads(t)["v"] for t in lines[:5]]


def test_a_gzip_file_of_several_members_is_one_text() -> None:
    assert decompress(gzip.compress(b"a\n") + gzip.compress(b"b\n")) == b"a\nb\n"


def test_a_compressed_file_without_its_end_is_whole_to_the_last_flush() -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    packed = packer.compress(b"a\n") + packer.flush(zlib.Z_SYNC_FLUSH)
    assert decompress(packed) == b"a\n"


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 2**64, -(2**200), 10**5000, 5e-324, [math.nan, 2**70]],
    ids=range(8),
)
def test_numbers_that_json_would_lose_are_kept(value: Any) -> None:
    data, _ = encoded([("root", "a", value), ("root", "a", value)], 2)
    for _, _, found in decoded(data):
        assert _same(found, value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_a_flipped_bit_in_a_compressed_file_is_told(tmp_path: Path) -> None:
    lines = [dump_line({"k": "log", "n": "a", "v": number / 7}) for number in range(300)]
    data = (dump_line(HEADER) + "".join(lines)).encode()
    whole = gzip.compress(data)
    path = tmp_path / "r.jsonl.gz"
    same = parse_run(data, path).lines
    for place in range(30 * 8, len(whole) * 8, 37):
        packed = bytearray(whole)
        packed[place // 8] ^= 1 << place % 8
        path.write_bytes(packed)
        try:
            run = read_run(path)
        except RunFileError:
            continue
        damaged = any("damaged" in why for _, why in run.problems)
        assert damaged or run.lines == same or run.torn
