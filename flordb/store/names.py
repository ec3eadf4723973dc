"""What the relation `flor` looks like: which columns it has, what they are called, their types.

Three rules are decided here, from what was logged and not from the order in which it came:

- A name has one SQL type, the narrowest that holds all its values: BOOLEAN, BIGINT, HUGEINT,
  DOUBLE; VARCHAR as soon as there is a text among them, JSON as soon as there is a nested value
  (VARCHAR if both). A name that only ever had the value None is a DOUBLE.
- SQL does not tell ``Loss`` from ``loss``. Dimension columns keep their names, then loops, then
  logged names; of those that only differ by case, the one in small letters. Each of the others
  gets the first suffix ``_2``, ``_3``, … that is free.
- A loop within a loop of the same name is a column of its own, ``epoch_2`` (same rule).
"""

from __future__ import annotations

import json
import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flordb.store.layout import base

# Kinds of values, bits of the columns `bits` in `name_kinds` and `loop_kinds`.
BOOL, EXACT, INT64, INT128, FLOAT, TEXT, NESTED, OTHER, NULLS, REPEATED, WIDE, ODD = (
    1 << bit for bit in range(12)
)
"""EXACT: an integer that a double holds exactly. OTHER: an iteration's value that is not its index.
NULLS: None. REPEATED: the name occurs more than once in a context. WIDE: there are values in a
column of the nest's table. ODD: there are values in `odd_logs`."""

DIMENSIONS = ("projid", "tstamp", "filename", "rank")

# In the order in which they are stored: type, and how it is read from a row of `logs` or `loops`.
_TEXT = "value"
_READ = {
    "BOOLEAN": "number <> 0",
    "DOUBLE": "number",
    "VARCHAR": _TEXT,
    "JSON": "value::JSON",
    "HUGEINT": "value::HUGEINT",
}

_KEY = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def sql_type(bits: int) -> str:
    """The SQL type that holds values of all these kinds."""
    if bits & TEXT:
        return "VARCHAR"
    if bits & NESTED:
        return "JSON"
    if bits & FLOAT:
        return "DOUBLE"
    if bits & INT128:
        return "HUGEINT"
    if bits & (INT64 | EXACT):
        return "BIGINT"
    return "BOOLEAN" if bits & BOOL else "DOUBLE"


def reading(bits: int) -> str:
    """The SQL expression over a row's ``value`` and ``number`` that gives it its name's type."""
    type_ = sql_type(bits)
    if type_ == "BIGINT":
        return "value::BIGINT" if bits & INT64 and not bits & BOOL else _bigint(bits)
    if type_ == "HUGEINT" and bits & BOOL:
        return "CASE WHEN value IN ('true', 'false') THEN number::HUGEINT ELSE value::HUGEINT END"
    return _READ[type_]


def reading_column(bits: int, column: str) -> str:
    """The same for a name's column in the table of a nest; empty where the text is needed."""
    type_ = sql_type(bits)
    if type_ == "DOUBLE":
        return column
    if type_ == "BOOLEAN":
        return f"{column} <> 0"
    return f"{column}::{type_}" if type_ in ("BIGINT", "HUGEINT") else ""


def _bigint(bits: int) -> str:
    if bits & INT64:
        return "CASE WHEN value IN ('true', 'false') THEN number::BIGINT ELSE value::BIGINT END"
    return "number::BIGINT"


def key(name: str) -> str:
    """What two names have in common that SQL takes for the same column."""
    return name.translate(_KEY)


@dataclass(frozen=True)
class Name:
    """A logged name and, by nest_id, the kinds of its values there."""

    id: int
    name: str
    kinds: Mapping[int, int]

    @property
    def bits(self) -> int:
        return _union(self.kinds.values())


def _union(values: Iterable[int]) -> int:
    bits = 0
    for value in values:
        bits |= value
    return bits


def catalog(
    nests: Mapping[int, tuple[str, ...]],
    names: Sequence[Name],
    loop_kinds: Mapping[int, int],
    ranked: bool,
    repeated: Collection[int],
) -> dict[str, Any]:
    """All that ``sql/pivot.sql`` must know to write a query, as JSON can hold it.

    Parameters: ``nests``, loop names by nest_id, closed under prefixes (0 is the empty nest);
    ``loop_kinds``, the kinds of the iterations' values by the nest that the loop closes;
    ``ranked``, whether a run has several ranks; ``repeated``, the nests where a name occurs more
    than once in a context.
    """
    ids = {loops: nest for nest, loops in nests.items()}
    up = {nest: [ids[loops[:n]] for n in range(len(loops) + 1)] for nest, loops in nests.items()}
    loops = _loops(nests, loop_kinds)
    labels = _labels(loops, names)
    by_level = {level: loop for loop in loops for level in loop["nests"]}
    order = sorted(nests, key=lambda nest: (-len(nests[nest]), nests[nest]))
    return {
        "ranked": ranked,
        "columns": [
            *(_column("dim", 0, dim, dim, "", "", [], up) for dim in DIMENSIONS),
            *(
                _column("loop", loop["id"], loop["label"], label, f"x{loop['id']}", "", at, up)
                for loop in loops
                for at in [loop["nests"]]
                for label in (loop["label"], loop["value_label"])
            ),
            *(
                {
                    **_column(
                        "name", n.id, n.name, labels[n.id], f"n{n.id}", reading(n.bits), n.kinds, up
                    ),
                    "wide": sorted(nest for nest, bits in n.kinds.items() if bits & WIDE),
                    "odd": sorted(nest for nest, bits in n.kinds.items() if bits & ODD),
                    "column": reading_column(n.bits, f"n{n.id}"),
                }
                for n in names
            ),
        ],
        "nests": [
            {
                **_nest(nest, up[nest], by_level, ranked, nest in repeated),
                "width": sum(1 for n in names if n.kinds.get(nest, 0) & WIDE),
            }
            for nest in order
        ],
        "loops": loops,
    }


STRUCTURE = {
    "ranked": "BOOLEAN",
    "columns": [
        {
            "kind": "VARCHAR",
            "id": "INTEGER",
            "name": "VARCHAR",
            "key": "VARCHAR",
            "label": "VARCHAR",
            "alias": "VARCHAR",
            "expr": "VARCHAR",
            "column": "VARCHAR",
            "wide": ["INTEGER"],
            "odd": ["INTEGER"],
            "nests": ["INTEGER"],
            "over": ["INTEGER"],
            "reach": ["INTEGER"],
        }
    ],
    "nests": [
        {
            "id": "INTEGER",
            "up": ["INTEGER"],
            "bit": "BIGINT",
            "run": "VARCHAR",
            "ordinal": "VARCHAR",
            "width": "INTEGER",
            "dims": ["VARCHAR"],
            "labels": ["VARCHAR"],
            "key": "VARCHAR",
            "scan": "VARCHAR",
            "columns": "VARCHAR",
            "regroup": "VARCHAR",
        }
    ],
    "loops": [
        {
            "id": "INTEGER",
            "label": "VARCHAR",
            "value_label": "VARCHAR",
            "value": "VARCHAR",
            "join": "VARCHAR",
            "nests": ["INTEGER"],
        }
    ],
}
"""The structure of a catalog, as DuckDB's ``from_json`` wants it."""


def macro(content: dict[str, Any]) -> str:
    """The statement that makes a catalog the one that ``flor_pivot`` uses."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return (
        "CREATE OR REPLACE MACRO flor_catalog() AS from_json("
        f"{_literal(text)}, {_literal(json.dumps(STRUCTURE))})"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _loops(nests: Mapping[int, tuple[str, ...]], kinds: Mapping[int, int]) -> list[dict[str, Any]]:
    """The loops, outermost first. A loop within one of its own name is another loop."""
    at: dict[tuple[str, int], list[int]] = {}
    depth: dict[tuple[str, int], int] = {}
    for nest in sorted(nests, key=lambda nest: (len(nests[nest]), nests[nest])):
        loops = nests[nest]
        if loops:
            loop = (loops[-1], loops.count(loops[-1]))
            at.setdefault(loop, []).append(nest)
            depth.setdefault(loop, len(loops))
    taken = set(DIMENSIONS)
    found = []
    ordered = sorted(at, key=lambda loop: (depth[loop], loop[1], loop[0] != key(loop[0]), loop[0]))
    for number, loop in enumerate(ordered, start=1):
        bits = _union(kinds.get(nest, 0) for nest in at[loop])
        found.append({"id": number, "nests": at[loop], **_loop_value(number, at[loop], bits)})
    # Loops get their labels before their values do: a loop `epoch_value` keeps its name.
    for row, loop in zip(found, ordered, strict=True):
        row["label"] = _free(loop[0], taken)
    for row in found:
        row["value_label"] = _free(f"{row['label']}_value", taken)
    return found


def _loop_value(loop: int, nests: list[int], bits: int) -> dict[str, Any]:
    """How the value of an iteration is read: mostly it is the index itself, or there is none."""
    if not bits & ~NULLS:
        return {"value": "NULL::DOUBLE", "join": ""}
    if bits == EXACT:
        return {"value": f"r.l{loop}", "join": ""}
    where = ", ".join(map(str, nests))
    return {
        "value": f"v{loop}.value",
        "join": f" LEFT JOIN (SELECT ctx_id, {reading(bits)} AS value FROM (SELECT ctx_id, "
        "loop_value AS value, number FROM flor_loops "
        f"WHERE nest_id IN ({where}))) v{loop} "
        f"ON v{loop}.ctx_id = r.k{loop}",
    }


def _labels(loops: list[dict[str, Any]], names: Sequence[Name]) -> dict[int, str]:
    """What each name's column is called, by name_id."""
    taken = {*DIMENSIONS}
    for loop in loops:
        taken |= {key(loop["label"]), key(loop["value_label"])}
    classes: dict[str, int] = {}
    for name in names:
        classes[key(name.name)] = classes.get(key(name.name), 0) + 1

    def rank(name: Name) -> tuple[bool, bool, str]:
        alone = classes[key(name.name)] == 1 and key(name.name) not in taken
        return (not alone, name.name != key(name.name), name.name)

    order = sorted(names, key=rank)
    return {name.id: _free(name.name, taken) for name in order}


def _free(name: str, taken: set[str]) -> str:
    name = name or "_"  # SQL has no column without a name
    label, number = name, 1
    while key(label) in taken:
        number += 1
        label = f"{name}_{number}"
    taken.add(key(label))
    return label


def _column(
    kind: str,
    id_: int,
    name: str,
    label: str,
    alias: str,
    expr: str,
    nests: Iterable[int],
    up: Mapping[int, list[int]],
) -> dict[str, Any]:
    at = sorted(nests)
    return {
        "kind": kind,
        "id": id_,
        "name": name,
        "key": key(label),
        "label": label,
        "alias": alias,
        "expr": expr,
        "column": "",
        "wide": at if kind == "loop" else [],
        "odd": [],
        "nests": at,
        # A loop's column never stands on rows of its own: it is no value.
        "over": sorted({a for nest in at for a in up[nest][:-1]}) if kind == "name" else [],
        "reach": sorted({a for nest in at for a in up[nest]}),
    }


def _nest(
    nest: int,
    up: list[int],
    by_level: Mapping[int, dict[str, Any]],
    ranked: bool,
    repeated: bool,
) -> dict[str, Any]:
    run = ["run_id", "rank"] if ranked else ["run_id"]
    # What rows say about their context: its name, and how `odd_logs` and the nest's table say it.
    scans = [(name, name, name) for name in run]
    for level, at in enumerate(up[1:], start=1):
        loop = by_level[at]
        scans.append((f"c{level}", f"path[{level}] - {base(at)}", f"c{level}"))
        scans.append((f"l{loop['id']}", f"iterations[{level}]", f"i{level}"))
        if loop["join"]:
            scans.append((f"k{loop['id']}", f"path[{level}]", f"c{level} + {base(at)}"))
    keys = [f"c{len(up) - 1}"] if len(up) > 1 else run
    return {
        "id": nest,
        "up": up,
        "bit": 1 << max(len(up) - 2, 0),
        "run": ", ".join(run),
        "ordinal": "ordinal" if repeated else "0",
        "dims": [name for name, _, _ in scans],
        "labels": [name for name, _, _ in scans if name[0] in "lk"],
        "key": ", ".join(keys),
        "scan": ", ".join(name if name == of else f"{of} AS {name}" for name, of, _ in scans),
        "columns": ", ".join(name if name == of else f"{of} AS {name}" for name, _, of in scans),
        "regroup": ", ".join(
            name if name in keys else f"any_value({name}) AS {name}" for name, _, _ in scans
        ),
    }
