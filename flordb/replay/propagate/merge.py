"""Several patches of one older version as one patch, with the support code that they share once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flordb.replay.propagate.edit import Edit, apply
from flordb.replay.propagate.model import Insertion, Patch
from flordb.replay.propagate.units import split_lines
from flordb.replay.propagate.wrap import CLOSING, OPENING


def merge(old: Mapping[str, str], patches: Sequence[Patch]) -> Patch:
    """Combine the insertions of patches that were made for the same older version.

    Parameters: ``old``, path to text of that version; ``patches``, in the order in which lines for
    the same slot are to stand. Errors: ValueError where two patches bring different new files of
    one path.
    """
    edits: dict[str, list[Edit]] = {}
    fresh: dict[str, str] = {}
    renames: dict[str, str] = {}
    notes: dict[str, None] = {}
    # A statement with an f-string for a name has the same patch for each name.
    for patch in (p for n, p in enumerate(patches) if p not in patches[:n]):
        for path, text in patch.files.items():
            if path not in old:
                if fresh.setdefault(path, text) != text:
                    raise ValueError(f"two patches bring different files {path}")
                continue
            edits.setdefault(path, []).extend(_edits(path, patch))
        renames.update(patch.renames)
        notes.update(dict.fromkeys(patch.notes))
    files, insertions = (
        dict(fresh),
        [Insertion(path, 1, len(split_lines(text)), "support") for path, text in fresh.items()],
    )
    for path, wanted in edits.items():
        files[path], places = apply(split_lines(old[path]), _once(wanted))
        insertions += [Insertion(path, first, last, kind) for first, last, kind in places]
    return Patch(files, tuple(insertions), renames, tuple(notes))


def _edits(path: str, patch: Patch) -> list[Edit]:
    """The insertions of a patch as edits of the older text."""
    lines = split_lines(patch.files[path])
    found: list[Edit] = []
    added = 0
    for place in sorted((i for i in patch.insertions if i.file == path), key=lambda i: i.first):
        text = "".join(lines[place.first - 1 : place.last])
        found.append(Edit(path, place.first - added, text, place.kind))
        added += place.last - place.first + 1
    return found


def _once(edits: list[Edit]) -> list[Edit]:
    """Without repeated support code: in one slot, or at the top level of the file anywhere."""
    kept: list[Edit] = []
    seen: set[tuple[int, str]] = set()
    for edit in sorted(edits, key=lambda e: e.before):
        if edit.kind == "support":
            text = edit.text.rstrip()
            key = (0 if not edit.text[:1].isspace() else edit.before, text)
            if key in seen:
                continue
            seen.add(key)
        kept.append(edit)
    return sorted(kept, key=lambda e: (e.before, _ORDER[e.kind]))


_ORDER = {CLOSING: 0, "support": 1, "statement": 2, OPENING: 3}
"""How lines for the same slot follow each other."""
