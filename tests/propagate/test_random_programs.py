"""Random programs: what is taken out goes back to its place, or is refused; never a NameError."""

from __future__ import annotations

import ast
import random
import re

import pytest

from flordb.replay.propagate import Patch, Refusal, Site, propagate, propagate_source

FLOR = """\
class flor:
    @staticmethod
    def log(name, value):
        return value

    @staticmethod
    def loop(name, values):
        return values


"""


class Program:
    """A random training script that runs: functions, loops, branches over numbers."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._count = 0
        self.lines = FLOR.splitlines()
        for _ in range(self._random.randint(0, 2)):
            self._function()
        self._block(["start"], "", 0, first="start = 1")

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    def _new(self) -> str:
        self._count += 1
        return f"{self._random.choice(['loss', 'acc', 'rate', 'norm', 'out'])}_{self._count}"

    def _function(self) -> None:
        self._count += 1
        self.lines.append(f"def step_{self._count}(batch):")
        self._block(["batch"], "    ", 1)
        self.lines += ["    return batch", "", ""]

    def _block(self, known: list[str], indent: str, depth: int, first: str = "") -> None:
        """Statements that read what is known; what they bind is known behind them."""
        known = list(known)
        if first:
            self.lines.append(indent + first)
        for _ in range(self._random.randint(3, 6)):
            kind = self._random.random()
            a, b = self._random.choice(known), self._random.choice(known)
            if kind < 0.45 or depth > 3:
                name = self._new()
                number = self._random.randint(1, 99)
                self.lines.append(f"{indent}{name} = {a} + {number} * {b}")
                known.append(name)
            elif kind < 0.65:
                self.lines.append(f'{indent}flor.log("{self._new()}", {a} - {b})')
            elif kind < 0.85:
                item = self._new()
                label = f'"loop_{self._count}"'
                self.lines.append(f"{indent}for {item} in flor.loop({label}, range({1 + len(a)})):")
                self._block([*known, item], indent + "    ", depth + 1)
            else:
                self.lines.append(f"{indent}if {a} > {b} - {self._random.randint(0, 9)}:")
                self._block(known, indent + "    ", depth + 1)

    def logs(self) -> list[int]:
        """The lines of the log statements that are not alone in their block."""
        tree = ast.parse(self.text)
        blocks = [
            getattr(node, part, None) for node in ast.walk(tree) for part in ("body", "orelse")
        ]
        return [
            unit.lineno
            for block in blocks
            if isinstance(block, list) and len(block) > 1
            for unit in block
            if "flor.log(" in self.lines[unit.lineno - 1]
        ]


def without(text: str, lineno: int) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[: lineno - 1] + lines[lineno:])


def runs(text: str) -> None:
    exec(compile(text, "program", "exec"), {"__name__": "__main__"})


def cases(count: int, seed: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    while len(found) < count:
        program = Program(seed)
        runs(program.text)
        found += [(program.text, line) for line in program.logs()]
        seed += 1
    return found[:count]


@pytest.mark.parametrize("seed", [0, 1000, 2000])
def test_statement_taken_out_goes_back_to_its_place(seed: int) -> None:
    for text, line in cases(20, seed):
        answer = propagate_source(without(text, line), text, line)
        assert isinstance(answer, Patch), (answer, text)
        assert answer.files["source.py"] == text


@pytest.mark.parametrize("seed", [10, 1010])
def test_statement_whose_value_is_gone_is_refused(seed: int) -> None:
    refused = 0
    for text, line in cases(20, seed):
        read = re.findall(r", (\w+) - (\w+)\)", text.splitlines()[line - 1])[0]
        gone = next((name for name in read if text.count(f"{name} = ") == 1), None)
        if gone is None:
            continue
        kept = [
            row
            for number, row in enumerate(text.splitlines(), 1)
            if number != line and not re.search(rf"\b{gone}\b", row)
        ]
        old = "\n".join(kept) + "\n"
        try:
            runs(old)
        except (NameError, SyntaxError):
            continue  # something else needed it too
        answer = propagate_source(old, text, line)
        assert isinstance(answer, Refusal), (answer.files["source.py"], text, line)
        assert f"`{gone}`" in answer.reason or "no neighbour" in answer.reason
        refused += 1
    assert refused > 1


@pytest.mark.parametrize("seed", [20, 1020])
def test_patched_program_runs_whatever_was_changed_in_the_old_one(seed: int) -> None:
    placed = 0
    for number, (text, line) in enumerate(cases(20, seed)):
        old = shaken(without(text, line), random.Random(number))
        try:
            runs(old)
        except (NameError, SyntaxError, UnboundLocalError):
            continue
        answer = propagate({"train.py": old}, {"train.py": text}, Site("train.py", line))
        if isinstance(answer, Patch):
            runs(answer.files["train.py"])
            placed += 1
    assert placed > 5


def shaken(text: str, dice: random.Random) -> str:
    """The text with some variables renamed, statements dropped and neighbours swapped."""
    lines = text.splitlines()
    names = sorted(set(re.findall(r"^ *(\w+) = ", text, re.M)) - {"start"})
    for name in dice.sample(names, min(3, len(names))):
        lines = [re.sub(rf"\b{name}\b", f"old_{name}", row) for row in lines]
    for _ in range(2):
        at = dice.randrange(len(FLOR.splitlines()), len(lines) - 1)
        here, there = lines[at], lines[at + 1]
        if here[: len(here) - len(here.lstrip())] == there[: len(there) - len(there.lstrip())]:
            if dice.random() < 0.5:
                del lines[at]
            else:
                lines[at : at + 2] = [there, here]
    return "\n".join(lines) + "\n"
