"""Ranks of data-parallel attention that instances of prefill and decode pools are made of."""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.engine.disaggregation.pool import Ranks
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.scenario.lockstep import WHERE, check_context
from kvplan.scenario.pools import own_scenario
from kvplan.scenario.schema import Scenario
from kvplan.scenario.schema.disaggregation import DisaggregationPart, PoolPart

DEALT = {
    "vllm": ("least-loaded", "as vLLM deals requests to ranks, one that waits for its cache counting too"),
    "sglang": (
        "bootstrap-room/round-robin",
        "as SGLang deals requests to ranks of prefill/decode servers: by a number drawn for each/in turn",
    ),
}


def check_ranks(scenario: Scenario, part: DisaggregationPart) -> None:
    """Refuse what is not simulated with ranks.

    Raises:
        UsageError: context parallelism; caches that go through the host, or layer by layer.
    """
    if scenario.parallel.ranks == 1:
        return
    check_context(scenario)
    refused = (
        (part.through == "host", "through", "go through the host"),
        (part.streaming != "whole", "streaming", "are sent layer by layer"),
    )
    for applies, field, what in refused:
        if applies:
            raise UsageError(
                f"caches of ranks of data-parallel attention that {what} are not simulated",
                where=f"disaggregation.{field}",
                hint="leave one of the two out",
            )


def ranks_of(scenario: Scenario, lanes: int, pool: PoolPart) -> Ranks | None:
    """Ranks of a pool's instances, and how their ``lanes`` network adapters are shared out."""
    if scenario.parallel.ranks == 1:
        return None
    count = own_scenario(scenario, pool).parallel.ranks
    return Ranks(count, min(count, lanes), scenario.routing.ranks)


def lanes_of(scenario: Scenario, part: DisaggregationPart) -> int:
    """Network adapters that carry one request's cache: all of an instance, or those of one of its ranks."""
    if scenario.parallel.ranks == 1:
        return part.lanes
    most = max(own_scenario(scenario, pool).parallel.ranks for pool in (part.prefill, part.decode))
    return max(1, part.lanes // most)


def about_ranks(scenario: Scenario, part: DisaggregationPart) -> Iterator[Assumption]:
    """What is assumed of ranks."""
    both = [ranks_of(scenario, part.lanes, pool) for pool in (part.prefill, part.decode)]
    prefill, decode = both
    if prefill is None or decode is None:
        return
    yield Assumption(
        WHERE, f"{prefill.count}/{decode.count}",
        "ranks of a prefill/decode server, in step: a step lasts as long as the clock says for the slowest",
    )  # fmt: skip
    if scenario.routing.ranks is None:
        yield Assumption("routing.ranks", *DEALT[scenario.engine.kind])
    yield Assumption(
        "disaggregation.adapters", f"{prefill.adapters}/{decode.adapters}",
        f"of the {part.lanes} lanes of a prefill/decode server, each for an equal share of its ranks: a "
        "cache goes from rank to rank",
    )  # fmt: skip
