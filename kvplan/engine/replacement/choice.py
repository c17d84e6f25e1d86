"""The prefix index that goes with an eviction policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.blocks import BlockPool
from kvplan.engine.live import LiveRequest
from kvplan.engine.prefix_hash import PrefixIndex
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.engine.replacement.foresight import Foresight


def prefix_index(
    eviction: str, block_size: int, usable: int, foresight: Foresight | None = None
) -> PrefixIndex[LiveRequest]:
    """The prefix index of an engine with ``usable`` blocks, and in it the pool.

    Args:
        eviction: ``lru`` is vLLM's own queue; any other name is looked up in ``REPLACEMENT``.
        foresight: the requests to come; ``belady`` needs it, the others do not look.

    Raises:
        UnknownName: no such policy. UsageError: ``belady`` without foresight.
    """
    if eviction == "lru":
        return PrefixIndex(block_size, BlockPool(usable))
    # The policies are imported only where one is asked for.
    from kvplan.engine.replacement.catalog import ensure_known
    from kvplan.engine.replacement.index import RankedIndex
    from kvplan.engine.replacement.pool import RankedPool

    ensure_known(eviction)
    if eviction == "belady" and foresight is None:
        raise UsageError(
            "the eviction policy belady must know all requests before the first one arrives",
            hint="one engine that is given a whole workload can look ahead; see also kvplan trace ladder",
        )
    return RankedIndex(block_size, RankedPool(usable), eviction, foresight)
