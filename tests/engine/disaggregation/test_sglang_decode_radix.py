"""SGLang's decode servers that keep prefixes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fuzzing import examples
from hypothesis import given
from sglang_servers import CLOCK, Case, a_request, deployments, generous, one_of_each, play, speculation, told

from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.radix import RadixDecodeReplica, RadixDecodeScheduler
from kvplan.engine.disaggregation.sglang.strategy import SglangDisaggregation
from kvplan.engine.disaggregation.sglang.transit import HandedSglangRequest
from kvplan.engine.errors import EngineStuck
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.errors import UsageError
from kvplan.traces.request import Request, count_tokens


def keeping(strategy: SglangDisaggregation) -> SglangDisaggregation:
    """The same with a radix cache on decode servers, without drafts."""
    return replace(strategy, drafts=None, options=replace(strategy.options, enable_radix_cache=True))


@examples(80)
@given(deployments())
def test_books_balance_and_what_is_there_is_not_sent(case: Case) -> None:
    config, strategy, requests = case
    strategy = keeping(strategy)
    try:
        rows, recorder, engine = play(config, strategy, requests)
    except EngineStuck:
        return  # what is retracted and has lost its prefix may wait for those behind it: so does SGLang
    assert len(rows) == len(requests) - recorder.totals.rejected
    hits = 0
    for replica in (rank for server in engine.decodes for rank in server.members):
        assert isinstance(replica, RadixDecodeReplica)
        pool = replica.decode.pool
        assert pool.tree.protected == 0
        assert pool.free + pool.tree.evictable == replica.config.pool_tokens
        hits += replica.decode.hit_tokens
    found = {metric.name: metric.value for metric in recorder.sections["disaggregation"]}
    assert found["decode_hit_tokens"] == hits
    facts, page = {request.id: request for request in requests}, config.page_size
    if not recorder.totals.rejected:
        pages = sum(-(-facts[row.id].prompt_tokens // page) for row in rows)
        assert engine.fabric.moved_bytes == (pages - hits // page) * strategy.block_bytes


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("pool_tokens", [1000, 3000, 100_000])
def test_prompts_that_nobody_had_are_served_as_without(pool_tokens: int, overlap: bool) -> None:
    config = replace(SglangConfig(pool_tokens), max_running_requests=6, disable_overlap_schedule=not overlap)
    requests = [a_request(str(number), 100 + 37 * (number % 7), 5 + number % 90) for number in range(40)]
    strategy = one_of_each(config)
    with_cache, without = (told((config, found, requests))[:2] for found in (keeping(strategy), strategy))
    assert with_cache[0] == without[0]


def test_the_second_turn_sends_only_what_is_new() -> None:
    config = generous(SglangConfig(1000, page_size=16), [a_request("0", 500, 20)])
    first = a_request("0", 480, 33)
    content = (*first.prompt, *first.output)
    later = next_turn(content, 1.0)
    _, recorder, engine = play(config, keeping(one_of_each(config)), [first, later])
    # Of 513 tokens the last has no KV: 32 whole pages are there.
    assert engine.fabric.moved_bytes == (30 + -(-later.prompt_tokens // 16) - 32) * 100
    found = {metric.name: metric.value for metric in recorder.sections["disaggregation"]}
    assert found["decode_hit_tokens"] == 512


def next_turn(content: tuple[tuple[int, int], ...], arrival_s: float) -> Request:
    prompt = (*content, (900_000, 50))
    return Request("1", arrival_s, prompt, count_tokens(prompt), ((910_000, 4),), 4)


def test_a_prefix_that_is_there_needs_no_room() -> None:
    config = SglangConfig(1000, disable_overlap_schedule=True)
    server = RadixDecodeScheduler(config, DecodeOptions(0, 10, True), keep_schedule=False)
    first = HandedSglangRequest(a_request("0", 600, 300))
    server.add(first)
    server.schedule()
    server.arrived(first)
    server.deliver(server.schedule())
    # Beside 601 tokens, another 600 would not fit, but they are the same.
    second = HandedSglangRequest(first.request._replace(id="1"))
    server.add(second)
    server.schedule()
    assert server.reserved == [second]
    assert second.held.shared == 600
    assert server.pool.free == 1000 - 602


def test_what_it_does_not_go_with_is_refused() -> None:
    config = SglangConfig(1000)
    strategy = keeping(one_of_each(config))
    beside = WindowPools(SlidingWindows(10, 500))
    for refused in (
        replace(strategy, drafts=speculation(2, 0.5)),
        replace(strategy, decode=replace(strategy.decode, beside=beside)),
    ):
        with pytest.raises(UsageError, match="radix cache is not simulated"):
            refused.sglang_engine(config, CLOCK, Recorder())
