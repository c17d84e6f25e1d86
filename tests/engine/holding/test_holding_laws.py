"""Whatever a request holds: books that balance, decisions that do not depend on who looks, no hang."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
from audited_holding import AuditedHolding
from crowds import Crowd, crowds
from fuzzing import examples
from hypothesis import given
from served import request, serve
from workloads import cases, stride_of

from kvplan.engine.blocks import BlockPool
from kvplan.engine.config import EngineConfig
from kvplan.engine.holding.dropping import Dropping
from kvplan.engine.holding.holder import Holder
from kvplan.engine.holding.laws import Capped, Law, PromptShare, QuantizedWindow, Share
from kvplan.engine.holding.placed import Contiguous, GrowthRule, Slots
from kvplan.engine.holding.replica import HoldingReplica
from kvplan.engine.holding.space import Fit
from kvplan.engine.holding.steady import HeldDecodes
from kvplan.engine.holding.strategy import (
    ContiguousGrowth,
    PagedReport,
    SlotAllocation,
    TokenDropping,
)
from kvplan.engine.live import LiveRequest
from kvplan.engine.recorder import Recorder
from kvplan.engine.replica import Replica
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

Case = tuple[EngineConfig, list[Request]]
HolderOf = Callable[[EngineConfig, BlockPool], Holder]

LAWS: list[Law] = [
    Capped("streaming:2+6", 2, 6),
    Capped("streaming:0+17", 0, 17),
    Share("h2o:1/3", Fraction(1, 3)),
    Share("h2o:0.29", Fraction(29, 100)),
    PromptShare("snapkv:0.25", Fraction(1, 4), 3),
    QuantizedWindow("kivi", 4, 4),
]
FITS: list[Fit] = ["first", "best", "buddy"]


def holders() -> list[HolderOf]:
    """Every kind of holder there is."""

    def dropping(law: Law) -> HolderOf:
        return lambda config, pool: Dropping(config, pool, law)

    def slots(reserve: str, fit: Fit) -> HolderOf:
        return lambda config, pool: Slots(config, pool, reserve, fit)  # type: ignore[arg-type]

    def contiguous(chunk: int, move: bool, fit: Fit) -> HolderOf:
        return lambda config, pool: Contiguous(config, pool, GrowthRule(chunk, move, 100, 1e6), fit)

    return [
        *(dropping(law) for law in LAWS),
        *(slots(reserve, fit) for reserve in ("pow2", "oracle") for fit in FITS),
        *(contiguous(chunk, move, fit) for chunk in (0, 1, 3) for move in (True, False) for fit in FITS),
    ]


def distinct(requests: list[Request]) -> list[Request]:
    """No two arrive at once: with equal priorities the plain engine could let them preempt each other."""
    return [asked._replace(arrival_s=asked.arrival_s + 1e-9 * index) for index, asked in enumerate(requests)]


@examples(40)
@given(cases())
def test_books_balance_and_every_request_is_answered(case: Case) -> None:
    config, requests = case
    config = replace(config, enable_prefix_caching=False)
    for holder in holders():
        served = serve(lambda c, k, r, h=holder: AuditedHolding(c, k, r, h), config, requests)
        if served.stuck is None:
            assert served.totals["unfinished"] == 0
        assert len(served.rows) + len(served.rejected) + served.totals["unfinished"] == len(requests)
        for row in served.rows:
            assert row.arrival_s <= row.scheduled_s <= row.first_token_s <= row.finish_s


@examples(30)
@given(cases(), crowds)
def test_books_balance_when_clients_give_up(case: Case, crowd: Crowd) -> None:
    config, requests = case
    config = replace(config, enable_prefix_caching=False, scheduler_reserve_full_isl=True)
    for holder in holders():
        engine = AuditedHolding(config, LinearLatency(5e-3, 2e-5, 1e-8), Recorder(), holder)
        engine.run(crowd.arrivals(distinct(requests)))
        engine.close()
        engine.audit()
        totals = engine.recorder.totals
        assert totals.finished + totals.rejected + totals.timed_out == totals.requests
        assert engine.scheduler.pool.blank == config.usable_blocks


@examples(40)
@given(cases())
def test_whoever_watches_changes_nothing(case: Case) -> None:
    config, requests = case
    config = replace(config, enable_prefix_caching=False)
    for strategy in (
        *(TokenDropping(law) for law in LAWS),
        SlotAllocation("oracle", "best"),
        ContiguousGrowth(GrowthRule(0, True, 100, 1e6), "first"),
        ContiguousGrowth(GrowthRule(2, False, 0, 1.0), "buddy"),
    ):
        quiet, logged = (
            serve(strategy.engine, config, requests, log=log, stride=stride_of(requests))
            for log in (False, True)
        )
        assert quiet.outcome == logged.outcome
        assert quiet.series == logged.series
        assert quiet.sections == logged.sections


class AskedEveryStep(HeldDecodes):
    """Decoding requests without tables: their holder is asked for every token of each."""

    def context(self) -> int:
        return sum(self._holder.attended(request, request.base + self.tick) for request in self.members)


class Asked(Dropping):
    """Dropping that does not know beforehand what a step takes."""

    def decodes(self) -> HeldDecodes:
        return AskedEveryStep(self.size, self)

    def next_look(self, request: LiveRequest, computed: int) -> int:
        return computed + 1


@examples(60)
@given(cases())
def test_tables_say_what_a_holder_says_that_is_asked_every_step(case: Case) -> None:
    config, requests = case
    config = replace(config, enable_prefix_caching=False)
    for law in (*LAWS, Share("h2o:0.8", Fraction(4, 5)), PromptShare("snapkv:0.5", Fraction(1, 2), 3)):
        known, asked = (
            serve(make, config, requests, stride=stride_of(requests))
            for make in (
                TokenDropping(law).engine,
                lambda c, k, r, law=law: HoldingReplica(c, k, r, lambda c, p: Asked(c, p, law)),
            )
        )
        assert known.outcome == asked.outcome
        assert known.series == asked.series
        assert known.sections == asked.sections


@examples(60)
@given(cases())
def test_a_budget_that_nothing_exceeds_is_the_plain_engine(case: Case) -> None:
    config, requests = case
    config, requests = replace(config, enable_prefix_caching=False), distinct(requests)
    for log in (False, True):
        plain = serve(Replica, config, requests, log=log, stride=stride_of(requests))
        for law in (
            Capped("streaming:4+1020", 4, 1020),
            Share("h2o:1", Fraction(1)),
            PromptShare("snapkv:1", Fraction(1)),
        ):
            kept = serve(TokenDropping(law).engine, config, requests, log=log, stride=stride_of(requests))
            assert kept.outcome == plain.outcome
            assert kept.lines == plain.lines
            assert kept.series == plain.series
            assert kept.metric("retention", "dropped_tokens") == 0


@examples(60)
@given(cases())
def test_watching_fragmentation_is_the_plain_engine(case: Case) -> None:
    config, requests = case
    requests = distinct(requests)
    plain, watched = (
        serve(make, config, requests, stride=stride_of(requests)) for make in (Replica, PagedReport().engine)
    )
    assert watched.outcome == plain.outcome
    assert watched.series == plain.series


@examples(40)
@given(cases())
def test_contiguous_memory_without_end_is_paged_memory(case: Case) -> None:
    config, requests = case
    config = replace(config, enable_prefix_caching=False, num_blocks=100_000)
    plain = serve(Replica, config, requests)
    free_copies = GrowthRule(0, True, 100, float("inf"))
    never_full = GrowthRule(config.max_model_len, False, 0, 1.0)
    for fit in FITS:
        for strategy in (
            SlotAllocation("max", fit),
            SlotAllocation("oracle", fit),
            ContiguousGrowth(free_copies, fit),
            ContiguousGrowth(never_full, fit),
        ):
            served = serve(strategy.engine, config, requests, stride=stride_of(requests))
            assert served.rows == plain.rows
            assert served.rejected == plain.rejected


@examples(60)
@given(cases())
def test_a_slot_is_never_taken_back(case: Case) -> None:
    config, requests = case
    config = replace(config, enable_prefix_caching=False)
    for reserve in ("pow2", "oracle"):
        served = serve(SlotAllocation(reserve).engine, config, requests)  # type: ignore[arg-type]
        assert served.totals["preemptions"] == 0


def test_blocks_that_cannot_be_found_are_not_looked_for() -> None:
    with pytest.raises(UsageError, match="found by their content"):
        serve(SlotAllocation("oracle").engine, EngineConfig(100), [])


def test_a_slot_larger_than_the_pool_is_refused() -> None:
    config = EngineConfig(100, enable_prefix_caching=False, max_model_len=1600)
    with pytest.raises(UsageError, match=r"1,600 tokens, 100 blocks\) is larger than the pool"):
        serve(SlotAllocation("max").engine, config, [])


def test_requests_that_preempt_each_other_without_end_are_told_apart_from_slow_ones() -> None:
    config = EngineConfig(
        8, block_size=3, max_model_len=23, max_num_seqs=2, max_num_batched_tokens=25, policy="priority",
        enable_prefix_caching=False, long_prefill_token_threshold=3, scheduler_reserve_full_isl=False,
    )  # fmt: skip
    twins = [request("a", 16, 5, 0.05), request("b", 16, 5, 0.05, start=1000)]
    served = serve(TokenDropping(Capped("streaming:4+1020", 4, 1020)).engine, config, twins)
    assert served.stuck is not None
    assert "preempted without end" in served.stuck
    assert served.totals["unfinished"] == 2
    apart = serve(TokenDropping(Capped("x", 4, 1020)).engine, config, distinct(twins))
    assert apart.stuck is None
    assert len(apart.rows) == 2
