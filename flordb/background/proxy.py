"""Stand-ins for objects that live elsewhere: what `flordb.background.process` returns.

A proxy belongs to its *home*, which makes calls one after another: a process of its own, the
background thread where there can be no such process, or, in a replay, the caller itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from flordb.background.failures import name_of

_WAITED_FOR = ("close", "flush")


class Home(Protocol):
    """Where an object lives and calls are made."""

    def put(
        self,
        call: Callable[..., Any],
        arguments: tuple[Any, ...],
        named: dict[str, Any],
        keep: int | None = None,
    ) -> int | None:
        """Have a call made; ``keep``: the number under which its result stays. Returns a ticket."""

    def wait_for(self, ticket: int | None) -> None:
        """Wait until a call has been made, or never will be."""


class Proxy:
    """Stands for an object in another process: its methods can be called, and return None.

    Calls run behind the caller, in order; ``flush`` and ``close`` wait until they have run.
    """

    __slots__ = ("__weakref__", "_home", "_make", "_number")

    def __init__(self, home: Home, number: int, make: Callable[..., Any]) -> None:
        self._home = home
        self._number = number
        self._make = make

    def __getattr__(self, name: str) -> Method:
        # What a class has is known; what a function will return is not.
        known = not isinstance(self._make, type) or callable(getattr(self._make, name, None))
        if name.startswith("_") or not known:
            raise AttributeError(
                f"{name!r} is no method of {name_of(self._make)}, and of an object in a process of "
                "its own only methods can be used; submit a function to do more with it",
                name=name,
                obj=self,
            )
        return Method(self, name)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} belongs to the process that made it, and cannot be pickled")

    def __repr__(self) -> str:
        return f"<{name_of(self._make)} of flordb.background.process>"


class Method:
    """A method of an object that lives elsewhere."""

    __slots__ = ("__qualname__", "name", "proxy")

    def __init__(self, proxy: Proxy, name: str) -> None:
        self.proxy = proxy
        self.name = name
        self.__qualname__ = f"{name_of(proxy._make)}.{name}"

    def __call__(self, *arguments: Any, **named: Any) -> None:
        home = self.proxy._home
        ticket = home.put(self, arguments, named)
        if self.name in _WAITED_FOR:
            home.wait_for(ticket)

    def __reduce__(self) -> Any:
        return getattr, (self.proxy, self.name)


def home_of(value: Any) -> Home | None:
    """The home of the first proxy in a value: itself, a method's, or in lists, tuples, dicts."""
    kind = type(value)
    if kind is Proxy:
        return value._home  # type: ignore[no-any-return]
    if kind is Method:
        return value.proxy._home  # type: ignore[no-any-return]
    if kind in (list, tuple):
        items = value
    elif kind is dict:
        items = value.values()
    else:
        return None
    return next((found for item in items if (found := home_of(item)) is not None), None)


class MissingObject(LookupError):
    """An object was never made; why has been said when it should have been."""


class Objects(dict[int, Any]):
    """The objects that live in this process, by number."""

    def __missing__(self, number: int) -> Any:
        raise MissingObject(number)

    def close(self) -> Iterator[tuple[str, BaseException]]:
        """Close those that have a ``close``; yields what could not be, and why."""
        for value in self.values():
            close = getattr(value, "close", None)
            try:
                if callable(close):
                    close()
            except BaseException as error:
                yield name_of(close), error

    def real(self, value: Any) -> Any:
        """``value`` with objects for their proxies. Raises MissingObject."""
        kind = type(value)
        if kind is Proxy:
            return self[value._number]
        if kind is Method:
            return getattr(self[value.proxy._number], value.name)
        if kind is dict:
            return {key: self.real(item) for key, item in value.items()}
        if kind in (list, tuple):
            return kind(self.real(item) for item in value)
        return value
