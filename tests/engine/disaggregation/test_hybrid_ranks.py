"""Laws of prefill and decode instances that are ranks above several cache groups: one rank is an instance, steps
taken in bulk are single ones, everybody is served, and every rank gives back what it took.
"""

from __future__ import annotations

from dataclasses import replace

from fuzzing import fuzz
from grouped import grouped_cases
from hypothesis import assume, given
from hypothesis import strategies as st
from pools import CLOCK, Line

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.engine import DisaggregatedEngine
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.pool import Ranks
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.engine.errors import EngineStuck
from kvplan.engine.instance import one_full_group
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.speculation.acceptance import geometric
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation
from kvplan.traces.request import Request

ROUTE = (Stage("link", Line(1e6, 1e-3), prefill=True, decode=True, link=True),)
TOKENS = 2
DRAFTS = Speculation(DraftRules(TOKENS, TOKENS), geometric(0.6, TOKENS, 1))


def tight(config: EngineConfig, drafts: bool) -> EngineConfig:
    """About the smallest pool that serves every request; room for drafts where there are some."""
    least = 2 + sum(-(-config.max_model_len // group.block_size) + 2 for group in config.groups)
    config = replace(config, num_blocks=least, watermark=0.0)
    if not drafts:
        return config
    more = sum(1 + 3 * TOKENS for _ in config.groups)
    return replace(
        config,
        num_blocks=least + more,
        long_prefill_token_threshold=0,
        max_num_batched_tokens=config.max_num_batched_tokens + 1 + TOKENS,
    )


def play(
    strategy: Disaggregation, config: EngineConfig, requests: list[Request], *, log: bool = True
) -> tuple[DisaggregatedEngine, list[RequestRow], list[str]]:
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None, series=log)
    engine = strategy.engine(config, CLOCK, recorder)
    engine.run(requests)
    engine.close()
    return engine, sorted(rows), lines


@fuzz(60)
@given(grouped_cases(), st.sampled_from(list(Handover)), st.booleans())
def test_an_instance_of_one_rank_is_an_instance(
    case: tuple[EngineConfig, list[Request]], handover: Handover, drafts: bool
) -> None:
    config, requests = case
    assume(not one_full_group(config))
    config = replace(tight(config, drafts), prefill_schedule_interval=1)
    told = []
    for ranks in (None, Ranks(1)):
        strategy = Disaggregation(
            ROUTE, 1000, PoolPlan(2, ranks=ranks), PoolPlan(2, ranks=ranks), handover=handover, state_bytes=1,
            drafts=DRAFTS if drafts else None,
        )  # fmt: skip
        try:
            engine, rows, lines = play(strategy, config, requests)
        except EngineStuck as exc:
            told.append((exc.message,))
            continue
        lines = [line if ranks is None else line.replace("\t0\t", "\t") for line in lines]
        told.append((rows, lines, engine.recorder.totals.to_dict()))
    assert told[0] == told[1]


@fuzz(60)
@given(
    grouped_cases(), st.sampled_from(list(Handover)), st.integers(1, 3), st.integers(2, 3),
    st.sampled_from((1, 3)), st.booleans(),
)  # fmt: skip
def test_everybody_is_served_in_single_steps_and_in_bulk(
    case: tuple[EngineConfig, list[Request]], handover: Handover, prefill: int, decode: int, interval: int,
    drafts: bool,
) -> None:  # fmt: skip
    config, requests = case
    assume(not one_full_group(config))
    config = replace(tight(config, drafts), prefill_schedule_interval=interval)
    strategy = Disaggregation(
        ROUTE, 1000, PoolPlan(ranks=Ranks(prefill)), PoolPlan(2, ranks=Ranks(decode, 2)), handover=handover,
        state_bytes=1, drafts=DRAFTS if drafts else None,
    )  # fmt: skip
    told = []
    for log in (True, False):
        try:
            engine, rows, _ = play(strategy, config, requests, log=log)
        except EngineStuck:
            assert config.policy == "priority" or not config.scheduler_reserve_full_isl
            return
        totals = engine.recorder.totals
        assert totals.requests == len(requests) == totals.finished + totals.rejected
        for row in rows:
            assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
        for instance in (*engine.prefills, *engine.decodes):
            for rank in instance.members:
                assert rank.scheduler.free_blocks == rank.config.usable_blocks
        told.append((rows, totals.to_dict(), engine.recorder.sections))
    assert told[0] == told[1], "steps taken in bulk are steps taken one by one"
