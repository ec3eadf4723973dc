"""How often a statement finds its place in old code, and how long that takes.

    python bench/propagate.py [CORPUS --tools FOLDER] [--per-set N] [--jobs N] [--repos NAME …]
                              [--without NAME …]

CORPUS is a corpus.jsonl.xz of real histories; FOLDER holds the builder's evaluate.py, which scores.
The corpus holds text of other people's: keep it outside this repository. Build it so:

    python FOLDER/build.py --mirror CLONES --pins FOLDER/pins.json --out OUT

Without a corpus, each statement of this repository's own example scripts is taken out and put back,
as it is and after all local names were changed: a check that it works, not a measurement.
Prints a table per set, one per distance and one per kind of statement (what logs, assignments,
other calls), for FlorDB and for a line diff; then what twenty statements cost against one in the
same pair of versions.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import multiprocessing
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from flordb.replay.propagate import Matcher, Patch, Site, propagate_source

ROOT = Path(__file__).parents[1]
Answer = dict[str, str]
CLASSES = ("exact", "equiv", "misplaced", "refused", "error")
REFUSE = ("refused", "noop", "nameerr", "inserted", "error")


def by_flordb(old: str, new: str, lineno: int) -> Answer:
    """FlorDB's answer in the form that evaluate.py scores."""
    answer = propagate_source(old, new, lineno)
    if isinstance(answer, Patch):
        return {"patched": next(iter(answer.files.values()))}
    return {"refused": answer.reason}


def by_line_diff(old: str, new: str, lineno: int) -> Answer:
    """The statement's lines after the counterpart of the line before it, as patch would."""
    mine, theirs = new.splitlines(), old.splitlines()
    unit = next(n for n in ast.walk(ast.parse(new)) if getattr(n, "lineno", 0) == lineno)
    last = getattr(unit, "end_lineno", lineno) or lineno
    matcher = difflib.SequenceMatcher(None, mine[: lineno - 1] + mine[last:], theirs, False)
    place = 0
    for a, b, size in matcher.get_matching_blocks():
        if a >= lineno - 1:
            break
        place = b + min(size, lineno - 1 - a)
    return {"patched": "\n".join([*theirs[:place], *mine[lineno - 1 : last], *theirs[place:], ""])}


PROPAGATORS = {"flordb": by_flordb, "line diff": by_line_diff}


def judged(
    propagate: Callable[[str, str, int], Answer], tools: str, case: dict[str, Any]
) -> dict[str, Any]:
    """One case's class and milliseconds."""
    evaluate = evaluator(tools)
    begun = time.perf_counter()
    try:
        answer: Answer | None = propagate(case["old"], case["new"], case["lineno"])
    except Exception as error:  # an answer, however bad, is what is measured
        answer = None
        print(f"{case['id']}: {type(error).__name__}: {error}", file=sys.stderr)
    seconds = time.perf_counter() - begun
    kind, _ = evaluate.score(case, answer)
    if kind in ("block", "func", "names", "wrong"):
        kind = "misplaced"
    row = {"set": case["set"], "bucket": case["bucket"], "kind": case["kind"]}
    return row | {"class": kind, "ms": 1000 * seconds}


def evaluator(tools: str) -> ModuleType:
    """The builder's evaluate.py."""
    if tools not in sys.path:
        sys.path.insert(0, tools)
    return importlib.import_module("evaluate")


def table(title: str, rows: list[dict[str, Any]], by: str, classes: tuple[str, ...]) -> None:
    """Print the share of each class, a line a group and one for all."""
    print(f"\n{title:22}{'n':>5}  " + "".join(f"{name:>11}" for name in classes) + f"{'ms':>8}")
    groups = list(dict.fromkeys(row[by] for row in sorted(rows, key=lambda r: order(r[by]))))
    for group in [*groups, None]:
        inside = [row for row in rows if group is None or row[by] == group]
        if not inside:
            continue
        count = Counter(row["class"] for row in inside)
        shares = "".join(f"{100 * count[name] / len(inside):10.1f}%" for name in classes)
        middle = statistics.median(row["ms"] for row in inside)
        print(f"{group or 'all':22}{len(inside):5}  {shares}{middle:8.1f}")


def order(name: str) -> tuple[int, str]:
    """Natural sets and small distances first."""
    digits = re.match(r"\d+", name)
    return (int(digits[0]) if digits else 0, name)


def report(name: str, rows: list[dict[str, Any]]) -> None:
    """All tables of a propagator, and the figures that count."""
    place = [row for row in rows if not row["set"].startswith("refuse")]
    refuse = [row for row in rows if row["set"].startswith("refuse")]
    table(f"{name}: sets", place, "set", CLASSES)
    natural = [row for row in place if row["set"].startswith("nat")]
    table("  nat sets, distance", natural, "bucket", CLASSES)
    table("  kinds of statement", place, "kind", CLASSES)
    if refuse:
        table("  must refuse", refuse, "set", REFUSE)
    times = sorted(row["ms"] for row in rows)
    right = sum(row["class"] in ("exact", "equiv") for row in place)
    near = sum(row["class"] in ("exact", "equiv") for row in natural)
    silent = sum(row["class"] == "misplaced" for row in place)
    due = sum(row["class"] == "refused" for row in refuse)
    print(
        f"\n{name}: right {right}/{len(place)} = {100 * right / len(place):.1f} %, "
        f"nat {100 * near / max(1, len(natural)):.1f} %, "
        f"silently misplaced {100 * silent / len(place):.1f} %, "
        f"refused where due {due}/{len(refuse)}; "
        f"ms a case: median {statistics.median(times):.1f}, "
        f"p95 {times[int(0.95 * (len(times) - 1))]:.1f}, most {times[-1]:.0f}"
    )


def on_corpus(arguments: argparse.Namespace) -> None:
    """Score both propagators on a corpus."""
    evaluate = evaluator(arguments.tools)
    cases = evaluate.load(arguments.corpus)
    if arguments.repos:
        cases = [case for case in cases if case["repo"] in arguments.repos]
    cases = [case for case in cases if case["repo"] not in arguments.without]
    if arguments.per_set:
        cases = evaluate.sample(cases, arguments.per_set)
    for name, propagate in PROPAGATORS.items():
        ask = partial(judged, propagate, arguments.tools)
        with multiprocessing.get_context("fork").Pool(arguments.jobs) as pool:
            report(name, pool.map(ask, cases, chunksize=8))


def own_cases() -> Iterator[tuple[str, str, str, str, int]]:
    """(what, old, expected, new, line) for each call statement of the example scripts."""
    for path in sorted(ROOT.glob("examples/*/*.py")):
        text = path.read_text()
        lines = text.splitlines(keepends=True)
        tree = ast.parse(text)
        variables = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and _stored(n)}
        variables -= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
        renamed = partial(_renamed, names=variables)
        for node in ast.walk(tree):
            for block in (getattr(node, "body", None), getattr(node, "orelse", None)):
                for unit in block if isinstance(block, list) and len(block) > 1 else ():
                    alone = isinstance(unit, ast.Expr) and isinstance(unit.value, ast.Call)
                    if not alone or unit.end_lineno is None:
                        continue
                    left = "".join(lines[: unit.lineno - 1] + lines[unit.end_lineno :])
                    yield "as it is", left, text, text, unit.lineno
                    yield "renamed", renamed(left), renamed(text), text, unit.lineno


def _stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _renamed(text: str, names: set[str]) -> str:
    """The text with `_old` behind each of some variables that are no keywords or attributes."""
    lines = text.splitlines(keepends=True)
    places = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name) and n.id in names]
    for node in sorted(places, key=lambda n: (n.lineno, -n.col_offset)):
        line = lines[node.lineno - 1].encode()
        end = node.end_col_offset or 0
        if line[node.col_offset : end] == node.id.encode():
            lines[node.lineno - 1] = (line[:end] + b"_old" + line[end:]).decode()
    return "".join(lines)


def on_own_examples() -> None:
    """Take the statements of the examples out and put them back."""
    count: Counter[tuple[str, str]] = Counter()
    for what, old, expected, new, lineno in own_cases():
        answer = by_flordb(old, new, lineno)
        same = answer.get("patched") and _same(answer["patched"], expected)
        count[what, "exact" if same else "refused" if "refused" in answer else "other"] += 1
    for (what, kind), number in sorted(count.items()):
        print(f"{what:12}{kind:10}{number:5}")


def _same(a: str, b: str) -> bool:
    return ast.dump(ast.parse(a)) == ast.dump(ast.parse(b))


def many_statements(count: int = 20) -> None:
    """What many statements cost against one, in a pair of versions of some hundred lines."""
    head = "import flordb as flor\n\n\n"
    old = head + "".join(_function(n, "value", log=False) for n in range(count))
    new = head + "".join(_function(n, "result", log=True) for n in range(count))
    lines = [n for n, text in enumerate(new.splitlines(), 1) if "flor.log" in text]
    seconds = []
    for sites in (lines[:1], lines):
        begun = time.perf_counter()
        matcher = Matcher({"train.py": old}, {"train.py": new})
        answers = [matcher.propagate(Site("train.py", line)) for line in sites]
        seconds.append(time.perf_counter() - begun)
        assert all(isinstance(answer, Patch) for answer in answers), answers
    print(
        f"\n{count} statements in a pair of versions of {old.count(chr(10))} lines: "
        f"{1000 * seconds[1]:.0f} ms, one: {1000 * seconds[0]:.0f} ms "
        f"(times {seconds[1] / seconds[0]:.1f})"
    )


def _function(number: int, name: str, log: bool) -> str:
    body = [f"{name}_{k} = step_{number}(batch, {k}) + {name}_{k - 1}" for k in range(1, 12)]
    body.insert(0, f"{name}_0 = prepare_{number}(batch)")
    body += [f'flor.log("value_{number}", {name}_7)'] * log + [f"return {name}_11"]
    return f"def train_{number}(batch):\n" + "".join(f"    {line}\n" for line in body) + "\n\n"


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("corpus", nargs="?", help="a corpus.jsonl.xz")
    parser.add_argument("--tools", help="the folder of evaluate.py")
    parser.add_argument("--per-set", type=int, help="only so many cases a set, always the same")
    parser.add_argument("--jobs", type=int, default=1, help="processes (times are best with 1)")
    parser.add_argument("--repos", nargs="*", default=[], help="only these owner/name")
    parser.add_argument("--without", nargs="*", default=[], help="all but these owner/name")
    arguments = parser.parse_args()
    if arguments.corpus and arguments.tools:
        on_corpus(arguments)
    elif arguments.corpus:
        parser.error("--tools: the folder of evaluate.py is needed to score a corpus")
    else:
        print("No corpus; how to build one is in this file's docstring. Our own examples:")
        on_own_examples()
    many_statements()


if __name__ == "__main__":
    main()
