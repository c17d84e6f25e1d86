"""Context parallelism: a sequence's cache split over ranks, and what they exchange in every layer.

::

    prefill chunk   max(attention / cp, (cp - 1) * latency + bytes / rate)
                    bytes = (cp - 1) / cp * min(KV of the context, queries and outputs of the chunk)
    decode          attention over KV / cp  +  all-reduce of the partial outputs
    other layers    decode tokens on every rank, prefill tokens divided by cp

In prefill every rank owns a share of the queries and of the KV; KV travels around the ring while the tensor
cores work on what has arrived (ring attention), or the queries travel where they are fewer (a chunk late in a
long prompt), so only the longer of computing and exchanging is seen. In decode all ranks have the few
queries, attend to their own share of the cache, and merge partial outputs by their log-sum-exp; nothing hides
that exchange. Layers with a window keep a copy of it on every rank: only the new tokens' KV is gathered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.latency.assumption import Assumption
from kvplan.latency.attention_work import Attention
from kvplan.latency.link import Exchange
from kvplan.latency.work import StepWork

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

LSE_BYTES = 4
"""One log-sum-exp a head and query, in fp32."""


class Ring:
    """Exchanges between the context-parallel ranks of one replica, over all layers.

    Args:
        work: what a step does on one rank.
        exchange: the link between ranks.
    """

    __slots__ = ("_full", "_gather_byte", "_merge_fixed", "_merge_request", "_queries", "_start", "ranks")

    def __init__(self, work: StepWork, exchange: Exchange) -> None:
        ranks = self.ranks = work.context_ranks
        fixed, per_byte = exchange.ring(ranks, work.ranks)
        self._start = fixed * sum(item.layers for item in work.attentions)
        # Seconds of each cached token, and of each query, that goes all the way round.
        self._full = per_byte * sum(
            item.layers * item.kv_bytes_per_token * item.shards / item.ratio
            for item in work.attentions if item.shards > 1
        )  # fmt: skip
        self._queries = per_byte * sum(
            item.layers * _query_bytes(item, work) * 2 for item in work.attentions if item.shards > 1
        )
        self._gather_byte = per_byte * sum(
            item.layers * item.kv_bytes_per_token / item.ratio for item in work.attentions if item.shards == 1
        )
        call, byte = exchange.all_reduce(ranks, work.ranks)
        shared = [item for item in work.attentions if item.shards > 1]
        self._merge_fixed = call * sum(item.layers for item in shared)
        self._merge_request = byte * sum(item.layers * _query_bytes(item, work) for item in shared)

    def chunk_seconds(self, before: float, new: float) -> float:
        """Exchanging one prefill chunk of ``new`` tokens after ``before`` others, all layers."""
        passed = min(self._full * (before + new), self._queries * new)
        return self._start + passed + self._gather_byte * new

    def chunk_array(self, before: Array, new: Array) -> Array:
        """``chunk_seconds`` of many chunks."""
        import numpy as np

        passed = np.minimum(self._full * (before + new), self._queries * new)
        return np.asarray(self._start + passed + self._gather_byte * new)

    @property
    def merge(self) -> tuple[float, float]:
        """(seconds, seconds per decode request) of merging partial outputs, all layers."""
        return self._merge_fixed, self._merge_request

    def rank_tokens(self, scheduled: int, decode: int) -> int:
        """See ``rank_tokens``."""
        return rank_tokens(scheduled, decode, self.ranks)

    def assumptions(self) -> tuple[Assumption, ...]:
        """How context parallelism is timed."""
        text = (
            "prefill: the longer of computing and passing KV or queries round the ring; decode: partial "
            "outputs merged in every layer, tokens of other layers on every rank"
        )
        return (Assumption("latency.context_parallel", f"{self.ranks} ranks", text),)


def rank_tokens(scheduled: int, decode: int, ranks: int) -> int:
    """Tokens one of ``ranks`` computes of ``scheduled``, of which ``decode`` are on every rank."""
    return decode - (decode - scheduled) // ranks


def ring_of(work: StepWork, exchange: Exchange | None) -> Ring | None:
    """The ring of a context-parallel deployment; None for one rank."""
    return None if work.context_ranks == 1 or exchange is None else Ring(work, exchange)


def _query_bytes(item: Attention, work: StepWork) -> float:
    """One token's queries (or outputs) of one layer, with their log-sum-exp."""
    return float(item.q_heads * (item.head_dim * work.activation_bytes + LSE_BYTES))
