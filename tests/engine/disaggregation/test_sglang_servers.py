"""Drafts on SGLang's prefill and decode servers, and servers that are ranks in step."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from pools import Line
from radix_runs import between_servers, runs
from sglang_servers import CLOCK, Case, a_request, deployments, generous, one_of_each, play, speculation, told

from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.pool import Ranks
from kvplan.engine.disaggregation.sglang.ranks import BootstrapRooms, ServerRanks
from kvplan.engine.disaggregation.strategy import PoolPlan
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.engine.speculation.acceptance import geometric
from kvplan.engine.speculation.metrics import SECTION
from kvplan.engine.speculation.rules import sglang_rules_of
from kvplan.engine.speculation.strategy import Speculation
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request


@examples(60)
@given(deployments())
def test_one_rank_is_an_instance_without(case: Case) -> None:
    config, strategy, requests = case

    def with_ranks(ranks: Ranks | None) -> Case:
        pools = (replace(plan, ranks=ranks) for plan in (strategy.prefill, strategy.decode))
        return config, replace(strategy, **dict(zip(("prefill", "decode"), pools, strict=True))), requests

    assert told(with_ranks(Ranks(1))) == told(with_ranks(None))


def test_ranks_of_decode_servers_get_requests_in_turn_and_of_prefill_servers_by_rooms() -> None:
    config = SglangConfig(1000)
    two = PoolPlan(config=config, ranks=Ranks(2))
    requests = [a_request(str(name), 10, 4) for name in range(60)]
    _, recorder, engine = play(config, replace(one_of_each(config), prefill=two, decode=two), requests)
    prefill, decode = engine.prefills[0], engine.decodes[0]
    assert isinstance(prefill, ServerRanks)
    assert isinstance(decode, ServerRanks)
    assert decode.served() == ([30, 30], "dealt")
    dealt, _ = prefill.served()
    assert sum(dealt) == 60
    assert min(dealt) >= 20
    rooms = BootstrapRooms()
    assert dealt[1] == sum(rooms.choose(item, prefill.ranks) for item in requests)
    found = {metric.name: metric.value for metric in recorder.sections["dp_attention decode"]}
    assert found["most_dealt"] == 30


def test_ranks_run_together() -> None:
    """One that decodes little waits for the one that decodes much, in every step."""
    config = SglangConfig(100_000, disable_overlap_schedule=True)
    clock = LinearLatency(1e-6, 0.0, 1e-3)
    requests = [a_request("0", 10, 11), a_request("1", 5000, 11)]
    found = []
    for ranks in (None, Ranks(2)):
        pool = PoolPlan(1 if ranks else 2, config=config, ranks=ranks)
        rows: list[RequestRow] = []
        strategy = replace(one_of_each(config), decode=pool)
        engine = strategy.sglang_engine(config, clock, Recorder(on_request=rows.append))
        engine.run(requests)
        found.append({row.id: row.finish_s for row in rows})
    alone, together = found
    assert together["1"] == pytest.approx(alone["1"], abs=1e-4)
    assert together["0"] > 10 * alone["0"]


def test_ranks_share_the_adapters_of_their_server() -> None:
    """Of two ranks with one adapter, the second sends after the first; with two, both at once."""
    config = SglangConfig(1000)
    link = Stage("link", Line(1e4, 0.0), prefill=True, decode=True, link=True)
    requests = [a_request(name, 100, 2) for name in "01"]
    clock = LinearLatency(1e-3, 0.0, 0.0)
    ends = []
    for adapters in (1, 2):
        pool = PoolPlan(config=config, ranks=Ranks(2, adapters, "round-robin"))
        strategy = replace(one_of_each(config), route=(link,), prefill=pool, decode=pool)
        rows: list[RequestRow] = []
        strategy.sglang_engine(config, clock, Recorder(on_request=rows.append)).run(requests)
        ends.append(sorted(row.first_token_s for row in rows))
    # 100 pages of 100 bytes take a second.
    assert ends[0] == pytest.approx([1.0, 2.0], abs=0.01)
    assert ends[1] == pytest.approx([1.0, 1.0], abs=0.01)


@examples(40)
@given(runs(), st.integers(1, 4))
def test_drafts_that_never_stand_change_no_time_where_steps_take_the_same(
    case: tuple[SglangConfig, list[Request]], tokens: int
) -> None:
    # EAGLE's tree knows prompts otherwise: none are looked for.
    config = replace(between_servers(generous(*case)), disable_radix_cache=True)
    requests, found = case[1], []
    for more in (None, speculation(tokens, 0.0)):
        strategy = replace(one_of_each(config), drafts=more)
        rows: list[RequestRow] = []
        engine = strategy.sglang_engine(
            config, LinearLatency(5e-3, 0.0, 0.0), Recorder(on_request=rows.append)
        )
        engine.run(requests)
        found.append(sorted(rows))
    assert found[0] == found[1]


@pytest.mark.parametrize("overlap", [True, False])
def test_a_decode_server_verifies_drafts_from_its_first_step_on(overlap: bool) -> None:
    config = replace(SglangConfig(1000), disable_overlap_schedule=not overlap)
    strategy = replace(one_of_each(config), drafts=speculation(3, 1.0))
    rows, recorder, engine = play(config, strategy, [a_request("0", 10, 41)])
    assert rows[0].output_tokens == 41
    section = {metric.name: metric.value for metric in recorder.sections[SECTION]}
    # Forty more tokens behind the first, four with each verification.
    assert (section["steps"], section["accepted"]) == (10, 30)
    # With overlap the last one runs before it is known that the one before it was enough.
    assert engine.decodes[0].recorder.totals.steps == 10 + overlap


def test_drafts_that_decode_servers_cannot_begin_with_are_refused() -> None:
    config = SglangConfig(1000)
    other = Speculation(sglang_rules_of("draft_model", 2), geometric(0.5, 2, 0))
    for given_drafts, text in (
        (other, "another model drafts"),
        (replace(speculation(2, 0.5), windows=SlidingWindows(64, 500)), "pools for recurrent states"),
    ):
        strategy = replace(one_of_each(config), drafts=given_drafts)
        with pytest.raises(UsageError, match=text):
            strategy.sglang_engine(config, CLOCK, Recorder())


@pytest.mark.parametrize("ranks", [None, Ranks(1)])
def test_what_has_been_sent_makes_room_before_the_next_batch(ranks: Ranks | None) -> None:
    """Two prompts go into one batch where the one before them has left its row when that is made."""
    config = SglangConfig(
        1000, max_running_requests=2, chunked_prefill_size=10, disable_overlap_schedule=True
    )
    asking = [a_request("0", 10, 1), a_request("1", 5, 1), a_request("2", 5, 1)]
    strategy = replace(one_of_each(config), prefill=PoolPlan(config=config, ranks=ranks))
    rows: list[RequestRow] = []
    # Steps so short that nothing else has the server look up meanwhile.
    clock = LinearLatency(1e-5, 0.0, 0.0)
    strategy.sglang_engine(config, clock, Recorder(on_request=rows.append)).run(asking)
    assert {row.id: row.scheduled_s for row in rows} == {"0": 0.0, "1": 1e-5, "2": 1e-5}
