"""The pairs of SQL in ``fixtures/``: adding a case takes two lines there and no Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from flordb.analysis.statements import LogStatement
from flordb.query.facts import Columns
from flordb.query.needs import needs_of
from flordb.query.planner import _changes
from flordb.query.predicates import decidable
from flordb.query.splice import relation_of, spliced
from flordb.query.statement import parse

FOLDER = Path(__file__).parent / "fixtures"
EPOCH = ("epoch",)
COLUMNS = Columns(
    frozenset({"epoch", "step"}),
    {"lr": ((),), "loss": (("epoch", "step"),), "acc": (EPOCH,), "train/loss": (EPOCH,)},
    {"f1": (LogStatement("f1", "train.py", 3, EPOCH, ("train.py",), "d"),)},
)


def pairs(name: str) -> list[tuple[str, str]]:
    blocks = (FOLDER / name).read_text().split("\n\n")[1:]
    found = []
    for block in blocks:
        before, _, after = block.strip().partition(";\n")
        found.append((before.removesuffix(";"), after.strip().removesuffix(";")))
    return found


@pytest.mark.parametrize(("before", "after"), pairs("splice.sql"))
def test_splice(before: str, after: str) -> None:
    statement = parse(before)
    needs = [(reference, needs_of(reference, COLUMNS)) for reference in statement.references]
    assert (
        spliced(before, _changes(needs, COLUMNS, lambda names, brief: relation_of(names))) == after
    )


@pytest.mark.parametrize(("before", "conditions"), pairs("conditions.sql"))
def test_conditions(before: str, conditions: str) -> None:
    (reference, *_) = parse(before).references
    parts = decidable(reference, COLUMNS, [1, 2, 3])
    assert "; ".join(part.sql for part in parts) == conditions
