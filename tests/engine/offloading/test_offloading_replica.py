"""Single stores and loads, step by step, against times worked out by hand: every step takes one second."""

from __future__ import annotations

import pytest

from kvplan.engine.config import EngineConfig
from kvplan.engine.content import Content
from kvplan.engine.offloading.order import EvictionPolicy
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.offloading.strategy import Offloading
from kvplan.engine.offloading.use import Use
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

STEP = LinearLatency(1.0, 0.0, 0.0)


class Wire:
    """A carrier: so long a block."""

    def __init__(self, seconds: float) -> None:
        self.each = seconds

    def seconds(self, size: int, operations: int = 1) -> float:
        return self.each * operations if size else 0.0


def request(name: str, arrival: float, prompt: int, output: int = 1, content: str = "") -> Request:
    first = 10_000 * (1 + sum(map(ord, content or name)))
    answer = 5_000_000 + 10_000 * sum(map(ord, name))
    return Request(name, arrival, ((first, prompt),), prompt, ((answer, output),), output, 0)


def serve(
    asked: list[Request], chunks: int = 50, put: float = 0.25, get: float = 0.25, chunk_blocks: int = 1,
    policy: EvictionPolicy = "lru", **options: object,
) -> tuple[OffloadingReplica, dict[str, RequestRow]]:  # fmt: skip
    rows: dict[str, RequestRow] = {}
    recorder = Recorder(on_request=lambda row: rows.update({row.id: row}))
    settings = {"num_blocks": 7, "block_size": 4, "max_model_len": 24, "async_scheduling": False, **options}
    strategy = Offloading(8, chunks, Wire(put), Wire(get), chunk_blocks, policy)
    engine = strategy.engine(EngineConfig(**settings), STEP, recorder)  # type: ignore[arg-type]
    engine.run(asked)
    engine.close()
    return engine, rows


def test_a_load_begins_when_the_step_it_was_planned_with_has_ended() -> None:
    asked = [
        request("a", 0.0, 18), request("b", 50.0, 22), request("c", 100.0, 18, content="a"),
        request("d", 100.0, 3, 5),
    ]  # fmt: skip
    engine, rows = serve(asked, num_blocks=8)
    # b took 6 of 7 blocks; of a's 4 full ones the device has the first, the host all. d is computed from 100
    # on, so the load takes from 101 to 101.75; the step from 102 on finds it, and c is in the one after that.
    assert engine.scheduler.fetched_tokens == 12
    assert rows["d"].scheduled_s == 100.0
    assert rows["c"].scheduled_s == 103.0
    assert rows["c"].cached_tokens == 16


def test_with_nothing_else_to_do_a_load_begins_and_ends_at_once() -> None:
    asked = [request("a", 0.0, 18), request("b", 50.0, 22), request("c", 100.0, 18, content="a")]
    _, rows = serve(asked)
    assert rows["c"].scheduled_s == 101.0


def test_prompts_are_stored_and_outputs_are_not() -> None:
    engine, _ = serve([request("a", 0.0, 9, 12)])
    assert engine.cache.stored == 2
    engine, _ = serve([request("a", 0.0, 9, 12)], chunk_blocks=2)
    assert engine.cache.stored == 1


def test_a_step_waits_for_blocks_that_are_still_being_copied() -> None:
    # a's 4 blocks are copied from 1 to 11; b is given two of them at 2.
    engine, rows = serve([request("a", 0.0, 18), request("b", 2.0, 14)], put=2.5)
    assert (engine.flushes, engine.flush_s) == (1, 9.0)
    assert rows["b"].first_token_s == 12.0
    # Who finds them on the device waits, too.
    engine, rows = serve([request("a", 0.0, 18), request("c", 2.0, 18, content="a")], put=2.5, num_blocks=20)
    assert (engine.flushes, rows["c"].first_token_s) == (1, 12.0)
    # As long as a holds them nobody is given them, and they are found as ever.
    engine, rows = serve(
        [request("a", 0.0, 18, 3), request("c", 2.0, 18, content="a")], put=0.25, num_blocks=20
    )
    assert (engine.flushes, rows["c"].first_token_s) == (0, 3.0)


def test_who_would_load_what_is_being_written_is_passed_over() -> None:
    # Of c's 4 chunks the device has 3 to offer, as a token is left to compute. The last one is written until 11.
    asked = [request("a", 0.0, 16, 8), request("c", 2.0, 16, content="a"), request("d", 2.0, 3)]
    engine, rows = serve(asked, put=2.5, num_blocks=20)
    assert rows["d"].scheduled_s == 2.0
    assert rows["c"].scheduled_s == 11.25
    assert (engine.offloading.put_off, engine.scheduler.fetched_tokens) == (1, 4)


def test_what_ends_while_nobody_asks_for_a_step_is_found_with_the_next_one() -> None:
    asked = [
        request("a", 0.0, 22), request("b", 1.0, 22), request("c", 100.0, 14, 5),
        request("d", 100.0, 22, content="a"),
    ]  # fmt: skip
    engine, rows = serve(asked, num_blocks=13)
    # The last step, at 2, finds neither store: a's ends at 2.25, b's at 3.5. c takes the last two of a's five full
    # blocks, so d needs the host, which is told of a's with c's first step: its load begins with the second.
    assert engine.scheduler.fetched_tokens == 8
    assert rows["c"].scheduled_s == 100.0
    assert rows["d"].scheduled_s == 104.0


def test_of_one_prompt_the_end_goes_first() -> None:
    asked = [request("a", 0.0, 18), request("b", 50.0, 10), request("c", 100.0, 22, content="c")]
    engine, _ = serve(asked, chunks=8)
    # 4 + 2 + 5 chunks in 8: the last three of a are gone.
    assert engine.cache.evicted == 3
    use = Use(Content(asked[0].prompt, asked[0].output))
    assert [engine.cache.prefix(use, place, place + 1)[0] for place in range(4)] == [1, 0, 0, 0]


@pytest.mark.parametrize("policy", ["lru", "arc"])
def test_what_is_used_together_becomes_one_run(policy: EvictionPolicy) -> None:
    asked = [request("a", 0.0, 18), request("b", 50.0, 22, content="a"), request("c", 100.0, 10, content="a")]
    engine, _ = serve(asked, policy=policy, max_num_batched_tokens=4)
    # b wrote the last of 5 chunks, c used the first 2 last.
    (upper,) = engine.cache.tree.root.children.values()
    assert (upper.start, upper.end) == (0, 2)
    assert [(run.start, run.end) for run in upper.children.values()] == [(2, 5 if policy == "lru" else 4)]


def test_what_does_not_fit_beside_copies_is_tried_again() -> None:
    asked = [request("a", 0.0, 18), request("b", 1.0, 18, 6)]
    engine, _ = serve(asked, chunks=5, put=1.0, num_blocks=20)
    # b's chunks come when a's are being written, from 1 to 5. That is known at 6, and b stores with that step.
    assert engine.offloading.refused == 1
    assert (engine.cache.stored, engine.cache.evicted) == (8, 3)


def test_a_prompt_longer_than_the_host_is_not_stored() -> None:
    engine, _ = serve([request("a", 0.0, 18)], chunks=3)
    assert engine.cache.stored == 0
    engine, _ = serve([request("a", 0.0, 18)], chunks=3, max_num_batched_tokens=8)
    # Of the first step 2 are; those of the second are refused while these are written, and stored in the end.
    assert (engine.cache.stored, engine.cache.evicted, engine.offloading.refused) == (4, 1, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"enable_prefix_caching": False}, "without a prefix cache"),
        ({"eviction": "lfu"}, "evicts by lru, not by lfu"),
    ],
)
def test_what_vllm_has_not_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        serve([request("a", 0.0, 9)], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [{"chunk_blocks": 0}, {"chunks": -1}, {"policy": "fifo"}])
def test_values_that_mean_nothing_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Offloading(**{"block_bytes": 8, "chunks": 5, "put": Wire(0.0), "get": Wire(0.0), **arguments})  # type: ignore[arg-type]
