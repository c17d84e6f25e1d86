"""A named collection of things that users pick by name, with suggestions when they mistype."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from kvplan.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to items of one kind.

    Registering returns the item, so that ``register`` works as a decorator; a second item under the
    same name is a programming error and raises at import time.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def register(self, name: str, *aliases: str) -> Callable[[T], T]:
        """Decorator that files the item under ``name`` and each alias."""

        def add(item: T) -> T:
            for key in (name, *aliases):
                if key in self._items:
                    raise ValueError(f"{self.kind} {key!r} is registered twice")
                self._items[key] = item
            return item

        return add

    def get(self, name: str) -> T:
        """The item called ``name``.

        Raises:
            UnknownName: nothing has that name; carries near names.
        """
        try:
            return self._items[name]
        except KeyError:
            raise UnknownName(self.kind, name, self._items) from None

    def items(self) -> list[T]:
        """What is registered, in that order, once a name or alias."""
        return list(self._items.values())

    def names(self) -> list[str]:
        """Every name and alias, sorted."""
        return sorted(self._items)

    def __contains__(self, name: str) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
