"""Calls in a replay: at once, so that what they log is compared and kept where they are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flordb.background.copies import Copies, in_main_memory
from flordb.background.failures import Failures, name_of
from flordb.background.proxy import MissingObject, Objects
from flordb.errors import ReplayError
from flordb.record import rng


class Direct:
    """Makes calls at once, and the training sees as little of them as it did in the run: they get
    copies, their errors do not reach it, and its random numbers are its own."""

    def __init__(self) -> None:
        self._objects = Objects()
        self._failures = Failures("the background")

    def put(
        self,
        call: Callable[..., Any],
        arguments: tuple[Any, ...],
        named: dict[str, Any],
        keep: int | None = None,
    ) -> None:
        generators = rng.get_states()
        try:
            given = in_main_memory(Copies().of([arguments, named]))
            function, taken, options = self._objects.real([call, *given])
            result = function(*taken, **options)
            if keep is not None:
                self._objects[keep] = result
        except MissingObject:
            return
        except (ReplayError, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._failures.say(name_of(call), error)
        finally:
            rng.set_states(generators)

    def wait_for(self, ticket: int | None) -> None:
        return
