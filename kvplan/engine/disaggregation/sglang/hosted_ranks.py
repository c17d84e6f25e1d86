"""Ranks of data-parallel attention as one prefill server, each above host memory of its own."""

from __future__ import annotations

from kvplan.engine.disaggregation.sglang.prefill import PrefillReplica
from kvplan.engine.disaggregation.sglang.ranks import ServerRanks
from kvplan.engine.lockstep.hicache import HierarchicalRanks


class HostedServerRanks(HierarchicalRanks, ServerRanks[PrefillReplica]):
    """A prefill server whose ranks are ``HostedPrefillReplica``.

    Args:
        ranks, router, config, latency, recorder, make: as of ``ServerRanks``.
    """

    def _wait(self, until: float) -> None:
        """See the base classes: until something reaches it, or a copy of one of its ranks has arrived."""
        self.park(self.arrives_s)
