"""What schedulers with vLLM's own connector have in common: who is over, what workers are to copy."""

from __future__ import annotations

from kvplan.engine.live import LiveRequest
from kvplan.engine.offloading.copies import Store
from kvplan.engine.remote.queue import Load
from kvplan.engine.remote.scheduler import RemoteScheduler
from kvplan.engine.remote.source import KvSource


class ConnectorScheduler(RemoteScheduler):
    """See the module.

    Attributes:
        over: requests that ended since the last ``schedule()``.
        stores: those the step's workers are told of; flushed: those it has to wait for before it is launched.
        outstanding: stores that began and that no worker has told of.
        put_off: requests that were passed over, once for every time they waited.
        refused: stores that found no room, once for every step that computed more for them.
    """

    watchful = True

    def connect(self, source: KvSource) -> None:
        """As the base class."""
        super().connect(source)
        self.over: list[LiveRequest] = []
        self.stores: list[Store] = []
        self.flushed: dict[Store, None] = {}
        self.outstanding = self.put_off = self.refused = 0

    def loaded_blocks(self, load: Load) -> int:
        """How many blocks a load copies."""
        raise NotImplementedError

    def send(self, store: Store) -> None:
        """Blocks are to be copied with the step that is being planned."""
        self.stores.append(store)
        self.outstanding += 1
        self.version += 1


def in_order(request: LiveRequest) -> int:
    """The order of admission."""
    return request.order
