"""Separate prefill and decode: times computed by hand, pressure on either side, what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.disaggregation.engine import DisaggregatedEngine
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.journey import FirstToken
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.engine.recorder import Metric, Recorder, RequestRow
from kvplan.engine.replica import Replica
from kvplan.errors import UnknownName, UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request
from kvplan.traces.synthesize import synthesize

BLOCK_BYTES = 1600
CONFIG = EngineConfig(
    num_blocks=200, block_size=16, max_model_len=4096, max_num_batched_tokens=4096, async_scheduling=False,
    enable_prefix_caching=False,
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """Bytes a second."""

    rate: float

    def seconds(self, size: int, /) -> float:
        return size / self.rate


def link(rate: float = float("inf")) -> tuple[Stage, ...]:
    return (Stage("link", Line(rate), prefill=True, decode=True, link=True),)


def request(number: int, arrival: float, prompt: int, output: int, start: int | None = None) -> Request:
    first = 10_000 * number if start is None else start
    return Request(
        f"r{number}", arrival, ((first, prompt),), prompt, ((10**7 + 10**5 * number, output),), output
    )


def play(
    strategy: Disaggregation,
    requests: list[Request],
    config: EngineConfig = CONFIG,
    clock: LinearLatency | None = None,
    lines: list[str] | None = None,
) -> tuple[dict[str, RequestRow], DisaggregatedEngine, dict[str, Metric]]:
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append, on_decision=None if lines is None else lines.append)
    engine = strategy.engine(config, clock or LinearLatency(1.0, 0.0, 0.0), recorder)
    engine.run(requests)
    engine.close()
    return (
        {row.id: row for row in rows},
        engine,
        {metric.name: metric for metric in recorder.sections["disaggregation"]},
    )


def test_one_request_by_hand() -> None:
    """A step takes a second. 40 tokens are 3 blocks of 1,600 bytes; the link moves 2,400 bytes/s."""
    strategy = Disaggregation(link(2400.0), BLOCK_BYTES)
    rows, _, metrics = play(strategy, [request(0, 5.0, 40, 4)])
    # 5 prefill 6 transfer 8 first token 9, then three more.
    assert rows["r0"] == RequestRow("r0", 5.0, 5.0, 9.0, 12.0, 40, 4, 0, 0)
    assert metrics["ttft_queue_mean"].value == 0.0
    assert metrics["ttft_prefill_mean"].value == 1.0
    assert metrics["ttft_transfer_mean"].value == 2.0
    assert metrics["ttft_first_decode_mean"].value == 1.0
    assert metrics["moved_bytes"].value == 4800
    assert metrics["link_utilisation_prefill"].value == 2.0 / 12.0


def test_the_first_token_from_the_prefill_instance() -> None:
    strategy = Disaggregation(link(2400.0), BLOCK_BYTES, first_token=FirstToken.PREFILL)
    rows, _, metrics = play(strategy, [request(0, 5.0, 40, 4), request(1, 20.0, 40, 1)])
    # 5 prefill and first token 6, transfer 8, the second token 9, the fourth 11.
    assert rows["r0"] == RequestRow("r0", 5.0, 5.0, 6.0, 11.0, 40, 4, 0, 0)
    # One token: nothing is handed over.
    assert rows["r1"] == RequestRow("r1", 20.0, 20.0, 21.0, 21.0, 40, 1, 0, 0)
    assert metrics["moved_bytes"].value == 4800
    assert metrics["finished_at_prefill"].value == 1


def test_two_requests_over_an_infinitely_fast_link_by_hand() -> None:
    """Prefill goes on while the other decodes; each side's steps take a + b tokens + c context."""
    clock = LinearLatency(1.0, 0.25, 0.0)
    rows, _, _ = play(
        Disaggregation(link(), BLOCK_BYTES), [request(0, 0.0, 8, 2), request(1, 1.0, 4, 3)], clock=clock
    )
    # P: r0 in [0, 3], r1 (came at 1) in [3, 5].
    # D: r0's last prompt token in [3, 4.25] and its second in [4.25, 5.5]; r1 is there at 5, in the next step:
    #    [5.5, 6.75], [6.75, 8], [8, 9.25].
    assert rows["r0"] == RequestRow("r0", 0.0, 0.0, 4.25, 5.5, 8, 2, 0, 0)
    assert rows["r1"] == RequestRow("r1", 1.0, 3.0, 6.75, 9.25, 4, 3, 0, 0)


def test_what_the_decode_instance_has_is_not_sent() -> None:
    config = replace(CONFIG, enable_prefix_caching=True)
    same = [request(0, 0.0, 64, 2), request(1, 200.0, 64, 2, start=0)]
    _, _, metrics = play(Disaggregation(link(100.0), BLOCK_BYTES), same, config)
    # The second time all whole blocks but the last one are there: its last token is computed again.
    assert metrics["moved_bytes"].value == (4 + 1) * BLOCK_BYTES
    assert metrics["kept_bytes"].value == 3 * BLOCK_BYTES


@pytest.mark.parametrize("rate", [200.0, 400.0, 1600.0, 1e9])
def test_streaming_by_layer_end_to_end(rate: float) -> None:
    """The cache is there after the longer of prefill and transfer, and one layer."""
    layers, blocks = 10, 10
    clock = LinearLatency(0.0, 0.0625, 0.0)
    strategy = Disaggregation(link(rate), BLOCK_BYTES, layers=layers)
    rows, _, metrics = play(strategy, [request(0, 0.0, 16 * blocks, 2)], clock=clock)
    prefill, transfer = 160 * 0.0625, blocks * BLOCK_BYTES / rate
    arrived = max(prefill, transfer) + min(prefill, transfer) / layers
    assert metrics["ttft_transfer_mean"].value == pytest.approx(arrived - prefill)
    assert rows["r0"].first_token_s == pytest.approx(arrived + 0.0625)
    whole, _, _ = play(replace(strategy, layers=0), [request(0, 0.0, 16 * blocks, 2)], clock=clock)
    assert whole["r0"].first_token_s == pytest.approx(prefill + transfer + 0.0625)


def test_layers_stream_with_the_last_step_of_a_prompt() -> None:
    """A prompt of four steps: nothing has left when the last one begins."""
    config = replace(CONFIG, max_num_batched_tokens=64)
    clock = LinearLatency(0.0, 0.0625, 0.0)
    strategy = Disaggregation(link(1600.0), BLOCK_BYTES, layers=4)
    _, _, metrics = play(strategy, [request(0, 0.0, 256, 2)], config, clock)
    # Steps of 4 s, a layer every second; a layer of 16 blocks takes 4 s, and the first one is there at 13 s.
    assert metrics["ttft_prefill_mean"].value == pytest.approx(16.0)
    assert metrics["ttft_transfer_mean"].value == pytest.approx(13.0)
    assert metrics["moved_bytes"].value == 16 * BLOCK_BYTES


def test_a_full_decode_pool_stalls_the_prefill_pool() -> None:
    """Room for one request on either side: the second waits for the first to finish decoding."""
    small = replace(CONFIG, num_blocks=1 + 4)
    requests = [request(number, 0.0, 48, 10) for number in range(3)]
    rows, engine, metrics = play(Disaggregation(link(), BLOCK_BYTES), requests, small)
    # r0 prefills in [0, 1] and decodes in [1, 11]; r1 prefills in [1, 2] and waits until 11; r2 finds no
    # blocks before that, and prefills in [11, 12].
    assert [rows[f"r{n}"].scheduled_s for n in range(3)] == [0.0, 1.0, 11.0]
    assert [rows[f"r{n}"].finish_s for n in range(3)] == [11.0, 21.0, 31.0]
    assert metrics["prefill_stalled"].value == 9.0
    assert metrics["back_pressured"].value == 2
    assert metrics["back_pressure_mean"].value == pytest.approx((9.0 + 9.0) / 3)
    for replica in (*engine.prefills, *engine.decodes):
        assert replica.scheduler.free_blocks == small.usable_blocks


def test_who_is_preempted_has_sent_nothing() -> None:
    """Two prompts that do not fit beside one another: what the second computed in vain takes no time of the link."""
    config = replace(CONFIG, num_blocks=7, max_model_len=80, max_num_batched_tokens=32, max_num_seqs=2)
    config = replace(config, scheduler_reserve_full_isl=False, watermark=0.0, enable_prefix_caching=False)
    config = replace(config, long_prefill_token_threshold=16)
    strategy = Disaggregation(link(4 * BLOCK_BYTES), BLOCK_BYTES, layers=4, decode=PoolPlan(2))
    rows, engine, metrics = play(strategy, [request(0, 0.0, 70, 1), request(1, 0.0, 60, 1)], config)
    assert set(rows) == {"r0", "r1"}
    assert engine.recorder.totals.preemptions > 0
    assert metrics["moved_bytes"].value == (5 + 4) * BLOCK_BYTES


@pytest.mark.parametrize("layers", [0, 4])
def test_a_prompt_preempts_itself_until_what_is_sent_gives_its_blocks_back(layers: int) -> None:
    """A step takes a second, the link 300: nobody else is there whose blocks the second prompt could take."""
    config = replace(CONFIG, num_blocks=6, max_model_len=80, max_num_batched_tokens=16, max_num_seqs=2)
    config = replace(config, scheduler_reserve_full_isl=False, watermark=0.0)
    strategy = Disaggregation(link(4 * BLOCK_BYTES / 300.0), BLOCK_BYTES, layers=layers)
    rows, engine, _ = play(strategy, [request(0, 0.0, 64, 1), request(1, 0.0, 48, 1)], config)
    assert set(rows) == {"r0", "r1"}
    assert engine.recorder.totals.preemptions > config.max_model_len + config.max_num_seqs


HANDOVERS = {
    # r1 needs a block behind the step in which r2 samples: r2, the last in line, makes room for it or, that
    # step being in flight, nobody does; then r2 is on its way, and r1 preempts itself.
    Handover.KEPT: (1, 0, 0),
    Handover.REPEATED: (0, 1, 0),
    Handover.LOST: (0, 1, 1),
}


@pytest.mark.parametrize("handover", list(Handover))
def test_a_prompt_that_ends_in_the_step_in_flight(handover: Handover) -> None:
    config = replace(
        CONFIG, num_blocks=3, max_model_len=32, max_num_batched_tokens=32, long_prefill_token_threshold=16,
        async_scheduling=True, scheduler_reserve_full_isl=False, watermark=0.0,
    )  # fmt: skip
    decode = PoolPlan(config=replace(config, num_blocks=9))
    strategy = Disaggregation(link(), BLOCK_BYTES, decode=decode, handover=handover)
    rows, _, metrics = play(strategy, [request(1, 0.0, 30, 2), request(2, 0.0, 10, 2)], config)
    found = (rows["r1"].preemptions, rows["r2"].preemptions, metrics["recomputed"].value)
    assert found == HANDOVERS[handover]


def test_transfers_of_one_instance_queue() -> None:
    """Two prompts of one step share the sender; the second arrives a transfer later."""
    strategy = Disaggregation(link(1600.0), BLOCK_BYTES, decode=PoolPlan(2))
    requests = [request(0, 0.0, 16, 1), request(1, 0.0, 16, 1)]
    rows, _, _ = play(strategy, requests)
    assert [rows[f"r{n}"].first_token_s for n in range(2)] == [3.0, 4.0]
    two, _, _ = play(replace(strategy, prefill=PoolPlan(2)), requests)
    assert [two[f"r{n}"].first_token_s for n in range(2)] == [3.0, 3.0]


def test_pools_may_differ() -> None:
    fast = LinearLatency(0.5, 0.0, 0.0)
    big = replace(CONFIG, num_blocks=500)
    strategy = Disaggregation(link(), BLOCK_BYTES, decode=PoolPlan(1, "least-loaded", big, fast))
    rows, engine, _ = play(strategy, [request(0, 0.0, 16, 3)])
    assert rows["r0"] == RequestRow("r0", 0.0, 0.0, 1.5, 2.5, 16, 3, 0, 0)
    assert engine.decodes[0].config.num_blocks == 500
    assert strategy.pools(CONFIG) == (CONFIG, big)


def test_what_neither_pool_could_serve_is_rejected_once() -> None:
    small = replace(CONFIG, num_blocks=4)
    reasons: list[tuple[str, str]] = []
    recorder = Recorder(on_rejected=lambda name, reason, _: reasons.append((name, reason)))
    strategy = Disaggregation(link(), BLOCK_BYTES, prefill=PoolPlan(config=small))
    engine = strategy.engine(CONFIG, LinearLatency(1.0, 0.0, 0.0), recorder)
    engine.run([request(0, 0.0, 100, 2), request(1, 0.0, 5000, 2), request(2, 0.0, 10, 2)])
    engine.close()
    assert reasons == [
        ("r0", "prefill pool: needs more blocks than the pool has"),
        ("r1", "decode pool: longer than max_model_len"),
    ]
    totals = recorder.totals
    assert (totals.requests, totals.finished, totals.rejected, totals.unfinished) == (3, 1, 2, 0)


def test_decisions_say_whose_they_are_and_change_nothing() -> None:
    chat = list(synthesize("chat", 60, 20.0, 0))
    config = EngineConfig(num_blocks=2000, max_num_batched_tokens=2048, max_model_len=16384)
    clock = LinearLatency(5e-3, 2e-5, 1e-8)
    for layers in (0, 8):
        strategy = Disaggregation(link(1e9), 131_072, PoolPlan(2), PoolPlan(2, "prefix-aware"), layers)
        lines: list[str] = []
        logged, _, _ = play(strategy, chat, config, clock, lines)
        assert logged == play(strategy, chat, config, clock)[0]
        assert {line.split("\t")[0] for line in lines} == {"P0", "P1", "D0", "D1"}


def test_separate_decode_is_not_disturbed_by_prompts() -> None:
    """What disaggregation is for: the same two GPUs, and no token waits behind a prompt."""
    chat = list(synthesize("chat", 150, 8.0, 0))
    config = EngineConfig(num_blocks=6000, max_num_batched_tokens=2048, max_model_len=16384)
    clock = LinearLatency(5e-3, 1e-4, 1e-8)
    rows, _, _ = play(Disaggregation(link(1e11), 131_072), chat, config, clock)
    together: list[RequestRow] = []
    alone = Replica(config, clock, Recorder(on_request=together.append))
    alone.run(chat)

    def per_token(found: list[RequestRow]) -> float:
        times = sorted(
            (r.finish_s - r.first_token_s) / (r.output_tokens - 1) for r in found if r.output_tokens > 1
        )
        return times[len(times) * 9 // 10]

    assert per_token(list(rows.values())) < 0.5 * per_token(together)


def test_what_is_refused() -> None:
    good = Disaggregation(link(), BLOCK_BYTES)
    clock, recorder = LinearLatency(1.0, 0.0, 0.0), Recorder()
    windows = replace(CONFIG, groups=(CacheGroup("full", 16), CacheGroup("sliding", 16, 64)))
    states = replace(CONFIG, groups=(CacheGroup("full", 16), CacheGroup("mamba", 16)))
    with pytest.raises(UsageError, match="MoRIIO connector does not write"):
        replace(good, layers=4).engine(windows, clock, recorder)
    with pytest.raises(UsageError, match="states that are written layer by layer"):
        replace(good, layers=4).engine(states, clock, recorder)
    with pytest.raises(UsageError, match="no prefill instance has a first token"):
        replace(good, first_token=FirstToken.PREFILL).engine(states, clock, recorder)
    with pytest.raises(UsageError, match="in different groups"):
        replace(good, decode=PoolPlan(config=windows)).engine(CONFIG, clock, recorder)
    with pytest.raises(UsageError, match="belady"):
        good.engine(replace(CONFIG, eviction="belady", enable_prefix_caching=True), clock, recorder)
    with pytest.raises(UsageError, match="the decode pool has 0 instances") as caught:
        replace(good, decode=PoolPlan(0)).engine(CONFIG, clock, recorder)
    assert caught.value.where == "disaggregation.decode.instances"
    other = EngineConfig(num_blocks=200, block_size=32)
    with pytest.raises(UsageError, match="blocks of 16 and 32 tokens"):
        replace(good, decode=PoolPlan(config=other)).engine(CONFIG, clock, recorder)
    with pytest.raises(UnknownName, match="routing policy"):
        replace(good, prefill=PoolPlan(1, "random")).engine(CONFIG, clock, recorder)
