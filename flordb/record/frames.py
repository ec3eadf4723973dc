"""Frames of the user's functions: which part of the code a loop is, which names it uses, and how
to bind a variable in a frame that is running.
"""

from __future__ import annotations

import ctypes
import dis
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import CodeType, FrameType
from typing import Any


@dataclass(frozen=True)
class Uses:
    """Names in a piece of code: variables it loads, variables it stores, attributes it mentions."""

    loads: frozenset[str]
    stores: frozenset[str]
    attributes: frozenset[str]

    @cached_property
    def names(self) -> dict[str, None]:
        """The variables that it loads or stores, sorted."""
        return dict.fromkeys(sorted(self.loads | self.stores))


def uses_of_loop(frame: FrameType) -> Uses:
    """The names that the body of the loop uses that ``frame`` is about to begin or continue.

    To be asked from inside the iterator, while the frame stands on its FOR_ITER. Where it does not
    (``list(flor.loop(…))``), the names of the whole function count.
    """
    return _uses_of_range(frame.f_code, frame.f_lasti)


@lru_cache(maxsize=256)
def _uses_of_range(code: CodeType, position: int) -> Uses:
    instructions = list(dis.get_instructions(code))
    for instruction in instructions:
        if instruction.offset == position and instruction.opname == "FOR_ITER":
            end = int(instruction.argval)
            lines = _lines(instruction)
            chosen = [
                i
                for i in instructions
                # The header too: iterating over a loader changes its generator.
                if position <= i.offset < end or _lines(i) & lines
            ]
            return _uses(chosen)
    return _uses(instructions)


def _lines(instruction: dis.Instruction) -> frozenset[int]:
    positions = instruction.positions
    if positions is None or positions.lineno is None:
        return frozenset()
    return frozenset(range(positions.lineno, (positions.end_lineno or positions.lineno) + 1))


@lru_cache(maxsize=1024)
def uses_of_code(code: CodeType) -> Uses:
    """The names that a whole function uses, with those of the functions defined in it."""
    return _uses(list(dis.get_instructions(code)))


def _uses(instructions: list[dis.Instruction]) -> Uses:
    loads: set[str] = set()
    stores: set[str] = set()
    attributes: set[str] = set()
    for instruction in instructions:
        name = instruction.opname
        value = instruction.argval
        if isinstance(value, CodeType):
            inner = uses_of_code(value)
            loads |= inner.loads | inner.stores
            attributes |= inner.attributes
        elif name.startswith(("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "IMPORT_FROM")):
            attributes.add(str(value))
        elif name.startswith("LOAD_") and name != "LOAD_CONST":
            loads.update(_names(value))
        elif name.startswith(("STORE_", "DELETE_")):
            # STORE_FAST_LOAD_FAST and the like hold both; taking them as both is safe.
            stores.update(_names(value))
            loads.update(_names(value) if "LOAD" in name else ())
    return Uses(frozenset(loads), frozenset(stores), frozenset(attributes))


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, tuple):
        return tuple(v for v in value if isinstance(v, str))
    return ()


def left_by_code(frame: FrameType) -> bool:
    """Whether a loop is being left by ``break`` or ``return``, and not by an exception.

    To be asked while the iterator is being closed: leaving by code drops it with an instruction
    that cannot raise.
    """
    for instruction in dis.get_instructions(frame.f_code):
        if instruction.offset == frame.f_lasti:
            return instruction.opname in ("POP_TOP", "POP_ITER")
    return False


@lru_cache(maxsize=1024)
def variables_of(code: CodeType) -> frozenset[str]:
    """The names in a piece of code that are variables of the function, not of the module."""
    return frozenset((*code.co_varnames, *code.co_cellvars, *code.co_freevars))


def bind(frame: FrameType, values: Mapping[str, Any]) -> None:
    """Bind variables in a frame that is running, as if its code had assigned them."""
    at_module_level = frame.f_locals is frame.f_globals
    variables = variables_of(frame.f_code)
    own: dict[str, Any] = {}
    for name, value in values.items():
        if at_module_level or name not in variables:
            frame.f_globals[name] = value
        else:
            own[name] = value
    if not own:
        return
    frame.f_locals.update(own)
    if sys.version_info < (3, 13):
        # Before PEP 667 f_locals is a copy that has to be written back.
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
