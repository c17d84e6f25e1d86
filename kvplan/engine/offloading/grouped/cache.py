"""The device's cache of several groups, above a host that its states are handed to."""

from __future__ import annotations

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.numbered.cache import NumberedCache, WatchedCache
from kvplan.engine.numbered.request import NumberedRequest
from kvplan.engine.offloading.grouped.states import HandedStates
from kvplan.engine.reference.groups import GroupManager


class HandingTables(WatchedCache):
    """Blocks of all groups, with states that are handed on."""

    def _manager(self, index: int, group: CacheGroup) -> GroupManager:
        if group.kind != "mamba":
            return super()._manager(index, group)
        return self.states(index, group)

    def states(self, index: int, group: CacheGroup) -> HandedStates:
        """What keeps a group's recurrent states."""
        return HandedStates(index, group, self.shared)


class HandingCache(NumberedCache):
    """A ``NumberedCache`` of which every state that is published is to be stored.

    Attributes:
        handed: states that were published and that nobody has stored yet, by group: whose, the block, and
            the token it ends with.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self._handing = [manager for manager in self._managers if isinstance(manager, HandedStates)]
        self.handed: dict[int, list[tuple[NumberedRequest, int, int]]] = {
            manager.index: [] for manager in self._handing
        }

    def make_tables(self) -> WatchedCache:
        """As the base class."""
        return HandingTables(self.config)

    def published(self, request: NumberedRequest) -> None:
        """As the base class; states that were published now are to be stored."""
        for manager in self._handing:
            self.handed[manager.index] += [(request, *entry) for entry in manager.handed]
            manager.handed.clear()

    def forget(self, request: NumberedRequest) -> None:
        """As the base class; no state of it is handed on."""
        super().forget(request)
        for index, entries in self.handed.items():
            if entries:
                self.handed[index] = [entry for entry in entries if entry[0] is not request]
