"""The fast engine decides what the reference decides, on random workloads; failures shrink to a small one."""

from __future__ import annotations

from fuzzing import fuzz
from hypothesis import given
from workloads import cases, overtaking, stride_of

from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.prefix_hash import PrefixIndex
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.reference.loop import ReferenceEngine
from kvplan.engine.replica import Replica
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)


class Outcome:
    """Everything a run tells: decisions, rows in finishing order, totals, series, rejections."""

    def __init__(
        self, recorder: Recorder, lines: list[str], rows: list[RequestRow], stuck: str | None
    ) -> None:
        self.lines = lines
        self.stuck = stuck
        self.told = (rows, recorder.totals.to_dict(), recorder.series, recorder.rejections)


def play(kind: type, config: EngineConfig, requests: list[Request], *, log: bool, **options: bool) -> Outcome:
    lines: list[str] = []
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    recorder.series_stride = stride_of(requests)
    engine = kind(config, CLOCK, recorder, **options)
    stuck = None
    try:
        engine.run(requests)
    except EngineStuck as exc:  # mutual preemptions without end: the real scheduler does that, too
        stuck = str(exc)
    engine.close()
    if isinstance(engine, Replica):
        check_index(engine.scheduler.index)
    return Outcome(recorder, lines, rows, stuck)


def check_index(index: PrefixIndex) -> None:
    """Every node's content has its blocks, and begins as its children's do."""
    size, nodes = index.block_size, [*index.root.children.values()]
    while nodes:
        node = nodes.pop()
        tokens = index.settle(node) * size
        assert node.content.ends[-1] >= tokens
        for key, child in node.children.items():
            assert child.parent is node
            assert child.start == node.end
            assert child.key == key == index._key(child.content, node.end)
            assert child.content.agrees_until(node.content, 0, tokens) == tokens
            nodes.append(child)


@fuzz(500)
@given(cases())
def test_fast_equals_reference(case: tuple[EngineConfig, list[Request]]) -> None:
    config, requests = case
    reference = play(ReferenceEngine, config, requests, log=True, check=True)
    stepping = play(Replica, config, requests, log=True)
    assert stepping.lines == reference.lines
    assert (stepping.told, stepping.stuck) == (reference.told, reference.stuck)
    # Without a decision log the fast engine runs through quiet steps in bulk.
    coasting = play(Replica, config, requests, log=False)
    assert (coasting.told, coasting.stuck) == (reference.told, reference.stuck)
    finished, rejected = reference.told[1]["finished"], reference.told[1]["rejected"]
    assert finished + rejected == len(requests) or reference.stuck is not None
    for row in reference.told[0]:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s


def test_a_last_token_in_flight_publishes_nothing_early() -> None:
    """Found by 20,000 random workloads: a request whose last token was in flight was preempted."""
    config = EngineConfig(
        num_blocks=45, block_size=1, max_model_len=30, max_num_seqs=3, max_num_batched_tokens=30,
        enable_chunked_prefill=False, policy="priority", scheduler_reserve_full_isl=False,
        prefill_schedule_interval=4, async_scheduling=True,
    )  # fmt: skip
    requests = [
        Request("r00", 0.0, ((1000, 10), (1050, 12)), 22, ((500, 8),), 8, 1),
        Request("r01", 0.001, ((1000, 1),), 1, ((500, 3),), 3, 1),
        Request("r02", 0.001, ((1100, 1),), 1, ((500, 1),), 1, 0),
        Request("r03", 0.001, ((1150, 12),), 12, ((500, 5),), 5, 0),
    ]
    reference = play(ReferenceEngine, config, requests, log=True, check=True)
    assert play(Replica, config, requests, log=True).told == reference.told


def test_a_block_that_fills_lets_in_who_waits_in_the_same_step() -> None:
    """Found by 20,000 random workloads: a running request's answer is how the waiting prompt begins."""
    config = EngineConfig(
        num_blocks=14, block_size=3, max_model_len=21, max_num_seqs=3, max_num_batched_tokens=10,
        async_scheduling=False,
    )  # fmt: skip
    requests = [
        Request("r00", 0.0, ((1000, 6), (1050, 12)), 18, ((500, 3),), 3),
        Request("r01", 0.0, ((1000, 1),), 1, ((500, 3),), 3),
        Request("r02", 0.006, ((1000, 1), (500, 2), (1100, 1), (1150, 12)), 16, ((500, 1),), 1),
    ]
    reference = play(ReferenceEngine, config, requests, log=True, check=True)
    assert reference.lines[3].startswith("r00=1,r01=1,r02=8|")
    assert play(Replica, config, requests, log=False).told == reference.told


def test_a_chunk_taken_back_was_prefill_all_the_same() -> None:
    """vLLM 0.33 counts the interval from the step in which it was granted, whoever was preempted after that."""
    config = EngineConfig(
        num_blocks=26, block_size=1, max_model_len=21, max_num_seqs=4, max_num_batched_tokens=6,
        enable_prefix_caching=False, policy="priority", long_prefill_token_threshold=1,
        scheduler_reserve_full_isl=False, prefill_schedule_interval=3,
    )  # fmt: skip
    requests = [
        Request("r0", 0.01, ((0, 12),), 12, ((1000, 8),), 8, priority=1),
        Request("r1", 0.01, ((100, 5),), 5, ((2000, 14),), 14, priority=1),
    ]
    reference = play(ReferenceEngine, config, requests, log=True)
    real = ["r1=1|1|2|0|", "r1=1|8|1|1|r0", "r1=1|7|1|1|", "r0=6|19|1|0|", "r0=6|13|1|0|"]
    assert reference.lines[15:20] == real
    assert play(Replica, config, requests, log=True).lines == reference.lines
    assert play(Replica, config, requests, log=False).told == reference.told


def test_a_decode_behind_a_prompt_publishes_behind_it() -> None:
    """Found by 16,000 workloads against vLLM itself: the prompt has the answer, and both fill its block at once."""
    config = EngineConfig(
        num_blocks=200, block_size=2, max_model_len=100, max_num_seqs=8, max_num_batched_tokens=100,
        long_prefill_token_threshold=6, long_prefill_adaptive=False, async_scheduling=False,
    )  # fmt: skip
    requests = overtaking()
    reference = play(ReferenceEngine, config, requests, log=True, check=True)
    assert "company=1,slow=6,between=1,ahead=1|92|4|0|" in reference.lines
    stepping = play(Replica, config, requests, log=True)
    assert stepping.lines == reference.lines
    assert stepping.told == reference.told == play(Replica, config, requests, log=False).told
