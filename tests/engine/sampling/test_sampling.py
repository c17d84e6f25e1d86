"""Several samples of a request: one is the plain engine, blocks are shared and copied as counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from audited_forking import AuditedForking
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from served import Clock, Served, request, serve
from workloads import cases, stride_of

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.recorder import Recorder
from kvplan.engine.replica import Replica
from kvplan.engine.sampling import replica as sampling
from kvplan.engine.sampling.beams import BeamScheduler, default_trunk_lag, replaced_beams
from kvplan.engine.sampling.forking import ForkingScheduler
from kvplan.engine.sampling.replica import SamplingRule
from kvplan.engine.sampling.strategy import Sampling
from kvplan.engine.scheduler_vllm import VllmScheduler
from kvplan.engine.steady import SteadyDecodes
from kvplan.engine.strategy import Engine
from kvplan.errors import UsageError
from kvplan.traces.request import Request

Case = tuple[EngineConfig, list[Request]]

ROOMY = EngineConfig(10_000, max_model_len=8192, async_scheduling=False)
COLD = replace(ROOMY, enable_prefix_caching=False)


def sampled(
    rule: SamplingRule, config: EngineConfig, requests: list[Request], *, log: bool = False, stride: int = 1
) -> Served:
    return serve(Sampling(rule).engine, config, requests, log=log, stride=stride)


def distinct(requests: list[Request]) -> list[Request]:
    """No two arrive at once: with equal priorities the plain engine could let them preempt each other."""
    return [asked._replace(arrival_s=asked.arrival_s + 1e-9 * index) for index, asked in enumerate(requests)]


@examples(80)
@given(cases())
def test_one_sample_is_the_plain_engine(case: Case) -> None:
    config, requests = case
    requests = distinct(requests)
    plain = serve(Replica, config, requests, stride=stride_of(requests))
    for rule in (SamplingRule(1), SamplingRule(1, "requests")):
        one = sampled(rule, config, requests, stride=stride_of(requests))
        assert one.outcome == plain.outcome
        assert one.series == plain.series
    cold = replace(config, enable_prefix_caching=False)
    beam = sampled(SamplingRule(1, trunk_lag=0), cold, requests)
    assert beam.outcome == serve(Replica, cold, requests).outcome


RULES = [
    SamplingRule(2), SamplingRule(3), SamplingRule(3, trunk_lag=0), SamplingRule(3, trunk_lag=4),
    SamplingRule(2, trunk_lag=1000),
]  # fmt: skip


@examples(120)
@given(cases())
def test_books_balance_and_every_request_is_answered(case: Case) -> None:
    config, requests = case
    config = replace(config, max_num_seqs=config.max_num_seqs + 3)
    cold = replace(config, enable_prefix_caching=False)
    for rule in (*RULES, SamplingRule(3, "requests")):
        options = cold if rule.trunk_lag is not None else config

        def engine(
            config: EngineConfig, clock: Clock, recorder: Recorder, rule: SamplingRule = rule
        ) -> Engine:
            whole = sampling.SamplingEngine(config, clock, recorder, rule)
            if rule.fork != "requests":
                whole.replica = AuditedForking(config, clock, whole.inner, rule)
            return whole

        served = serve(engine, options, distinct(requests))
        assert served.totals["requests"] == len(requests)
        if served.stuck is None:
            assert served.totals["unfinished"] == 0
            assert len(served.rows) + len(served.rejected) == len(requests)
        by_id = {asked.id: asked for asked in requests}
        for row in served.rows:
            assert row.output_tokens == rule.n * by_id[row.id].output_tokens
            assert row.arrival_s <= row.scheduled_s <= row.first_token_s <= row.finish_s
        assert served.totals["output_tokens"] == sum(row.output_tokens for row in served.rows)


@examples(60)
@given(cases())
def test_whoever_watches_changes_nothing(case: Case) -> None:
    config, requests = case
    config = replace(config, max_num_seqs=config.max_num_seqs + 2)
    for rule in RULES:
        options = replace(config, enable_prefix_caching=rule.trunk_lag is None)
        quiet, logged = (
            sampled(rule, options, distinct(requests), log=log, stride=stride_of(requests))
            for log in (False, True)
        )
        assert quiet.outcome == logged.outcome
        assert quiet.series == logged.series
        assert quiet.sections == logged.sections


class OneByOne(ForkingScheduler):
    """Whose crowded steps take the explicit way, as they do where somebody allocates in ways of their own."""

    def allocate(self, request: LiveRequest, tokens: int) -> bool:
        return super().allocate(request, tokens)


class EveryStep(BeamScheduler):
    """Beams without tables: every trunk is looked at before every step, which takes the explicit way."""

    def undecided(self) -> bool:
        return True

    def schedule(self) -> StepPlan:
        for group in dict.fromkeys(self.siblings.values()):
            self.merge(group)
        return VllmScheduler.schedule(self)

    def allocate(self, request: LiveRequest, tokens: int) -> bool:
        return super().allocate(request, tokens)


@examples(200)
@given(cases(), st.integers(2, 4), st.sampled_from([0, 1, 3, 6, 7, 1000]))
def test_tables_and_requests_that_stay_in_step_change_nothing(case: Case, n: int, lag: int) -> None:
    config, requests = case
    config, requests = replace(config, max_num_seqs=config.max_num_seqs + 3), distinct(requests)
    cold = replace(config, enable_prefix_caching=False)

    def slow(config: EngineConfig, clock: Clock, recorder: Recorder, rule: SamplingRule) -> Engine:
        whole = sampling.SamplingEngine(config, clock, recorder, rule)
        replica = sampling.ForkingReplica(config, clock, whole.inner, rule)
        if rule.trunk_lag is None:
            replica.forking = OneByOne(config, n)
        else:
            replica.forking = beams = EveryStep(config, n, lag)
            beams.steady = SteadyDecodes(config.block_size)
        replica.scheduler = replica.forking
        whole.replica = replica
        return whole

    for rule, options in ((SamplingRule(n), config), (SamplingRule(n, trunk_lag=lag), cold)):
        fast = sampled(rule, options, requests, stride=stride_of(requests))
        one_by_one = serve(
            lambda c, k, r, rule=rule: slow(c, k, r, rule), options, requests, stride=stride_of(requests)
        )
        assert fast.outcome == one_by_one.outcome
        assert fast.series == one_by_one.series
        assert fast.sections == one_by_one.sections


@pytest.mark.parametrize("ahead", [False, True])
def test_what_trunks_free_among_quiet_steps_lets_in_who_waits(ahead: bool) -> None:
    """Three beams each, whose trunks grow at different steps; found by random workloads."""
    config = EngineConfig(29, 5, 36, 32, 64, enable_prefix_caching=False, async_scheduling=ahead)
    asked = [
        request(f"r{number}", prompt, output, arrival_s, 1000 * number)
        for number, (prompt, output, arrival_s) in enumerate(
            ((12, 24, 0.0), (4, 20, 1e-9), (3, 21, 2e-9), (6, 6, 3e-9), (1, 22, 0.080000004))
        )
    ]
    beams = SamplingRule(3, trunk_lag=9)
    quiet, logged = (sampled(beams, config, asked, log=log, stride=1000) for log in (False, True))
    assert quiet.outcome == logged.outcome
    assert quiet.sections == logged.sections


def used(served: Served) -> list[int]:
    """Blocks in use, step by step."""
    return [point.used_blocks for point in served.series]


@pytest.mark.parametrize("config", [ROOMY, COLD])
def test_full_blocks_of_the_prompt_are_held_once_and_the_last_is_copied(config: EngineConfig) -> None:
    served = sampled(SamplingRule(4, block_bytes=10), config, [request("r", 100, 30)])
    # 6 full blocks together, and one each that was copied 3 times; 129 tokens are computed at the end.
    assert used(served)[0] == 6 + 4
    assert used(served)[-1] == 6 + 4 * 3
    assert served.totals["peak_used_blocks"] == 18
    assert served.metric("sampling", "copies") == 3
    assert served.metric("sampling", "copied_bytes") == 30
    assert served.metric("sampling", "shared_blocks") == 3 * 6
    assert served.metric("sampling", "shared_bytes") == 180
    (row,) = served.rows
    assert row.output_tokens == 4 * 30
    # The prompt is computed once; then four samples decode side by side.
    assert served.decodes == [(4, 4 * computed) for computed in range(101, 130)]


@pytest.mark.parametrize("config", [ROOMY, COLD])
def test_a_prompt_of_full_blocks_is_copied_by_nobody(config: EngineConfig) -> None:
    served = sampled(SamplingRule(4), config, [request("r", 96, 17)])
    assert served.metric("sampling", "copies") == 0
    assert used(served)[:2] == [6, 6 + 4]
    assert served.metric("sampling", "shared_blocks") == 18


@pytest.mark.parametrize("config", [ROOMY, COLD])
def test_samples_of_one_token_write_nothing(config: EngineConfig) -> None:
    served = sampled(SamplingRule(4), config, [request("r", 100, 1)])
    assert served.metric("sampling", "copies") == 0
    assert used(served) == [7]
    assert served.rows[0].output_tokens == 4


def test_tpot_is_that_of_a_sample() -> None:
    recorder = Recorder()
    engine = Sampling(SamplingRule(4)).engine(ROOMY, Clock(), recorder)
    rows = serve(Sampling(SamplingRule(4)).engine, ROOMY, [request("r", 100, 30)]).rows
    engine.run([request("r", 100, 30), request("s", 50, 1, 10.0, start=5000)])
    (tpot,) = recorder.tpot_s
    assert tpot == pytest.approx((rows[0].finish_s - rows[0].first_token_s) / 29)


def test_requests_of_their_own_share_through_the_cache() -> None:
    ours, theirs = SamplingRule(4), SamplingRule(4, "requests")
    asked = [request("r", 100, 30)]
    fork, apart = sampled(ours, ROOMY, asked), sampled(theirs, ROOMY, asked)
    # A sample of its own finds the 6 full blocks, published in the same step, and computes 4 tokens again.
    assert apart.metric("sampling", "shared_blocks") == 3 * 6
    assert apart.totals["peak_used_blocks"] == fork.totals["peak_used_blocks"]
    assert apart.totals["queried_tokens"] == 4 * 100
    assert fork.totals["queried_tokens"] == 100
    assert fork.rows[0].first_token_s < apart.rows[0].first_token_s
    cold = sampled(theirs, COLD, asked)
    assert cold.metric("sampling", "shared_blocks") == 0
    assert cold.totals["peak_used_blocks"] == 4 * 9


def test_by_priority_requests_of_one_moment_take_turns() -> None:
    # The last thing the queue looks at is the name, and vLLM puts a sample's number in front of it.
    served = sampled(
        SamplingRule(2, "requests"), replace(ROOMY, policy="priority"),
        [request("b", 20, 3), request("a", 20, 3, start=5000)], log=True,
    )  # fmt: skip
    scheduled = served.lines[0].partition("|")[0]
    assert [part.partition("=")[0] for part in scheduled.split(",")] == ["0_a", "0_b", "1_a", "1_b"]


def test_a_sample_that_finds_no_block_comes_back_on_its_own() -> None:
    tight = EngineConfig(9, max_model_len=128, async_scheduling=False)
    served = sampled(SamplingRule(3), tight, [request("r", 100, 20)])
    # 7 blocks of 8 are taken, and two copies are wanted.
    assert served.metric("sampling", "postponed_samples") == 1
    assert len(served.rows) == 1
    assert served.rows[0].preemptions >= 1
    assert served.rows[0].output_tokens == 60


def test_all_samples_of_a_request_have_a_place_before_it_starts() -> None:
    three_places = replace(ROOMY, max_num_seqs=3)
    served = sampled(SamplingRule(2), three_places, [request("a", 50, 10), request("b", 50, 10, start=999)])
    assert served.totals["peak_running"] == 2
    assert served.rows[1].scheduled_s >= served.rows[0].first_token_s


def test_a_prompt_admitted_before_the_fork_takes_nothing_from_the_samples() -> None:
    small_steps = replace(COLD, max_num_batched_tokens=64)
    served = sampled(SamplingRule(2), small_steps, [request("a", 50, 10), request("b", 1000, 2, start=999)])
    # Both are admitted in the first step; then samples of a decode while the prompt of b gets what they leave.
    assert [requests for requests, _ in served.decodes] == [2] * (9 + 1)
    assert served.rows[0].finish_s < served.rows[1].first_token_s


def test_beams_hold_their_trunk_once() -> None:
    served = sampled(SamplingRule(4, trunk_lag=0), COLD, [request("r", 96, 65)])
    blocks = used(served)
    # Without a lag only the block that is being written is held by each beam.
    assert blocks[0] == 6
    assert all(count == 6 + index // 16 + 4 for index, count in enumerate(blocks[1:]))
    far = sampled(SamplingRule(4, trunk_lag=1000), COLD, [request("r", 96, 65)])
    apart = sampled(SamplingRule(4), COLD, [request("r", 96, 65)])
    assert used(far) == used(apart)
    assert far.rows == apart.rows


def test_a_trunk_follows_its_lag_behind() -> None:
    served = sampled(SamplingRule(2, trunk_lag=20), COLD, [request("r", 96, 65)])
    for index, count in enumerate(used(served)[1:], start=1):
        held, trunk = -(-(96 + index) // 16), max(6, (96 + index - 1 - 20) // 16)
        assert count == trunk + 2 * (held - trunk)
    # Trunks end at 160 - 1 - 20 tokens: two blocks beyond the prompt.
    assert served.metric("sampling", "merged_blocks") == 2


def test_the_neutral_model_of_beams() -> None:
    assert [default_trunk_lag(n) for n in (1, 2, 4)] == [0, 2, 6]
    assert replaced_beams(1) == 0
    assert replaced_beams(2) == pytest.approx(0.5)
    served = sampled(SamplingRule(2, trunk_lag=2), COLD, [request("r", 96, 33)])
    # 32 tokens are written, 2 of them into a new block: half a copy for each of the others.
    assert served.metric("sampling", "beam_copies") == 15


@pytest.mark.parametrize(
    ("rule", "config", "says"),
    [
        (SamplingRule(300), ROOMY, "never run together"),
        (SamplingRule(2), replace(ROOMY, groups=(CacheGroup("sliding", 16, 64),)), "one group"),
        (SamplingRule(2), replace(ROOMY, eviction="belady"), "belady"),
        (SamplingRule(2, trunk_lag=2), ROOMY, "not published"),
    ],
)
def test_what_makes_no_sense_is_refused(rule: SamplingRule, config: EngineConfig, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        sampled(rule, config, [])
