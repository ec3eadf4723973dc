"""Where in the run a call was submitted, so that what it logs is logged there."""

from __future__ import annotations

from contextvars import Context, copy_context

from flordb import session


def here() -> Context:
    """The caller's context variables, with its place in the loops."""
    place = getattr(session.peek(), "place", copy_context)
    found: Context = place()
    return found


def is_replay() -> bool:
    """Whether calls are to be made at once, as a replay compares what they log."""
    return bool(getattr(session.peek(), "is_replay", False))
