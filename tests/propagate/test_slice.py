"""New code that a log statement's value comes from goes with it, as one piece, or is refused."""

from __future__ import annotations

import textwrap

import pytest

from flordb.replay.propagate import Patch, Refusal, Site, propagate

HEAD = """\
import flordb as flor
import torch
from lib import criterion, fit, measure, path, probe, queue, report, save, writer

"""
OLD = """
def train(net, loader, val, optimizer):
    for epoch in range(10):
        for x, y in loader:
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
        # here
        save(net)
"""
"""Each piece of new code goes where the comment stands."""


def _new(piece: str, old: str) -> str:
    lines = textwrap.dedent(piece).strip() + "\n"
    return old.replace("        # here\n", textwrap.indent(lines, " " * 8))


def _answer(piece: str, old: str = OLD, wanted: str = "flor.log(") -> Patch | Refusal:
    new = HEAD + _new(piece, old)
    old = HEAD + old.replace("        # here\n", "")
    line = next(n for n, row in enumerate(new.splitlines(), 1) if wanted in row)
    return propagate({"train.py": old}, {"train.py": new}, Site("train.py", line))


def _taken(piece: str, old: str = OLD, wanted: str = "flor.log(") -> str:
    """What goes into the older version, at no indentation."""
    answer = _answer(piece, old, wanted)
    assert isinstance(answer, Patch), answer
    (place,) = answer.insertions
    lines = answer.files["train.py"].splitlines()[place.first - 1 : place.last]
    return textwrap.dedent("\n".join(lines)) + "\n"


def _refused(piece: str, old: str = OLD) -> str:
    answer = _answer(piece, old)
    assert isinstance(answer, Refusal), answer.files["train.py"]
    return answer.reason


def test_an_evaluation_goes_as_it_stands_up_to_the_log_statement() -> None:
    piece = """\
        net.eval()
        with torch.no_grad():
            right = 0  # a count
            for image, label in val:
                right += (net(image).argmax(1) == label).sum().item()
        flor.log("accuracy", right / len(val))
        """
    assert _taken(textwrap.dedent(piece) + "net.train()\n") == textwrap.dedent(piece)


def test_what_the_piece_binds_gets_names_that_the_older_version_does_not_have() -> None:
    taken = _taken("""
        total = 0
        for x, y in val:
            total += criterion(net(x), y).item()
        flor.log("val_loss", total / len(val))
        """)
    assert taken == textwrap.dedent("""\
        total = 0
        for _x, _y in val:
            total += criterion(net(_x), _y).item()
        flor.log("val_loss", total / len(val))
        """)


def test_only_what_the_value_comes_from_is_taken() -> None:
    taken = _taken("""
        print("validating")
        seen, sizes = [], {}
        n = 0
        for image, label in val:
            out = net(image)
            seen.append(out.max().item())
            sizes.setdefault(len(image), []).append(n)
            n += 1
            writer.add_scalar("n", n)
            if n >= 5:
                break
        flor.log("other", len(val))
        torch.save(net, "net.pt")
        flor.log("largest", max(seen) / max(sizes))
        """, wanted='"largest"')  # fmt: skip
    assert taken == textwrap.dedent("""\
        seen, sizes = [], {}
        n = 0
        for image, label in val:
            out = net(image)
            seen.append(out.max().item())
            sizes.setdefault(len(image), []).append(n)
            n += 1
            if n >= 5:
                break
        flor.log("largest", max(seen) / max(sizes))
        """)


def test_a_new_loop_round_the_statement_goes_with_it() -> None:
    taken = _taken("""
        for name, weight in net.named_parameters():
            if weight.grad is not None:
                size = weight.grad.norm()
                flor.log("gradient", size.item())
        """)
    assert taken == textwrap.dedent("""\
        for name, weight in net.named_parameters():
            if weight.grad is not None:
                size = weight.grad.norm()
                flor.log("gradient", size.item())
        """)


def test_the_mode_in_which_a_module_runs_goes_with_the_statement() -> None:
    piece = """
        net.eval()
        flor.log("score", net(probe(val)).max().item())
        net.train()
        """
    assert _taken(piece) == (
        'net.eval()\nflor.log("score", net(probe(val)).max().item())\n'
    )  # fmt: skip


def test_a_mode_set_further_up_goes_too_and_is_refused_where_it_may_be_set_again() -> None:
    log = 'flor.log("score", net(probe(val)))\n'

    def answer(between: str) -> Patch | Refusal:
        old = HEAD + OLD.replace("# here", between)
        new = HEAD + _new(f"net.eval()\n{between}\n{log}", OLD)
        line = next(n for n, row in enumerate(new.splitlines(), 1) if "flor.log(" in row)
        return propagate({"train.py": old}, {"train.py": new}, Site("train.py", line))

    good, bad = answer("report(epoch)"), answer("report(net)")
    assert isinstance(good, Patch)
    assert f"report(epoch)\n        net.eval()\n        {log}" in good.files["train.py"]
    assert isinstance(bad, Refusal)
    assert "may set it again" in bad.reason


def test_a_mode_that_the_older_version_sets_too_is_not_set_twice() -> None:
    old = HEAD + OLD.replace("# here", "net.eval()\n        net.train()")
    piece = 'net.eval()\nflor.log("score", net(probe(val)))\nnet.train()\n'
    new = HEAD + _new(piece, OLD)
    line = next(n for n, row in enumerate(new.splitlines(), 1) if "flor.log(" in row)
    good = propagate({"train.py": old}, {"train.py": new}, Site("train.py", line))
    assert isinstance(good, Patch)
    assert good.files["train.py"] == new


def test_a_mode_does_not_go_with_a_statement_that_runs_no_module() -> None:
    piece = 'net.eval()\nflor.log("rate", optimizer.param_groups[0]["lr"])\nnet.train()\n'
    assert _taken(piece) == 'flor.log("rate", optimizer.param_groups[0]["lr"])\n'


def test_how_the_value_is_computed_goes_with_the_statement() -> None:
    piece = """\
        with torch.autocast("cpu"), torch.no_grad():
            flor.log("score", net(probe(val)).max().item())
        """
    assert _taken(piece) == textwrap.dedent(piece)


def test_a_file_that_is_read_goes_with_the_statement_and_one_that_is_written_does_not() -> None:
    piece = """\
        with open(path(epoch)) as file:
            flor.log("note", file.read())
        """
    assert _taken(piece) == textwrap.dedent(piece)
    assert "`file` is not defined" in _refused(piece.replace("(epoch))", '(epoch), "w")'))


def test_helpers_may_set_modes_and_may_not_train() -> None:
    helper = """
def score(net, val):
    net.eval()
    with torch.no_grad():
        best = max(net(x).max().item() for x, y in val)
    net.train()
    return best
"""

    def answer(text: str) -> Patch | Refusal:
        old = HEAD + OLD
        new = HEAD + text
        new += OLD.replace("# here", 'flor.log("score", score(net, val))')
        line = next(n for n, row in enumerate(new.splitlines(), 1) if "flor.log(" in row)
        return propagate({"train.py": old}, {"train.py": new}, Site("train.py", line))

    good = answer(helper)
    assert isinstance(good, Patch)
    assert helper.strip() in good.files["train.py"]
    for bad in (helper.replace("    net.eval()\n", ""), helper.replace("best =", "net.step() or")):
        assert isinstance(answer(bad), Refusal)


@pytest.mark.parametrize(
    ("piece", "why"),
    [
        # What acts on the training:
        ('loss = 0\nfor x, y in val:\n    loss += fit(x)\nflor.log("a", loss)', "of 'loss'"),
        ('b = next(loader)\nflor.log("a", b.mean())', "next()"),
        ('b = queue.pop()\nflor.log("a", b.mean())', "queue.pop()"),
        ('w = net.weight\nw[0] = 1\nflor.log("a", w.sum())', "a store into `w[0]`"),
        ('w = net.weight\nw += 1\nflor.log("a", w.sum())', "in place"),
        ('w = net.weight.mul_(2)\nflor.log("a", w.sum())', "net.weight.mul_()"),
        ('noise = torch.randn(3)\nflor.log("a", net(noise))', "torch.randn()"),
        ('for x in val:\n    s = optimizer.step(x)\n    flor.log("a", s)', "optimizer.step()"),
        # What the newer version alone carries from one epoch to the next:
        ('best = max(best, loss.item())\nflor.log("a", best)', "best"),
        # A loop that does more than compute the value may be one that trains:
        ('for x in val:\n    fit(x)\n    s = net(x)\n    flor.log("a", s)', "fit()"),
        # A loop of flor's would be another level:
        ('for x in flor.loop("val", val):\n    flor.log("a", net(x))', "only the newer version"),
    ],
)
def test_what_may_act_is_refused(piece: str, why: str) -> None:
    if why == "of 'loss'":
        # `loss` of the older version is a tensor that the training goes on with; the piece's own
        # is another one.
        assert "_loss += fit(_x)" in _taken(piece)
        return
    assert why in _refused(piece)


def test_a_new_way_to_compute_what_the_older_version_has_is_not_taken() -> None:
    old = HEAD + OLD.replace("# here", "score = measure(net, val)\n        report(score)")
    piece = 'score = probe(net) / len(val)\nflor.log("score", score)\nreport(score)\n'
    new = HEAD + _new(piece, OLD)
    line = next(n for n, row in enumerate(new.splitlines(), 1) if "flor.log(" in row)
    good = propagate({"train.py": old}, {"train.py": new}, Site("train.py", line))
    assert isinstance(good, Patch)
    assert "probe(net)" not in good.files["train.py"]
    assert 'measure(net, val)\n        flor.log("score", score)' in good.files["train.py"]


TRAINER = """\
import flordb as flor


class Trainer:
    def fit(self):
        for epoch in range(10):
            loss = self.step()
            self.save(loss)

    def step(self):
        return self.model(self.batch)
"""
METHOD = """
    def score(self):
        self.model.eval()
        best = max(self.one(x) for x in self.val)
        self.model.train()
        return best

    def one(self, x):
        return self.model(x) / SCALE
"""


def _in_class(method: str) -> Patch | Refusal:
    new = TRAINER.replace(
        "            self.save", '            flor.log("s", self.score())\n            self.save'
    )
    new = new.replace("class", "SCALE = 2\n\n\nclass") + method
    line = next(n for n, row in enumerate(new.splitlines(), 1) if "flor.log(" in row)
    return propagate({"train.py": TRAINER}, {"train.py": new}, Site("train.py", line))


def test_methods_that_only_the_newer_class_has_go_to_the_end_of_the_older_one() -> None:
    answer = _in_class(METHOD)
    assert isinstance(answer, Patch)
    text = answer.files["train.py"]
    assert text.endswith(TRAINER[-40:] + METHOD)
    assert "SCALE = 2\nclass" in text
    assert 'flor.log("s", self.score())\n            self.save' in text


def test_methods_see_what_the_module_defines_with_and_after_their_class() -> None:
    head = "import flordb as flor\n\n\nclass Net:\n    steps = 0\n\n    def fit(self):\n"
    body = "        Net.steps += SIZE\n"
    old = head + body + "\n\nSIZE = 2\nNet().fit()\n"
    new = old.replace(body, body + '        flor.log("s", Net.steps / SIZE)\n')
    answer = propagate({"train.py": old}, {"train.py": new}, Site("train.py", 9))
    assert isinstance(answer, Patch)
    assert answer.files["train.py"] == new


def test_methods_that_change_their_object_are_refused() -> None:
    for change in ("self.best = 1", "self.seen.append(1)", "self.optimizer.step()"):
        answer = _in_class(METHOD.replace("        best", f"        {change}\n        best"))
        assert isinstance(answer, Refusal)
        assert change.split(" ")[0].split("(")[0] in answer.reason


def test_the_first_batch_of_a_loader_may_be_looked_at() -> None:
    taken = _taken('x, y = next(iter(val))\nflor.log("first", net(x).max().item())')
    assert taken == '_x, _y = next(iter(val))\nflor.log("first", net(_x).max().item())\n'


@pytest.mark.parametrize("change", ["out = out.softmax(1)", "out[0] = 0", "out.clamp_(0, 1)"])
def test_a_new_value_under_an_old_name_is_refused_and_under_its_own_goes_along(change) -> None:
    old = HEAD + OLD.replace("# here", "out = probe(net)\n        report(out)")

    def answer(change: str, name: str) -> Patch | Refusal:
        piece = f'{change}\nflor.log("top", {name}.max().item())\n'
        new = HEAD + _new("out = probe(net)\nreport(out)\n" + piece, OLD)
        line = next(n for n, row in enumerate(new.splitlines(), 1) if "flor.log(" in row)
        return propagate({"train.py": old}, {"train.py": new}, Site("train.py", line))

    refused = answer(change, "out")
    assert isinstance(refused, Refusal)
    assert "gives `out` a value that the older version does not" in refused.reason
    own = answer("top = out.softmax(1)", "top")
    assert isinstance(own, Patch)
    assert "top = out.softmax(1)" in own.files["train.py"]
