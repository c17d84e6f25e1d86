"""The engine of several cache groups decides what the reference decides, on random pools and workloads."""

from __future__ import annotations

from dataclasses import replace

from fuzzing import fuzz
from grouped import grouped_cases, long_decodes, long_prompts
from hypothesis import assume, example, given
from workloads import overtaking, stride_of

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.hybrid.replica import HybridReplica
from kvplan.engine.hybrid.strips import Batch, Strip
from kvplan.engine.instance import simulated_in_segments
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.reference.loop import ReferenceEngine
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request


def play(
    kind: type, config: EngineConfig, requests: list[Request], *, log: bool
) -> tuple[list[str], object, object, object, object, object]:
    lines: list[str] = []
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    recorder.series_stride = stride_of(requests)
    engine = kind(config, LinearLatency(5e-3, 2e-5, 1e-8), recorder)
    stuck = None
    try:
        engine.run(requests)
    except EngineStuck as exc:  # mutual preemptions without end: the real scheduler does that, too
        stuck = str(exc)
    engine.close()
    if isinstance(engine, HybridReplica) and stuck is None:
        check_books(engine)
    return lines, rows, recorder.totals.to_dict(), recorder.series, recorder.rejections, stuck


def check_books(engine: HybridReplica) -> None:
    """All is free, and the queue holds as many cached blocks as the pool says, each of them unreferenced."""
    pool = engine.scheduler.pool
    assert pool.blank + pool.cached == pool.usable
    cached, entry = 0, pool.head
    while entry is not None:
        strips = entry.strips if isinstance(entry, Batch) else [entry]
        assert not any(strip.ref for strip in strips)
        cached += sum(
            one.blocks if isinstance(one, Strip) else one.node.end - one.node.start for one in strips
        )
        entry = entry.after
    assert cached == pool.cached


def reference_of(config: EngineConfig, requests: list[Request]) -> list[str]:
    """The reference's decisions; the fast engine has made the same, with a decision log and without."""
    reference = play(ReferenceEngine, config, requests, log=True)
    assert play(HybridReplica, config, requests, log=True) == reference
    # Without a decision log quiet steps are run through in bulk.
    assert play(HybridReplica, config, requests, log=False)[1:] == reference[1:]
    return reference[0]


OFTEN = fuzz(250)


@OFTEN
@given(grouped_cases())
def test_hybrid_equals_reference(case: tuple[EngineConfig, list[Request]]) -> None:
    config, requests = case
    assume(simulated_in_segments(config))
    reference_of(config, requests)


SHORT = EngineConfig(
    num_blocks=9, block_size=4, max_model_len=22, max_num_seqs=2, max_num_batched_tokens=4,
    enable_prefix_caching=False, scheduler_reserve_full_isl=False, async_scheduling=False,
    groups=(CacheGroup("full", 4), CacheGroup("sliding", 4, 2)),
)  # fmt: skip
NEXT_TO_EACH_OTHER = [
    Request("r0", 0.0, ((0, 1),), 1, ((1000, 1),), 1),
    Request("r1", 0.0, ((0, 2),), 2, ((2000, 20),), 20),
    Request("r2", 0.0, ((0, 1),), 1, ((3000, 15),), 15),
]


LET_IN_BY_A_WINDOW = replace(
    SHORT, num_blocks=41, block_size=5, max_model_len=46, max_num_seqs=3, scheduler_reserve_full_isl=True,
    groups=(CacheGroup("full", 5), *[CacheGroup("sliding", 5, 17)] * 2),
)  # fmt: skip
"""What windows give back in the middle of quiet steps lets in who waits."""
WAITING = [
    Request(f"r{number}", arrival_s, ((0, 1),), 1, ((1000 * number + 1000, output),), output)
    for number, (arrival_s, output) in enumerate(
        ((0.0, 6), (0.0, 1), (0.001, 10), (0.021, 30), (0.021, 29), (0.021, 45))
    )
]


@example((LET_IN_BY_A_WINDOW, WAITING))
@example((SHORT, NEXT_TO_EACH_OTHER))
@example((replace(SHORT, groups=SHORT.groups[:1]), NEXT_TO_EACH_OTHER))
@OFTEN
@given(long_decodes())
def test_long_decodes_hybrid_equals_reference(case: tuple[EngineConfig, list[Request]]) -> None:
    reference_of(*case)


@OFTEN
@given(long_prompts())
def test_long_prompts_hybrid_equals_reference(case: tuple[EngineConfig, list[Request]]) -> None:
    reference_of(*case)


def test_whoever_hits_less_than_before_may_need_less() -> None:
    """The end of the window it hit is evicted; the shorter hit ends in a window that somebody holds.

    Found by the scheduler of vLLM 0.33 among 150 large pools.
    """
    config = EngineConfig(
        num_blocks=114, block_size=4, max_model_len=168, max_num_seqs=3, max_num_batched_tokens=32,
        async_scheduling=False, retention_interval=None,
        groups=(CacheGroup("full", 4), CacheGroup("sliding", 4, 57)),
    )  # fmt: skip
    start, answer = (0, 27), 1_000_000
    requests = [
        Request("r0", 0.0, (start,), 27, ((answer, 47),), 47),
        Request("r3", 0.02, (start, (answer, 51)), 78, ((3_000_000, 35),), 35),
        Request("r4", 0.02, ((0, 18), (4000, 31)), 49, ((4_000_000, 41),), 41),
        Request(
            "r5", 0.02, (start, (answer, 54), (2000, 53), (2_000_000, 16), (5000, 11)), 161, ((6, 1),), 1
        ),
    ]
    lines = reference_of(config, requests)
    assert lines[45:47] == ["r0=1,r4=1|47|2|1|", "r0=1,r4=1,r5=30|10|3|0|"]


def test_whoever_waits_for_a_state_fits_when_it_is_evicted() -> None:
    """Found by 20,000 random pools: without its hit the request needs one block instead of two."""
    config = EngineConfig(
        num_blocks=4, block_size=1, max_model_len=12, max_num_seqs=2, max_num_batched_tokens=12,
        enable_chunked_prefill=False, async_scheduling=False, retention_interval=4,
        groups=(CacheGroup("mamba", 1),),
    )  # fmt: skip
    requests = [
        Request("r00", 0.0, ((1000, 1),), 1, ((500, 6),), 6),
        Request("r01", 0.0, ((1000, 1), (500, 1)), 2, ((500, 1),), 1),
    ]
    assert reference_of(config, requests)[5] == "r00=1,r01=1|0|2|0|"


def test_a_decode_behind_a_prompt_publishes_behind_it() -> None:
    """As with one group: the prompt has the answer, and both fill its block in one step."""
    config = EngineConfig(
        num_blocks=400, block_size=2, max_model_len=100, max_num_seqs=8, max_num_batched_tokens=100,
        long_prefill_token_threshold=6, long_prefill_adaptive=False, async_scheduling=False,
        groups=(CacheGroup("full", 2, 0), CacheGroup("chunked", 2, 8)),
    )  # fmt: skip
    requests = overtaking()
    assert any("slow=6,between=1,ahead=1|" in line for line in reference_of(config, requests))
