"""What a run with host memory reports, named as vLLM's tiers are where it means the same.

Blocks are pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.recorder import Metric
from kvplan.engine.tiers.metrics import cached, link

if TYPE_CHECKING:
    from kvplan.engine.hicache.replica import HierarchicalReplica
    from kvplan.engine.hicache.states.replica import HostedStateReplica
    from kvplan.engine.hicache.windows.replica import HostedWindowReplica


def metrics(replica: HierarchicalReplica) -> list[Metric]:
    """The section ``tiers`` of a result."""
    return [*_host(replica), *_hits(replica), *_copies(replica)]


def _host(replica: HierarchicalReplica) -> list[Metric]:
    host, page = replica.index.host, replica.config.page_size
    return [
        Metric("host_capacity_blocks", host.capacity // page, "blocks", "pages the host holds"),
        Metric("host_block_bytes", replica.copies.put.wire_bytes, "bytes", "bytes of one page"),
        Metric("host_peak_blocks", host.peak // page, "blocks", "most in use"),
        Metric("host_stored_blocks", host.stored // page, "blocks", "pages that were put in"),
        Metric("host_evicted_blocks", host.evicted // page, "blocks", "pages that went for want of room"),
    ]


def state_metrics(replica: HostedStateReplica) -> list[Metric]:
    """What the same section tells of recurrent states."""
    states, copies = replica.index.host_beside, replica.copies
    return [
        Metric("host_capacity_states", states.capacity, "states", "recurrent states the host holds"),
        Metric("host_state_bytes", copies.put.beside_bytes, "bytes", "bytes of one"),
        Metric("host_peak_states", states.peak, "states", "most in use"),
        Metric("host_stored_states", states.stored, "states", "that were put in"),
        Metric("host_evicted_states", states.evicted, "states", "that went for want of room"),
        Metric("loaded_states", copies.get.moved_beside, "states", "that came back, twice for each load"),
    ]


def window_metrics(replica: HostedWindowReplica) -> list[Metric]:
    """What the same section tells of windows."""
    windows, copies, page = replica.index.host_beside, replica.copies, replica.config.page_size
    return [
        Metric(
            "host_capacity_window_blocks", windows.capacity // page, "blocks",
            "pages that the host's pool for windows holds",
        ),
        Metric("host_window_block_bytes", copies.put.beside_bytes, "bytes", "bytes of one of them"),
        Metric("host_peak_window_blocks", windows.peak // page, "blocks", "most of them in use"),
        Metric("host_stored_window_blocks", windows.stored // page, "blocks", "of them that were put in"),
        Metric(
            "host_evicted_window_blocks", windows.evicted // page, "blocks",
            "of them that went for want of room",
        ),
        Metric("loaded_window_blocks", copies.get.moved_beside, "blocks", "of them that came back"),
    ]  # fmt: skip


def _hits(replica: HierarchicalReplica) -> list[Metric]:
    scheduler, copies = replica.hierarchical, replica.copies
    # Loads of resumed requests are no hits of the cache, like hits of resumed requests on the device.
    return [
        Metric("host_hit_tokens", scheduler.host_tokens, "tokens", "tokens whose KV came from the host"),
        Metric("loads", scheduler.loads, "1", "admissions that loaded KV from the host"),
        Metric(
            "refused_loads", scheduler.refused, "1",
            "admissions that computed again what the host had: too short to load, or no room on the device",
        ),
        Metric("load_s", copies.lengthened_s, "s", "time steps took longer for their loads, all together"),
        *cached(scheduler.cached_tokens, scheduler.queried_tokens, "host"),
    ]  # fmt: skip


def _copies(replica: HierarchicalReplica) -> list[Metric]:
    copies, pool = replica.copies, replica.scheduler.pool
    evicted = pool.tree.evicted // pool.page
    found = [
        Metric("device_evicted_blocks", evicted, "blocks", "prefix cache evicted on the device"),
        Metric(
            "device_evicted_bytes", evicted * copies.put.device_bytes, "bytes",
            "the same, as they lay on the device",
        ),
        Metric("cache_written_s", copies.put.busy_s, "s", "time of copying prefix cache to the host"),
        Metric(
            "write_back_s", copies.waited_s, "s",
            "time the scheduler waited for what it evicted: for the batch in flight, then for the copy",
        ),
    ]  # fmt: skip
    span = replica.recorder.totals.makespan_s
    return [*found, *link(copies.put, span), *link(copies.get, span)]
