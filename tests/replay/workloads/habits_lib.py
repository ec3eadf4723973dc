"""A global counter in a module."""

from collections import Counter

counts = Counter()
_total = 0


def tick(what):
    global _total
    counts[what] += 1
    _total += 1
    return _total


def total():
    return _total
