"""SGLang's scheduler by hand: decision lines that can be checked with pencil and paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.engine import ENGINES, make_engine
from kvplan.engine.errors import InvalidLatency, OutOfKvMemory
from kvplan.engine.impatient import Impatient
from kvplan.engine.patience import Patience
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import OUT_OF_MEMORY, SglangConfig
from kvplan.errors import UnknownName, UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

ONE_SECOND = LinearLatency(1.0, 0.0, 0.0)


def ask(name: str, prompt: int, answer: int, *, start: int | None = None, at: float = 0.0) -> Request:
    first = sum(map(ord, name)) * 10_000 if start is None else start
    return Request(name, at, ((first, prompt),), prompt, ((10**9 + first, answer),), answer)


class Run:
    def __init__(self, requests: Sequence[Request], engine: str = "fast", **options: Any) -> None:
        options.setdefault("disable_overlap_schedule", True)
        self.lines: list[str] = []
        self.rows: dict[str, RequestRow] = {}
        self.rejected: dict[str, str] = {}
        self.recorder = Recorder(
            on_request=lambda row: self.rows.__setitem__(row.id, row),
            on_rejected=lambda name, reason, _: self.rejected.__setitem__(name, reason),
            on_decision=self.lines.append,
        )
        running = make_engine(engine, SglangConfig(**options), ONE_SECOND, self.recorder)
        running.run(requests)
        running.close()
        self.totals = self.recorder.totals


@pytest.mark.parametrize("engine", ENGINES)
def test_prefill_first_then_decode_together(engine: str) -> None:
    run = Run([ask("a", 4, 3), ask("b", 2, 2, at=0.5)], engine, pool_tokens=100)
    assert run.lines == ["a=4|96|1|0|", "b=2|94|2|0|", "a=1,b=1|92|2|0|", "a=1|94|1|0|"]
    # b has left three tokens behind: cached, so free as soon as somebody needs them.
    assert run.rows["a"].finish_s == 4.0
    assert run.rows["b"].first_token_s == 2.0


@pytest.mark.parametrize("engine", ENGINES)
def test_overlap_leaves_out_who_finishes_with_the_batch_in_flight(engine: str) -> None:
    run = Run([ask("a", 4, 2), ask("b", 4, 3)], engine, pool_tokens=100, disable_overlap_schedule=False)
    # While the second step runs, a still has its memory; its length says that the step is its last.
    assert run.lines == ["a=4,b=4|92|2|0|", "a=1,b=1|90|2|0|", "b=1|89|2|0|"]
    assert (run.rows["a"].finish_s, run.rows["b"].finish_s) == (2.0, 3.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_who_has_finished_makes_room_at_once(engine: str) -> None:
    three = [ask("a", 4, 2), ask("b", 4, 9), ask("c", 4, 1)]
    run = Run(three, engine, pool_tokens=100, max_running_requests=2)
    assert [line.split("|")[0] for line in run.lines][:3] == ["a=4,b=4", "a=1,b=1", "c=4"]


@pytest.mark.parametrize("engine", ENGINES)
def test_decodes_wait_for_memory_that_the_batch_in_flight_gives_back(engine: str) -> None:
    """a and b fill the pool when a is about to finish: b sits one try out, and nobody is retracted."""
    run = Run(
        [ask("a", 8, 8), ask("b", 4, 10, at=0.5)], engine, pool_tokens=25, disable_overlap_schedule=False,
        schedule_conservativeness=1e-6, disable_radix_cache=True,
    )  # fmt: skip
    assert run.lines[2:] == [
        "b=4|12|2|0|", *(f"a=1,b=1|{free}|2|0|" for free in (10, 8, 6, 4, 2, 0)),
        "b=1|14|1|0|", "b=1|13|1|0|", "b=1|12|1|0|",
    ]  # fmt: skip
    assert run.totals.preemptions == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("others", "found"), [(31, 20), (30, 0)])
def test_a_prefix_that_is_waited_for_is_used_again_now_and_then(engine: str, others: int, found: int) -> None:
    """Every 32nd look at the queue counts as a use of the prefixes that its first requests have cached."""
    old = [ask("w", 20, 1, start=0), *(ask(f"f{i}", 4, 1, at=2.0 + 2 * i) for i in range(others))]
    late = [ask("big", 100, 1, at=100.0), ask("y", 25, 1, start=0, at=100.0)]
    run = Run([*old, *late], engine, pool_tokens=180, max_running_requests=1)
    assert run.rows["y"].cached_tokens == found
    assert run.rows["big"].scheduled_s == 100.0


@pytest.mark.parametrize("engine", ENGINES)
def test_who_is_aborted_for_want_of_memory_was_not_preempted(engine: str) -> None:
    """Found by random workloads: a prompt in chunks takes what the only one who decodes needs for its answer."""
    run = Run(
        [ask("a", 4, 37), ask("b", 15, 1)], engine, pool_tokens=53, chunked_prefill_size=2,
        prefill_decode_interval=5, disable_overlap_schedule=False,
    )  # fmt: skip
    assert run.rejected == {"a": OUT_OF_MEMORY}
    assert list(run.rows) == ["b"]
    assert run.totals.preemptions == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_decodes_sit_a_mixed_step_out_that_leaves_them_no_memory(engine: str) -> None:
    run = Run(
        [ask("a", 4, 30), ask("b", 30, 1, at=0.5)], engine, pool_tokens=44, chunked_prefill_size=4,
        max_running_requests=2, enable_mixed_chunk=True, schedule_conservativeness=1e-6,
    )  # fmt: skip
    # Three tokens of b and one of a at a time, until one token is left, which is the last one of b's prompt.
    assert run.lines[9:13] == ["b=3,a=1|4|2|0|", "b=2,a=1|1|2|0|", "b=1|0|2|0|", "a=1|29|1|0|"]
    assert run.totals.preemptions == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_long_prompt_comes_in_chunks_and_fills_up_with_others(engine: str) -> None:
    run = Run([ask("a", 10, 1), ask("b", 2, 1)], engine, pool_tokens=100, chunked_prefill_size=4)
    assert [line.split("|")[0] for line in run.lines] == ["a=4", "a=4", "a=2,b=2"]


@pytest.mark.parametrize("engine", ENGINES)
def test_mixed_chunks_carry_the_decodes(engine: str) -> None:
    run = Run(
        [ask("a", 2, 4), ask("b", 9, 1, at=0.5)], engine,
        pool_tokens=100, chunked_prefill_size=6, max_running_requests=2, enable_mixed_chunk=True,
    )  # fmt: skip
    # One decoding request takes one token of the chunk's budget of six.
    assert [line.split("|")[0] for line in run.lines][:3] == ["a=2", "b=5,a=1", "b=4,a=1"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_prefix_is_visible_after_its_prefill_only(engine: str) -> None:
    same = [ask("a", 8, 5, start=0), ask("b", 8, 5, start=0), ask("c", 8, 5, start=0, at=0.5)]
    run = Run(same, engine, pool_tokens=100)
    assert [run.rows[name].cached_tokens for name in "abc"] == [0, 0, 7]
    assert Run(same, engine, pool_tokens=100, disable_radix_cache=True).rows["c"].cached_tokens == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_lpm_puts_the_longest_cached_prefix_first(engine: str) -> None:
    warm = ask("w", 50, 1, start=0)
    queue = [ask("x", 40, 2, start=900, at=0.5), ask("y", 40, 2, start=0, at=0.5)]
    options = {"pool_tokens": 300, "max_running_requests": 1}
    fcfs = Run([warm, *queue], engine, **options)
    lpm = Run([warm, *queue], engine, schedule_policy="lpm", **options)
    assert fcfs.rows["x"].finish_s < fcfs.rows["y"].finish_s
    assert lpm.rows["y"].finish_s < lpm.rows["x"].finish_s


@pytest.mark.parametrize("engine", ENGINES)
def test_lpm_holds_back_who_shares_a_prefix_with_the_queue(engine: str) -> None:
    """Two of three waiting requests share 40 tokens: the second one waits and finds them cached."""
    queue = [ask("x", 40, 1, start=0), ask("y", 41, 1, start=0), ask("z", 10, 1, start=900)]
    run = Run(queue, engine, pool_tokens=300, schedule_policy="lpm", chunked_prefill_size=50)
    assert run.lines[0].startswith("x=40,z=10")
    assert run.rows["y"].cached_tokens == 40


@pytest.mark.parametrize("engine", ENGINES)
def test_retraction_takes_the_fewest_outputs_then_the_longest_prompt(engine: str) -> None:
    # Hardly anything is reserved for answers: both are admitted, and the pool runs out while they decode.
    run = Run([ask("a", 4, 20), ask("b", 9, 20)], engine, pool_tokens=40, schedule_conservativeness=1e-6)
    retracted = [line.rsplit("|", 1)[1] for line in run.lines if not line.endswith("|")]
    assert retracted[0] == "b"
    assert run.totals.preemptions == sum(row.preemptions for row in run.rows.values()) > 0
    assert {row.output_tokens for row in run.rows.values()} == {20}


@pytest.mark.parametrize("engine", ENGINES)
def test_answers_are_reserved_by_a_share(engine: str) -> None:
    """a holds 10 of 40 tokens and may take 19 more, of which 13.3 are kept free for it: 16.7 are left, and
    b asks for 4 + 12 + 1."""
    two = [ask("a", 10, 20), ask("b", 4, 12)]
    roomy = Run(two, engine, pool_tokens=40, schedule_conservativeness=0.01, chunked_prefill_size=-1)
    tight = Run(two, engine, pool_tokens=40, chunked_prefill_size=-1)
    assert roomy.lines[0].startswith("a=10|")
    assert roomy.rows["b"].scheduled_s == 1.0
    assert tight.rows["b"].scheduled_s > 1.0


@pytest.mark.parametrize("engine", ENGINES)
def test_shares_of_answers_are_added_up_one_by_one(engine: str) -> None:
    """As SGLang adds up floats: 0.7 of 3 tokens and of 7 are a little less than 7, and c needs just that much."""
    assert 0.7 * 3 + 0.7 * 7 < 7.0 == 0.7 * (3 + 7)
    requests = [ask("a", 4, 4), ask("b", 4, 7), ask("c", 2, 1)]
    run = Run(requests, engine, pool_tokens=19, chunked_prefill_size=4, disable_overlap_schedule=False)
    real = ["a=4|15|1|2|", "b=4|11|2|1|", "c=2|9|3|0|", "a=1,b=1|7|3|0|"]
    assert run.lines[:4] == real


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("prompt", "answer", "reason"),
    [
        (58, 1, "prompt longer than the context or the pool"),
        (40, 40, "answer would be cut short by the context or the pool"),
    ],
)
def test_what_does_not_fit_is_turned_away_and_counted(
    engine: str, prompt: int, answer: int, reason: str
) -> None:
    run = Run([ask("no", prompt, answer), ask("yes", 5, 5)], engine, pool_tokens=64)
    assert run.rejected == {"no": reason}
    assert run.totals.finished == run.totals.rejected == 1


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_where_sglang_would_stop_the_run_stops_too(engine: str, overlap: bool) -> None:
    """A chunk must go on whatever the pool holds, and here the answer beside it has taken what it needs."""
    with pytest.raises(OutOfKvMemory, match="3 tokens needed, 1 free"):
        Run(
            [ask("a", 4, 30), ask("b", 30, 1, at=0.5)], engine, pool_tokens=40, chunked_prefill_size=4,
            max_running_requests=2, enable_mixed_chunk=True, schedule_conservativeness=1e-6,
            disable_overlap_schedule=not overlap,
        )  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_a_latency_model_must_return_a_time(engine: str) -> None:
    class Broken:
        def step_seconds(self, batch: object) -> float:
            return float("nan")

    with pytest.raises(InvalidLatency):
        make_engine(engine, SglangConfig(pool_tokens=100), Broken(), Recorder()).run([ask("a", 4, 2)])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"page_size": 0}, "page_size"),
        ({"pool_tokens": 3, "page_size": 4}, "holds no page"),
        ({"page_size": 4, "chunked_prefill_size": 6}, "multiple of page_size"),
        ({"schedule_policy": "random"}, "schedule_policy"),
        ({"schedule_conservativeness": 0.0}, "schedule_conservativeness"),
        ({"enable_mixed_chunk": True, "chunked_prefill_size": 100}, "no room for prefill"),
        ({"tree": "trie"}, "radix cache"),
    ],
)
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        SglangConfig(**{"pool_tokens": 1000, **options})
    with pytest.raises(UnknownName):
        SglangConfig(1000, radix_eviction_policy="lfru")


def test_pools_are_cut_to_whole_pages() -> None:
    config = SglangConfig(1000, page_size=16, chunked_prefill_size=64)
    assert (config.pool_tokens, config.num_blocks, config.usable_blocks) == (992, 62, 62)


@pytest.mark.parametrize("engine", ENGINES)
def test_who_has_gone_is_not_turned_away_as_well(engine: str) -> None:
    asked = [("a", 0.0, 11, 10), ("b", 0.0, 3, 6), ("c", 0.01, 4, 4), ("d", 0.02, 4, 12)]
    config = SglangConfig(
        pool_tokens=23, max_running_requests=2, chunked_prefill_size=8, schedule_conservativeness=0.01,
        max_queued_requests=2,
    )  # fmt: skip
    gone: list[str] = []
    recorder = Recorder(on_timed_out=lambda name, _: gone.append(name))
    running = make_engine(engine, config, LinearLatency(5e-3, 2e-5, 1e-8), recorder)
    # The first one's client leaves while it runs; then it is sent back, and the queue is full.
    requests = [ask(name, prompt, answer, at=at) for name, at, prompt, answer in asked]
    running.run(Impatient(Arrivals(requests), Patience(0.03)))
    running.close()
    assert sorted(gone) == ["a", "b", "c", "d"]
    assert recorder.totals.rejected == 0
