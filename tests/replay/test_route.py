"""Which snapshots a replay is going to load is known before it begins."""

from __future__ import annotations

import pytest

from flordb.replay.recorded import NestedLoop, Recorded, TopLoop
from flordb.replay.route import Route
from flordb.replay.task import Steps
from tests.replay.support import acquire

RUN = Recorded({})
RUN.loops["epoch", 0] = TopLoop(
    *("epoch", 0, {0, 1, 2}, dict.fromkeys(range(3), 1.0)),
    nested={n: [NestedLoop("step", 0, 1.0, "exhausted")] for n in range(3)},
    end="exhausted",
)
RUN.loops["test", 0] = TopLoop("test", 0, {0}, {0: 1.0}, end="exhausted")
ENDS = {f"epoch={n}@end" for n in range(3)}
BOUNDARIES = {f"epoch={n}/step@exit" for n in range(3)} | ENDS
BOUNDARIES |= {"start", "epoch@enter", "epoch@exit", "test@enter", "test@exit"}


@pytest.mark.parametrize(
    ("steps", "loaded"),
    [
        (Steps("prefix"), []),
        (Steps("suffix", before=("epoch",)), ["epoch@exit"]),
        (
            Steps("validation", loops=("epoch",)),
            [
                *("epoch@enter", "epoch=0/step@exit", "epoch=0@end"),
                *("epoch=1/step@exit", "epoch=1@end", "epoch=2/step@exit"),
            ],
        ),
        (
            Steps("range", loops=("epoch",), iterations=(2,), run_nested=("step",)),
            ["epoch@enter", "epoch=1@end"],
        ),
        (
            Steps("range", before=("epoch",), loops=("test",)),
            ["epoch@exit", "test@enter"],
        ),
        (
            Steps("range", loops=("epoch",), iterations=(0, 2), go_on=True),
            [
                *("epoch@enter", "epoch=0/step@exit", "epoch=1@end", "epoch=2/step@exit"),
                "epoch@exit",
            ],
        ),
        (Steps("range", loops=("epoch",), from_start=True), ["epoch@enter"]),
    ],
)
def test_snapshots_are_expected_in_the_order_in_which_they_are_loaded(steps, loaded) -> None:
    assert list(Route(steps, RUN, BOUNDARIES).loads()) == loaded


def test_snapshots_that_were_not_kept_are_not_expected() -> None:
    steps = Steps("range", loops=("epoch",), iterations=(2,), run_nested=("step",))
    route = Route(steps, RUN, BOUNDARIES - ENDS)
    assert list(route.loads()) == ["epoch@enter"]


@pytest.mark.parametrize("read", ["getattr(w, names[0])", "look(w)", "vars(w)[names[0]]"])
def test_attribute_of_a_tensor_that_is_read_by_a_computed_name_comes_of_the_run(
    sandbox, read
) -> None:
    text = """
import flordb as flor, torch
names = ["mark"]
def look(tensor): return getattr(tensor, names[0])
w = torch.zeros(3)
w.mark = -1
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        w += 1
        w.mark = epoch * 10 + step
    flor.log("total", float(w.sum()))
"""
    sandbox.write("train.py", text)
    sandbox.commit()
    sandbox.run("train.py")
    sandbox.write("train.py", f'{text}    flor.log("mark", {read})\n')
    values, *_ = acquire(sandbox, ["mark"])
    assert [v for found in values.values() for v in found] == [1, 11, 21]
