"""How much two statements are alike, from 0 to 1."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from flordb.replay.propagate.effects import last_name
from flordb.replay.propagate.flor import loop_name
from flordb.replay.propagate.tokens import bare
from flordb.replay.propagate.units import FUNCTIONS, Unit, Words

_Key = TypeVar("_Key", str, Words)
LEAST = 0.45
"""Below this, two statements are not taken for versions of one another."""
_SMALL = 6
"""Up to this many statements inside, two compound statements are compared word by word too."""
_SAME_HEADER = 0.7
"""From this likeness of their headers on, two compound statements may be the same."""
_OTHER_CALL = 0.6
"""What is left of the likeness of two statements that call different functions."""


def likeness(new: Unit, old: Unit) -> float:
    """How much a statement of the newer version is like one of the older version."""
    if new.kind != old.kind:
        return 0.0
    if not new.blocks and not old.blocks:
        return _words_alike(new, old)
    if isinstance(new.node, (*FUNCTIONS, ast.ClassDef)):
        return _definitions_alike(new, old)
    return _compounds_alike(new, old)


def inside_alike(new: Unit, old: Unit) -> float:
    """How much the statements inside two compound statements are the same, wherever they stand."""
    exact = dice(new.below, old.below)
    if exact > 0.9:
        return exact
    # Renamed variables change the words but not the shapes.
    return max(exact, 0.85 * dice(new.below_shapes, old.below_shapes))


def dice(a: Mapping[_Key, int], b: Mapping[_Key, int]) -> float:
    """Twice the common part of two bags over their sizes."""
    if len(a) > len(b):
        a, b = b, a
    common = sum(min(count, b[key]) for key, count in a.items() if key in b)
    total = sum(a.values()) + sum(b.values())
    return 2 * common / total if total else 1.0


def _words_alike(new: Unit, old: Unit) -> float:
    if new.words == old.words:
        return 1.0
    score = _weighted_dice(new.bag, old.bag)
    if _called(new.node) != _called(old.node) and not _say_the_same(new, old):
        score *= _OTHER_CALL
    if new.shape == old.shape and len(new.words) > 3:
        score = max(score, 0.55 + 0.4 * score)
    return score


def _say_the_same(new: Unit, old: Unit) -> bool:
    """Whether two statements hold the same text of several words."""
    return any(w.startswith("#'") and " " in w[2:-1].strip() and w in old.bag for w in new.bag)


def _called(node: ast.AST) -> str | None:
    """The last name of what a statement calls, where the call is all of it or all it assigns."""
    if not isinstance(node, (ast.Expr, ast.Assign)):
        return None
    value = bare(node.value) if isinstance(node, ast.Assign) else node.value
    return last_name(value) if isinstance(value, ast.Call) else None


def _weighted_dice(a: Counter[str], b: Counter[str]) -> float:
    common = total = 0.0
    for word, count in a.items():
        weight = 0.25 if word[0] == "<" else 1.0
        common += 2 * weight * min(count, b[word]) if word in b else 0.0
        total += weight * count
    for word, count in b.items():
        total += (0.25 if word[0] == "<" else 1.0) * count
    return common / total if total else 1.0


def _definitions_alike(new: Unit, old: Unit) -> float:
    inside = inside_alike(new, old)
    same = getattr(new.node, "name", "") == getattr(old.node, "name", None)
    return 0.6 + 0.4 * inside if same else inside


def _compounds_alike(new: Unit, old: Unit) -> float:
    name, other = loop_name(new.node), loop_name(old.node)
    inside = inside_alike(new, old)
    if name is not None and other is not None:
        return 0.8 + 0.2 * inside if name == other else 0.0
    header = _words_alike(new, old)
    if isinstance(new.node, (ast.Try, ast.With, ast.AsyncWith)) and len(new.words) < 3:
        return inside
    alike = 0.4 * header + 0.6 * inside
    if max(len(new.below), len(old.below)) <= _SMALL:
        alike = max(alike, 0.9 * _weighted_dice(new.whole_bag, old.whole_bag))
    if len(new.words) > 3 and header == 1.0:
        return max(alike, 0.65 + 0.35 * inside)
    if len(new.words) > 3 and header > _SAME_HEADER:
        return max(alike, _SAME_HEADER * header)
    return alike
