"""What a run with the offloading connector reports: the host's cache, loads, links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.recorder import Metric
from kvplan.engine.tiers.metrics import cached, link

if TYPE_CHECKING:
    from kvplan.engine.offloading.replica import OffloadingReplica


def metrics(replica: OffloadingReplica) -> list[Metric]:
    """The section ``tiers`` of a result."""
    cache, scheduler, blocks = replica.cache, replica.offloading, replica.chunk_blocks
    put, get = replica.put.line, replica.get.line
    span = replica.recorder.totals.makespan_s
    return [
        Metric("host_capacity_blocks", cache.capacity * blocks, "blocks", "blocks the host tier holds"),
        Metric("host_block_bytes", put.wire_bytes, "bytes", "bytes of one block in the host tier"),
        Metric(
            "host_peak_blocks", cache.peak * blocks, "blocks", "most in use, those being written included"
        ),
        Metric("host_stored_blocks", cache.stored * blocks, "blocks", "blocks that were put in"),
        Metric("host_evicted_blocks", cache.evicted * blocks, "blocks", "blocks that went for want of room"),
        Metric("host_hit_tokens", scheduler.fetched_tokens, "tokens", "tokens whose KV came from the host"),
        Metric(
            "refused_stores", scheduler.refused, "1", "stores that found no room beside those on their way"
        ),
        Metric(
            "put_off",
            scheduler.put_off,
            "1",
            "times a request was passed over, as copies it needs were on their way",
        ),
        Metric("flushes", replica.flushes, "1", "steps that waited for stores from blocks they take"),
        Metric("flush_s", replica.flush_s, "s", "how long they waited, together"),
        Metric("loads", scheduler.loads, "1", "admissions that waited for KV from a tier"),
        Metric("load_s", replica.load_s, "s", "time loads took, waiting for steps and links included"),
        *cached(replica.cached_tokens, scheduler.queried_tokens),
        Metric(
            "device_evicted_blocks", scheduler.pool.evicted, "blocks", "prefix cache evicted on the device"
        ),
        *link(put, span),
        *link(get, span),
    ]
