"""A log statement round a call that the older version makes on its own."""

from __future__ import annotations

import textwrap

from flordb.replay.propagate import Matcher, Patch, Refusal, Site, merge, propagate

HEAD = """
import flordb as flor

class Trainer:
    def learn(self, batch):
        loss = self.criterion(self.net(batch))
        loss.backward()
        return loss.item()

def fit(trainer, loader, show):
    for epoch in flor.loop("epoch", range(3)):
        for batch in loader:
"""


def version(body: str) -> str:
    return HEAD + textwrap.indent(textwrap.dedent(body).strip("\n"), " " * 12) + "\n"


def put(old: str, new: str, mark: str = "flor.log(") -> Patch | Refusal:
    return propagate({"t.py": old}, {"t.py": new}, site(new, mark))


def site(new: str, mark: str) -> Site:
    body = new.index("        for batch")
    return Site("t.py", 1 + new[: new.index(mark, body)].count("\n"))


def body_of(answer: Patch | Refusal) -> str:
    assert isinstance(answer, Patch), answer
    return textwrap.dedent(answer.files["t.py"].removeprefix(HEAD))


NEW = version('flor.log("loss", trainer.learn(batch))\nshow(batch)')


def test_the_call_that_the_run_made_goes_inside_the_log_call() -> None:
    answer = put(version("trainer.learn(batch)  # one step\nshow(batch)"), NEW)
    assert body_of(answer) == (
        'flor.log("loss",\ntrainer.learn(batch)  # one step\n)\nshow(batch)\n'
    )
    assert [i.kind for i in answer.insertions] == ["opening", "closing"]


def test_a_call_over_several_lines_stays_as_it_is() -> None:
    old = version("trainer.learn(\n    batch,\n)\nshow(batch)")
    assert body_of(put(old, NEW)) == (
        'flor.log("loss",\ntrainer.learn(\n    batch,\n)\n)\nshow(batch)\n'
    )


def test_an_awaited_call_goes_inside_the_log_call() -> None:
    old = version("await trainer.learn(batch)").replace("def fit", "async def fit")
    new = version('flor.log("loss", await trainer.learn(batch))')
    answer = put(old, new.replace("def fit", "async def fit"))
    assert isinstance(answer, Patch), answer
    assert '"loss",\n            await trainer.learn(batch)\n            )' in answer.files["t.py"]


def test_a_call_whose_value_the_run_kept_is_logged_behind_it() -> None:
    old = version("value = trainer.learn(batch)\nshow(value)")
    assert body_of(put(old, NEW)) == (
        'value = trainer.learn(batch)\nflor.log("loss", value)\nshow(value)\n'
    )


def test_a_call_that_trains_is_never_made_once_more() -> None:
    for body in ("show(batch)", "trainer.learn(batch)\ntrainer.learn(batch)\nshow(batch)"):
        answer = put(version(body), NEW)
        assert isinstance(answer, Refusal)
        assert "learn() calls loss.backward()" in answer.reason


def test_a_call_inside_a_larger_statement_is_never_made_once_more() -> None:
    new = version('losses.append(flor.log("loss", trainer.learn(batch)))\nshow(batch)')
    answer = put(version("losses.append(trainer.learn(batch))\nshow(batch)"), new)
    assert isinstance(answer, Refusal)
    assert "learn() calls loss.backward()" in answer.reason


def test_a_call_that_shares_its_line_is_refused() -> None:
    answer = put(version("trainer.learn(batch); show(batch)"), NEW)
    assert isinstance(answer, Refusal)
    assert "holds more than the call" in answer.reason


def test_two_statements_round_one_call_and_others_beside_it_go_together() -> None:
    old = version("trainer.learn(batch)\nshow(batch)")
    new = version(
        """
        flor.log("size", len(batch))
        flor.log("loss", trainer.learn(batch))
        flor.log("again", len(batch))
        show(batch)
        """
    )
    matcher = Matcher({"t.py": old}, {"t.py": new})
    marks = ('flor.log("loss"', 'flor.log("again"', 'flor.log("size"')
    answers = [matcher.propagate(site(new, mark)) for mark in marks]
    patches = [answer for answer in answers if isinstance(answer, Patch)]
    assert len(patches) == 3, answers
    assert body_of(merge({"t.py": old}, patches)) == (
        'flor.log("size", len(batch))\nflor.log("loss",\ntrainer.learn(batch)\n)\n'
        'flor.log("again", len(batch))\nshow(batch)\n'
    )
