"""What a run with tiers reports, in the order of the cascade: hits, stores, swaps, recomputation, links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.recorder import Metric
from kvplan.engine.tiers.line import Line

if TYPE_CHECKING:
    from kvplan.engine.tiers.replica import TieredReplica

_LINKS = {
    "to_host": "device to host", "from_host": "host to device", "to_disk": "host to disk",
    "from_disk": "disk to host",
}  # fmt: skip


def metrics(replica: TieredReplica) -> list[Metric]:
    """The section ``tiers`` of a result."""
    return [*_tiers(replica), *_cascade(replica), *_links(replica)]


def _tiers(replica: TieredReplica) -> list[Metric]:
    stack, size = replica.stack, replica.config.block_size
    found = []
    for tier, spec in zip(stack.tiers, stack.specs, strict=True):
        name = tier.name
        found += [
            Metric(f"{name}_capacity_blocks", tier.capacity, "blocks", f"blocks the {name} tier holds"),
            Metric(
                f"{name}_block_bytes", spec.stored_bytes, "bytes", f"bytes of one block in the {name} tier"
            ),
            Metric(f"{name}_peak_blocks", tier.peak, "blocks", "most in use, swapped requests included"),
            Metric(f"{name}_stored_blocks", tier.stored, "blocks", "blocks that were put in"),
            Metric(f"{name}_evicted_blocks", tier.evicted, "blocks", "blocks that went for want of room"),
            Metric(f"{name}_hit_tokens", tier.hits * size, "tokens", f"tokens whose KV came from the {name}"),
        ]
    found.append(Metric("lost_blocks", stack.lost, "blocks", "blocks that left the last tier that had them"))
    found.append(
        Metric(
            "refused_blocks", stack.refused, "blocks", "blocks not stored: more at once than the host holds"
        )
    )
    if stack.disk is not None:
        found.append(
            Metric(
                "prefetched_blocks", stack.prefetched, "blocks", "read from disk when their request arrived"
            )
        )
    scheduler = replica.tiered
    # Fetches of resumed requests are no hits of the cache, like hits of resumed requests on the device.
    found += [
        Metric("loads", scheduler.loads, "1", "admissions that waited for KV from a tier"),
        Metric("load_s", replica.load_s, "s", "time loads took, waiting for links included"),
        *cached(replica.cached_tokens, scheduler.queried_tokens),
    ]
    return found


def _cascade(replica: TieredReplica) -> list[Metric]:
    counts, pool = replica.tiered.counts, replica.scheduler.pool
    size = replica.stack.puts[0].wire_bytes
    device = replica.stack.puts[0].device_bytes
    writes = replica.stack.puts[0]
    evicted = pool.evicted
    return [
        Metric("device_evicted_blocks", evicted, "blocks", "prefix cache evicted on the device"),
        Metric("device_evicted_bytes", evicted * device, "bytes", "the same, as they lay on the device"),
        Metric(
            "cache_written_s",
            writes.busy_s - counts.out_s,
            "s",
            "time of copying evicted prefix cache to the host",
        ),
        Metric("swap_out_count", counts.out, "1", "preempted requests whose KV went to the host"),
        Metric("swap_out_bytes", counts.out_blocks * size, "bytes", "bytes copied out"),
        Metric("swap_out_s", counts.out_s, "s", "time of copying out"),
        Metric("swap_in_count", counts.back, "1", "swapped requests whose KV came back"),
        Metric("swap_in_bytes", counts.back_blocks * size, "bytes", "bytes copied back"),
        Metric("swap_in_s", counts.back_s, "s", "time of copying back"),
        Metric("swap_unused", counts.unused, "1", "swapped requests that found all their KV on the device"),
        Metric("recompute_count", counts.dropped, "1", "preempted requests whose KV was dropped"),
        Metric(
            "recompute_bytes",
            counts.dropped_tokens * device // replica.config.block_size,
            "bytes",
            "KV dropped, published blocks included",
        ),
        Metric("recompute_tokens", counts.dropped_tokens, "tokens", "the same, in tokens"),
        Metric(
            "recompute_s",
            counts.dropped_s,
            "s",
            "predicted time of computing all of it again; hits make it less",
        ),
        Metric("host_full", counts.host_full, "1", "swaps that became recomputation: no room in the host"),
    ]


def _links(replica: TieredReplica) -> list[Metric]:
    span = replica.recorder.totals.makespan_s
    stack = replica.stack
    found: list[Metric] = []
    for line in (*stack.puts, *stack.gets):
        found += link(line, span)
    return found


def cached(tokens: int, queried: int, below: str = "tiers") -> list[Metric]:
    """How much of ``queried`` tokens was found, on the device or below it."""
    what = f"of first admissions that were not computed: hits on the device and in the {below}"
    share = tokens / queried if queried else 0.0
    return [
        Metric("cached_tokens", tokens, "tokens", what),
        Metric("cached_token_share", share, "1", "the same, of the tokens of first admissions"),
    ]


def link(line: Line, span: float) -> list[Metric]:
    """What one direction of a link carried in ``span`` seconds."""
    name, way = line.name, _LINKS.get(line.name, line.name)
    return [
        Metric(f"{name}_bytes", line.moved_bytes, "bytes", f"moved {way}"),
        Metric(f"{name}_busy_s", line.busy_s, "s", f"time the way {way} was busy"),
        Metric(f"{name}_utilization", line.busy_s / span if span else 0.0, "1", "share of the makespan"),
        Metric(f"{name}_queue_s", line.waited_s, "s", "time transfers stood in its queue, all together"),
    ]
