"""Laws of speculative decoding on SGLang's scheduler."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from drafted_workloads import workloads
from hypothesis import given, settings
from hypothesis import strategies as st
from served import Served, request, serve

from kvplan.engine.cluster import Cluster
from kvplan.engine.engine import make_engine
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.speculation.acceptance import Acceptance, geometric
from kvplan.engine.speculation.metrics import SECTION
from kvplan.engine.speculation.rules import Method, sglang_rules_of
from kvplan.engine.speculation.sglang.replica import DraftedSglangReplica
from kvplan.engine.speculation.strategy import Speculation
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

METHODS: tuple[Method, ...] = ("mtp", "eagle", "draft_model")


def run(
    config: SglangConfig,
    requests: Sequence[Request],
    method: Method,
    acceptance: Acceptance,
    *,
    log: bool = False,
) -> tuple[Served, DraftedSglangReplica]:
    engines: list[DraftedSglangReplica] = []
    strategy = Speculation(sglang_rules_of(method, len(acceptance.rates)), acceptance)

    def make(config: SglangConfig, clock: object, recorder: Recorder) -> DraftedSglangReplica:
        engine = make_engine("fast", config, clock, recorder, strategy=strategy)  # type: ignore[arg-type]
        assert isinstance(engine, DraftedSglangReplica)
        engines.append(engine)
        return engine

    return serve(make, config, requests, log=log), engines[0]  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(
    requests=workloads(), method=st.sampled_from(METHODS), drafts=st.integers(1, 6),
    chance=st.sampled_from((0.0, 0.5, 0.9, 1.0)), pool=st.integers(100, 600), caching=st.booleans(),
    overlap=st.booleans(), page=st.sampled_from((1, 4, 16)), mixed=st.booleans(), log=st.booleans(),
)  # fmt: skip
def test_everybody_gets_the_whole_answer_and_gives_all_memory_back(
    requests: list[Request], method: Method, drafts: int, chance: float, pool: int, caching: bool, overlap: bool,
    page: int, mixed: bool, log: bool,
) -> None:  # fmt: skip
    config = SglangConfig(
        pool_tokens=pool, page_size=page, context_length=160, max_running_requests=8, chunked_prefill_size=64,
        disable_radix_cache=not caching, disable_overlap_schedule=not overlap, enable_mixed_chunk=mixed,
    )  # fmt: skip
    served, engine = run(config, requests, method, geometric(chance, drafts, 7), log=log)
    assert served.stuck is None
    assert len(served.rows) + len(served.rejected) == len(requests)
    wanted = {item.id: item.output_tokens for item in requests}
    assert all(row.output_tokens == wanted[row.id] for row in served.rows)
    assert all(row.arrival_s <= row.scheduled_s <= row.first_token_s <= row.finish_s for row in served.rows)
    scheduler = engine.drafting
    assert scheduler.pool.unreferenced == engine.config.pool_tokens
    assert not scheduler.decoding.count
    found = scheduler.drafted
    assert sum(found.accepted) == found.steps == sum(found.proposed)
    assert found.stood == sorted(found.stood, reverse=True)
    if not chance:
        assert not found.accepted_tokens


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(("drafts", "output"), [(1, 9), (3, 9), (3, 12), (5, 31)])
def test_a_request_whose_drafts_all_stand_needs_so_many_steps(
    drafts: int, output: int, overlap: bool
) -> None:
    config = SglangConfig(pool_tokens=1000, disable_overlap_schedule=not overlap)
    served, _ = run(config, [request("r", 20, output)], "mtp", geometric(1.0, drafts, 0))
    least = -(-(output - 1) // (drafts + 1))
    assert served.metric(SECTION, "steps") == least
    # The prompt brings the first token; with overlap one more step is under way when the last one comes.
    assert served.totals["steps"] in ((1 + least, 2 + least) if overlap else (1 + least,))


@pytest.mark.parametrize("overlap", [True, False])
def test_drafts_that_never_stand_cost_no_step(overlap: bool) -> None:
    config = SglangConfig(pool_tokens=2000, disable_overlap_schedule=not overlap, max_running_requests=8)
    requests = [request(f"r{i}", 30 + i, 10 + 3 * i, start=1000 * i) for i in range(6)]
    none, _ = run(config, requests, "draft_model", geometric(0.0, 3, 0))
    plain = serve(SglangReplica, config, requests)  # type: ignore[arg-type]
    assert none.totals["steps"] == plain.totals["steps"]
    assert [row.id for row in none.rows] == [row.id for row in plain.rows]
    assert none.metric(SECTION, "acceptance_rate") == 0.0


def test_a_batch_that_also_prefills_verifies_nothing() -> None:
    """The first request decodes one token in each step that computes a chunk of the second one's prompt."""
    config = SglangConfig(
        pool_tokens=4000, chunked_prefill_size=64, max_running_requests=8, enable_mixed_chunk=True,
        disable_overlap_schedule=True,
    )  # fmt: skip
    asked = [request("a", 20, 40), request("b", 300, 4, arrival_s=0.012, start=5000)]
    served, _ = run(config, asked, "eagle", geometric(1.0, 3, 0), log=True)
    shares = [dict(part.split("=") for part in line.split("|")[0].split(",")) for line in served.lines]
    assert {step["a"] for step in shares[1:] if "a" in step and "b" in step and int(step["b"]) > 4} == {"1"}
    assert {step["a"] for step in shares[1:] if "b" not in step} == {"4"}
    # A draft model's batches are not mixed.
    served, _ = run(config, asked, "draft_model", geometric(1.0, 3, 0), log=True)
    assert not any("a=" in line and "b=6" in line for line in served.lines)


def test_a_prefix_is_known_by_the_token_behind_it() -> None:
    """Both requests begin with the same 32 tokens; the first one goes on with token 32, the other does not."""
    first = Request("a", 0.0, ((0, 64),), 64, ((10**6, 1),), 1)
    other = Request("b", 9.0, ((0, 32), (5000, 30)), 62, ((10**6, 1),), 1)
    hits = {}
    for page in (1, 16):
        config = SglangConfig(pool_tokens=1000, page_size=page)
        for method in METHODS:
            served, _ = run(config, [first, other], method, geometric(0.5, 1, 0))
            hits[page, method] = served.rows[1].cached_tokens
    assert [hits[1, method] for method in METHODS] == [31, 31, 32]
    assert [hits[16, method] for method in METHODS] == [16, 16, 32]


def test_places_for_two_steps_are_given_ahead() -> None:
    """A request with 20 tokens computed has places for twice its four tokens of a step."""
    config = SglangConfig(pool_tokens=200, disable_overlap_schedule=True)
    served, _ = run(config, [request("r", 20, 9)], "draft_model", geometric(1.0, 3, 0), log=True)
    free = [int(line.split("|")[1]) for line in served.lines]
    assert free == [180, 180 - 8, 180 - 12]


def test_a_pool_that_holds_a_request_without_its_drafts_turns_it_away() -> None:
    config = SglangConfig(pool_tokens=64, disable_overlap_schedule=True)
    asked = [request("fits", 20, 30), request("does not", 20, 40, start=1000)]
    served, _ = run(config, asked, "mtp", geometric(0.0, 7, 0))
    assert [row.id for row in served.rows] == ["fits"]
    assert served.rejected == [("does not", "the pool does not hold it with its drafts")]


def test_prompt_lookup_is_vllms() -> None:
    with pytest.raises(UsageError, match="SGLang verifies trees"):
        sglang_rules_of("ngram", 3)


def test_behind_a_router_every_replica_drafts() -> None:
    config = SglangConfig(pool_tokens=2000)
    strategy = Speculation(sglang_rules_of("mtp", 2), geometric(1.0, 2, 0))
    recorder = Recorder()
    cluster = Cluster(2, "prefix-aware", config, LinearLatency(1e-3, 1e-5, 0.0), recorder, strategy)
    cluster.run([request(f"r{i}", 20, 7, arrival_s=i * 1.0, start=1000 * (i % 2)) for i in range(6)])
    cluster.close()
    steps = 0
    for index in range(2):
        metrics = {metric.name: metric.value for metric in recorder.sections[f"{SECTION} {index}"]}
        steps += int(str(metrics["steps"]))
    assert steps == 2 * 6
