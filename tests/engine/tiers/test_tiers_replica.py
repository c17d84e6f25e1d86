"""Tiers in an engine: what a huge one amounts to, times by hand, and what preempting either way costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fuzzing import examples
from hypothesis import given
from workloads import cases

from kvplan.engine.config import EngineConfig
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.replica import Replica
from kvplan.engine.tiers.line import Line
from kvplan.engine.tiers.replica import TieredReplica
from kvplan.engine.tiers.stack import TierSpec, TierStack, Write
from kvplan.engine.tiers.strategy import Tiers
from kvplan.engine.tiers.swap import Preemption
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

STEP = LinearLatency(1.0, 0.0, 0.0)
"""Every step takes one second."""


class Wire:
    """So many seconds a block."""

    def __init__(self, seconds: float) -> None:
        self.each = seconds

    def seconds(self, size: int, operations: int = 1) -> float:
        return self.each * operations if size else 0.0


def host(blocks: int, seconds: float, write: Write = "through") -> TierSpec:
    return TierSpec("host", blocks, 8, Wire(seconds), Wire(seconds), write)


def disk(blocks: int, seconds: float, write: Write = "back") -> TierSpec:
    return TierSpec("disk", blocks, 8, Wire(seconds), Wire(seconds), write)


def serve(
    tiers: Tiers, requests: list[Request], latency: LinearLatency = STEP, **options: object
) -> tuple[TieredReplica, dict[str, RequestRow], dict[str, object]]:
    rows: dict[str, RequestRow] = {}
    recorder = Recorder(on_request=lambda row: rows.update({row.id: row}))
    config = {"num_blocks": 9, "block_size": 4, "max_model_len": 32, "async_scheduling": False, **options}
    engine = tiers.engine(EngineConfig(**config), latency, recorder)  # type: ignore[arg-type]
    engine.run(requests)
    engine.close()
    return engine, rows, {metric.name: metric.value for metric in recorder.sections["tiers"]}


def request(name: str, arrival: float, prompt: int, output: int = 1, content: str | None = None) -> Request:
    first, mine = (100_000 * int.from_bytes(text.encode()) for text in (content or name, name))
    mine += 50_000
    return Request(name, arrival, ((first, prompt),), prompt, ((mine, output),), output)


# -- what a huge tier amounts to --------------------------------------------------------------------------


@examples(200)
@given(cases())
def test_below_a_small_pool_a_huge_host_is_a_huge_pool(case: tuple[EngineConfig, list[Request]]) -> None:
    """One request at a time: what is not computed is the same, wherever it lies."""
    config, asked = case
    config = replace(config, enable_prefix_caching=True)
    apart = [item._replace(arrival_s=1000.0 * index) for index, item in enumerate(asked)]
    clock = LinearLatency(5e-3, 2e-5, 1e-8)

    def cached(engine_of: object) -> dict[str, int]:
        rows: dict[str, int] = {}
        recorder = Recorder(on_request=lambda row: rows.update({row.id: row.cached_tokens}))
        engine = engine_of(recorder)  # type: ignore[operator]
        engine.run(apart)
        return rows

    huge = cached(lambda to: Replica(replace(config, num_blocks=100_000), clock, to))
    plenty = (host(100_000, 1e-4), host(100_000, 1e-4, "back"))
    small = replace(config, num_blocks=1 + -(-config.max_model_len // config.block_size))
    for spec in plenty:
        tiered = cached(lambda to, s=spec: Tiers(8, (s,)).engine(small, clock, to))
        prompts = {item.id: item.prompt_tokens for item in apart}
        for name, tokens in tiered.items():
            # A prompt that is there wholly is fetched wholly, as vLLM's connectors do; the last token is
            # computed again. On the device its last block is not looked for.
            whole = prompts[name] % config.block_size == 0 and tokens == prompts[name] - 1
            assert tokens == huge[name] or (whole and huge[name] == prompts[name] - config.block_size)


# -- times by hand ----------------------------------------------------------------------------------------


def test_transfers_of_a_line_wait_for_each_other() -> None:
    line = Line("to_host", Wire(0.5), 8, 4)
    assert line.send(10.0, 4) == 12.0
    assert line.send(11.0, 2) == 13.0
    assert line.send(20.0, 0) == 20.0
    assert (line.wait(12.5), line.wait(20.0)) == (0.5, 0.0)
    assert (line.busy_s, line.waited_s, line.moved_bytes) == (3.0, 1.0, 24)


@pytest.mark.parametrize("write", ["through", "back"])
def test_what_the_device_evicted_comes_back_from_the_host(write: Write) -> None:
    # a fills 5 of 8 blocks (4 of them whole), b needs 7: a's are evicted from the end, 4 blocks go.
    first, second = request("a", 0.0, 18), request("b", 10.0, 26)
    again = request("c", 100.0, 18, content="a")
    engine, rows, told = serve(Tiers(8, (host(50, 0.25, write),)), [first, second, again])
    # c: what is left on the device is hit, the rest is fetched at a quarter of a second a block.
    hit = engine.scheduler.hit_tokens
    assert rows["c"].cached_tokens == 16
    assert told["host_hit_tokens"] == 16 - hit
    assert rows["c"].scheduled_s == 100.0 + 0.25 * (16 - hit) / 4
    assert told["from_host_busy_s"] == 0.25 * (16 - hit) / 4


def test_a_fetch_from_disk_passes_through_the_host() -> None:
    # The host holds 4 blocks, so b's push a's to the disk.
    tiers = Tiers(8, (host(8, 0.25), disk(100, 1.0)))
    asked = [
        request("a", 0.0, 18),
        request("b", 50.0, 26),
        request("d", 100.0, 26),
        request("c", 200.0, 18, content="a"),
    ]
    engine, rows, told = serve(tiers, asked)
    assert told["disk_hit_tokens"] == 16
    assert engine.scheduler.hit_tokens == 0
    # Four blocks from the disk at a second each, then four to the device at a quarter each.
    assert rows["c"].scheduled_s == 205.0


def test_prefetching_reads_the_disk_while_a_request_waits() -> None:
    tiers = Tiers(8, (host(8, 0.25), disk(100, 1.0)))
    busy = request("w", 199.0, 28, 4)
    asked = [
        request("a", 0.0, 18),
        request("b", 50.0, 26),
        request("d", 100.0, 26),
        busy,
        request("c", 200.0, 18, content="a"),
    ]
    late, early = serve(tiers, asked)[1]["c"], serve(replace(tiers, prefetch=True), asked)[1]["c"]
    assert early.scheduled_s < late.scheduled_s
    assert early.cached_tokens == late.cached_tokens == 16


def test_a_swapped_request_goes_on_where_it_was() -> None:
    # Both grow until nothing is left; the later one is swapped and comes back without computing anything twice.
    tiers = Tiers(8, (host(50, 0.25),), "swap")
    asked = [request("a", 0.0, 14, 10), request("b", 0.0, 14, 10)]
    engine, rows, told = serve(tiers, asked, enable_prefix_caching=False)
    assert rows["b"].preemptions == told["swap_out_count"] == told["swap_in_count"] == 1
    assert told["recompute_count"] == 0
    # 17 computed tokens in 5 blocks went out, and the same came back.
    assert told["swap_out_bytes"] == told["swap_in_bytes"] > 0
    assert told["swap_out_s"] == told["swap_in_s"] == told["swap_out_bytes"] / 8 * 0.25  # type: ignore[operator]
    assert engine.stack.host.reserved == 0


def test_without_room_in_the_host_a_swap_becomes_a_recomputation() -> None:
    tiers = Tiers(8, (host(2, 0.25),), "swap")
    asked = [request("a", 0.0, 14, 10), request("b", 0.0, 14, 10)]
    _, rows, told = serve(tiers, asked, enable_prefix_caching=False)
    assert told["swap_out_count"] == 0
    assert told["host_full"] == told["recompute_count"] == rows["b"].preemptions == 1


def test_a_swap_takes_room_from_the_prefix_cache_of_the_host() -> None:
    # The host is full of what ended before; it makes room.
    tiers = Tiers(8, (host(6, 0.0),), "swap")
    asked = [request("x", 0.0, 26), request("a", 100.0, 14, 10), request("b", 100.0, 14, 10)]
    _, rows, told = serve(tiers, asked)
    assert rows["b"].preemptions == told["swap_out_count"] == 1
    assert told["host_evicted_blocks"] >= 4  # type: ignore[operator]
    assert told["host_full"] == 0


# -- swap against recompute -------------------------------------------------------------------------------

LONG = [request(f"r{index:03d}", 0.05 * index, 4000, 300) for index in range(80)]


def makespan(preemption: Preemption, block_s: float, *, caching: bool, write: Write = "back") -> float:
    tiers = Tiers(8, (host(200_000, block_s, write),), preemption)
    engine, _, _ = serve(
        tiers, LONG, LinearLatency(5e-3, 2e-5, 1e-8), num_blocks=6000, block_size=16, max_model_len=8192,
        enable_prefix_caching=caching,
    )  # fmt: skip
    assert engine.recorder.totals.preemptions > 0
    return engine.recorder.totals.makespan_s


def test_swapping_wins_over_a_fast_link_and_loses_over_a_slow_one() -> None:
    again = makespan("recompute", 4e-5, caching=False)
    assert makespan("swap", 4e-5, caching=False) < 0.99 * again
    assert makespan("swap", 2e-2, caching=False) > 1.2 * again


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("block_s", [4e-5, 4e-4, 2e-3, 2e-2])
def test_auto_is_not_worse_than_the_worse_of_both(block_s: float, caching: bool) -> None:
    swap, again, auto = (makespan(way, block_s, caching=caching) for way in ("swap", "recompute", "auto"))  # type: ignore[arg-type]
    assert auto <= max(swap, again) * 1.001


# -- refusals ---------------------------------------------------------------------------------------------


def test_a_lower_tier_is_at_least_as_large() -> None:
    with pytest.raises(UsageError, match="disk tier holds 5 blocks"):
        Tiers(8, (host(6, 0.0), disk(5, 0.0)))
    with pytest.raises(UsageError, match="disk tier"):
        TierStack(4, 8, (host(6, 0.0), disk(5, 0.0)))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"block_bytes": 0}, "0 bytes"),
        ({"tiers": ()}, "0 tiers"),
        ({"preemption": "drop"}, "drop"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Tiers(**{"block_bytes": 8, "tiers": (host(5, 0.0),), **arguments})  # type: ignore[arg-type]
