"""Random SGLang engines and workloads: small, nasty, and shrinkable."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from hypothesis import strategies as st
from workloads import requests

from kvplan.engine.sglang.config import SchedulePolicy, SglangConfig
from kvplan.engine.sglang.eviction import EVICTION, EvictionParameters
from kvplan.traces.request import Request

LONGEST = 60


def below_a_host(config: SglangConfig) -> SglangConfig:
    """With a radix cache that can go on in the host."""
    return replace(config, disable_radix_cache=False, tree="unified")


def between_servers(config: SglangConfig) -> SglangConfig:
    """What is simulated of prefill and decode servers: the queue in order of arrival or of prefixes."""
    order = config.schedule_policy if config.schedule_policy in ("fcfs", "lpm") else "lpm"
    return replace(
        config, schedule_policy=order, enable_priority_scheduling=False, retraction_policy="length",
        max_queued_requests=None, min_free_slots_delay=None,
    )  # fmt: skip


@st.composite
def eviction(draw: st.DrawFn) -> tuple[str, EvictionParameters]:
    """A policy with its parameters."""
    policy = draw(st.sampled_from([*EVICTION.names(), "tlru"]))
    if policy == "slru":
        return policy, EvictionParameters(protected_threshold=draw(st.integers(0, 4)))
    if policy == "tlru":
        estimate = draw(st.integers(0, 5))
        return policy, EvictionParameters(
            threshold=estimate + draw(st.integers(1, 40)), next_prompt_estimate=estimate
        )
    return policy, EvictionParameters()


@st.composite
def runs(draw: st.DrawFn) -> tuple[SglangConfig, list[Request]]:
    """An engine and a workload that bring about retraction, full batches and tight budgets often."""
    page = draw(st.sampled_from([1, 1, 2, 4]))
    running = draw(st.sampled_from([1, 2, 3, 8, 8]))
    mixed = draw(st.integers(0, 3)) == 0
    chunk = page * draw(st.integers(1, 12))
    if mixed:
        chunk += -(-(running + page) // page) * page
    by_priority = draw(st.booleans())
    orders = ["fcfs", "fcfs", "lof"] if by_priority else [*get_args(SchedulePolicy)]
    disabled = draw(st.integers(0, 5)) == 0
    if disabled and not by_priority:
        orders.remove("shortest-prefill-first")
    stretch = draw(st.sampled_from([1, 2, 5]))
    workload = [
        request._replace(output=((start, length * stretch),), output_tokens=length * stretch)
        for request in draw(requests(LONGEST))
        for start, length in request.output
    ]
    # Between "one request at a time" and "everything fits"; the first few never fit.
    longest = max(request.prompt_tokens + request.output_tokens for request in workload)
    policy, parameters = draw(eviction())
    config = SglangConfig(
        pool_tokens=max(page, longest + 2 * page + draw(st.integers(-6, 60))),
        page_size=page,
        context_length=draw(st.sampled_from([64, 1000, 1000])),
        max_running_requests=running,
        chunked_prefill_size=chunk if mixed or draw(st.integers(0, 4)) else -1,
        max_prefill_tokens=draw(st.sampled_from([8, 30, 1000])),
        schedule_policy=draw(st.sampled_from(orders)),
        # A small ratio admits too much, which is what leads to retraction.
        schedule_conservativeness=draw(st.sampled_from([0.01, 0.01, 0.1, 0.5, 1.0, 1.5])),
        radix_eviction_policy=policy,
        radix_eviction_policy_config=parameters,
        disable_radix_cache=disabled,
        enable_mixed_chunk=mixed,
        disable_overlap_schedule=draw(st.booleans()),
        prefill_decode_interval=draw(st.sampled_from([0, 0, 0, 1, 2, 5])),
        prefill_decode_interval_min_bs=draw(st.sampled_from([0, 0, 1, 2])),
        prefill_max_requests=draw(st.sampled_from([None, None, 1, 2])),
        clip_max_new_tokens=draw(st.sampled_from([3, 10, 4096])),
        tree=draw(st.sampled_from(["unified", "radix"])) if policy != "tlru" else "unified",
        enable_priority_scheduling=by_priority,
        schedule_low_priority_values_first=draw(st.booleans()),
        disable_priority_preemption=draw(st.integers(0, 4)) == 0,
        priority_scheduling_preemption_threshold=draw(st.sampled_from([0, 0, 1, 10])),
        retraction_policy=draw(st.sampled_from(["length", "priority"])) if by_priority else "length",
        max_queued_requests=draw(st.sampled_from([None, None, None, 1, 2, 4])),
        min_free_slots_delay=draw(st.sampled_from([None, None, None, 1, 2, 5])),
    )
    return config, workload
