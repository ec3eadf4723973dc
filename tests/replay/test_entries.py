"""Trainings that begin in a function which no line of the script calls by its name."""

from __future__ import annotations

import pytest

from tests.replay.support import acquire

TRAIN = """
    total = 0
    for epoch in flor.loop("epoch", range(4)):
        for step in flor.loop("step", range(3)):
            total += step
        flor.log("x", total)
"""
OTHER = """
    for round in flor.loop("round", range(2)):
        flor.log("o", round)
"""
ENTRIES = {
    "a command of an application": (
        "import click\napp = click.Group()\n@app.command()\ndef train():",
        "@app.command()\ndef other():",
        "app(['train'], standalone_mode=False)",
    ),
    "a decorated entry of a registry": (
        "class Registry(dict):\n"
        "    def register(self, name): return lambda f: self.setdefault(name, f)\n"
        "REGISTRY = Registry()\n@REGISTRY.register('train')\ndef train():",
        "@REGISTRY.register('other')\ndef other():",
        "import sys\nREGISTRY[(sys.argv + ['train'])[1]]()",
    ),
    "an entry of a dictionary": (
        "def train():",
        "def other():",
        "import sys\n{'train': train, 'other': other}[(sys.argv + ['train'])[1]]()",
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_statements_in_functions_that_are_called_by_no_name_are_replayed(sandbox, entry) -> None:
    first, second, call = ENTRIES[entry]
    text = f"import flordb as flor\n{first}{TRAIN}{second}{OTHER}{call}\n"
    sandbox.write("train.py", text)
    sandbox.commit()
    sandbox.run("train.py")
    after = '        flor.log("x", total)\n'
    sandbox.write("train.py", text.replace(after, f'{after}        flor.log("h", total * 2)\n'))
    values, *_ = acquire(sandbox, ["h"])
    assert [v for found in values.values() for v in found] == [6, 12, 18, 24]
