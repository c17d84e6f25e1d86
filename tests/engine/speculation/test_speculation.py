"""Laws of speculative decoding: what drafts change, what they must not, and how often they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import pytest
from drafted_workloads import workloads
from hypothesis import given, settings
from hypothesis import strategies as st
from served import Served, request, serve

from kvplan.engine.cluster import Cluster
from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.protocols import StepBatch
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.speculation.acceptance import Acceptance, geometric, of_mean_length
from kvplan.engine.speculation.metrics import SECTION
from kvplan.engine.speculation.replica import DraftReplica
from kvplan.engine.speculation.rules import DraftRules, Method, rules_of
from kvplan.engine.speculation.strategy import Speculation
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

METHODS: tuple[Method, ...] = ("mtp", "eagle", "draft_model", "ngram")
VERSIONS = ((0, 33, 0), (0, 28, 0))


def run(
    config: EngineConfig, requests: Sequence[Request], rules: DraftRules, acceptance: Acceptance
) -> tuple[Served, DraftReplica]:
    engines: list[DraftReplica] = []

    def make(config: EngineConfig, clock: object, recorder: Recorder) -> DraftReplica:
        engines.append(
            DraftReplica(config, clock, recorder, rules=rules, acceptance=acceptance)  # type: ignore[arg-type]
        )
        return engines[0]

    return serve(make, config, requests), engines[0]  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(
    requests=workloads(), method=st.sampled_from(METHODS), version=st.sampled_from(VERSIONS),
    drafts=st.integers(1, 6), chance=st.sampled_from((0.0, 0.5, 0.9, 1.0)), blocks=st.integers(12, 60),
    caching=st.booleans(), ahead=st.booleans(), budget=st.sampled_from((16, 64, 512)),
    window=st.sampled_from((0, 0, 9, 30)),
)  # fmt: skip
def test_everybody_gets_the_whole_answer_and_gives_all_blocks_back(
    requests: list[Request], method: Method, version: tuple[int, int, int], drafts: int, chance: float,
    blocks: int, caching: bool, ahead: bool, budget: int, window: int,
) -> None:  # fmt: skip
    groups: tuple[CacheGroup, ...] = ()
    if window:
        groups = (CacheGroup("full", 8), CacheGroup("sliding", 8, window))
        groups += (CacheGroup("mamba", 8 if caching else 160),)
    if window and version < (0, 33, 0):
        method = "ngram"
    config = EngineConfig(
        num_blocks=blocks, block_size=8, max_model_len=160, max_num_seqs=4, max_num_batched_tokens=budget,
        enable_prefix_caching=caching, async_scheduling=ahead, groups=groups,
    )  # fmt: skip
    served, engine = run(config, requests, rules_of(method, drafts, version), geometric(chance, drafts, 7))
    assert served.stuck is None
    assert len(served.rows) + len(served.rejected) == len(requests)
    wanted = {item.id: item.output_tokens for item in requests}
    assert all(row.output_tokens == wanted[row.id] for row in served.rows)
    assert all(row.arrival_s <= row.scheduled_s <= row.first_token_s <= row.finish_s for row in served.rows)
    scheduler = engine.scheduler
    assert scheduler.free_blocks == scheduler.pool.usable
    assert not scheduler.running
    found = scheduler.drafted
    assert sum(found.accepted) == found.steps
    assert sum(found.stood) == found.accepted_tokens <= found.proposed_tokens
    assert found.stood == sorted(found.stood, reverse=True)
    if not chance:
        assert not found.accepted_tokens


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize(("drafts", "output"), [(1, 9), (3, 9), (3, 12), (5, 31)])
def test_a_request_whose_drafts_all_stand_needs_so_many_steps(drafts: int, output: int, ahead: bool) -> None:
    config = EngineConfig(num_blocks=100, async_scheduling=ahead)
    served, _ = run(
        config, [request("r", 20, output)], rules_of("mtp", drafts, (0, 33, 0)), geometric(1.0, drafts, 0)
    )
    steps = served.metric(SECTION, "steps")
    # The prompt's step brings the first token; whoever schedules ahead may have one more step in flight.
    least = -(-(output - 1) // (drafts + 1))
    assert steps == least
    assert served.totals["steps"] in ((1 + least,) if not ahead else (1 + least, 2 + least))


@pytest.mark.parametrize("ahead", [True, False])
def test_drafts_that_never_stand_cost_no_step(ahead: bool) -> None:
    config = EngineConfig(num_blocks=400, async_scheduling=ahead, max_num_seqs=8)
    requests = [request(f"r{i}", 30 + i, 10 + 3 * i, start=1000 * i) for i in range(6)]
    none, _ = run(config, requests, rules_of("ngram", 3, (0, 33, 0)), geometric(0.0, 3, 0))
    from kvplan.engine.replica import Replica

    plain = serve(Replica, config, requests)
    assert none.totals["steps"] == plain.totals["steps"]
    assert [row.id for row in none.rows] == [row.id for row in plain.rows]
    assert none.metric(SECTION, "acceptance_rate") == 0.0


def test_what_stands_does_not_depend_on_others() -> None:
    config = EngineConfig(num_blocks=400, max_num_seqs=16)
    rules, chance = rules_of("eagle", 4, (0, 33, 0)), geometric(0.6, 4, 3)
    alone, _ = run(config, [request("a", 50, 200)], rules, chance)
    crowd = [request("a", 50, 200), *(request(f"b{i}", 40, 90, start=1000 * i) for i in range(1, 9))]
    _, engine = run(config, crowd, rules, chance)
    key = chance.key("a")
    tokens, verified = 1, 0
    while tokens < 200:
        tokens += 1 + chance.accepted(key, verified, 4)
        verified += 1
    assert alone.metric(SECTION, "steps") == verified
    assert engine.scheduler.drafted.steps > verified


@pytest.mark.parametrize("rates", [(0.8,), (0.9, 0.5, 0.1), (0.3, 0.3)])
def test_drafts_stand_as_often_as_said(rates: tuple[float, ...]) -> None:
    chance, draws = Acceptance(rates, 5), 4000
    found = [chance.accepted(chance.key(f"request {n % 40}"), n // 40, len(rates)) for n in range(draws)]
    for position, rate in enumerate(rates):
        share = sum(stood > position for stood in found) / draws
        assert abs(share - rate) < 4.5 * sqrt(rate * (1 - rate) / draws)
    assert [chance.accepted(1, n, 1) for n in range(50)] == [
        min(chance.accepted(1, n, len(rates)), 1) for n in range(50)
    ]


@given(st.integers(1, 12), st.floats(0.0, 1.0))
def test_a_mean_length_gives_the_chance_it_came_from(drafts: int, chance: float) -> None:
    length = geometric(chance, drafts, 0).mean_length
    assert of_mean_length(length, drafts, 0).mean_length == pytest.approx(length)


@pytest.mark.parametrize("rates", [(), (1.2,), (0.5, 0.6), (float("nan"),), (-0.1,)])
def test_rates_that_are_none(rates: tuple[float, ...]) -> None:
    with pytest.raises(UsageError):
        Acceptance(rates)
    with pytest.raises(UsageError, match="within 1 and 3"):
        of_mean_length(3.5, 2, 0)


@pytest.mark.parametrize(
    ("method", "since"), [("mtp", (0, 29, 0)), ("eagle", (0, 29, 0)), ("draft_model", (0, 31, 0))]
)
def test_outputs_leave_before_drafts_are_made_where_the_second_runner_is_the_default(
    method: Method, since: tuple[int, int, int]
) -> None:
    """By what ``use_v2_model_runner`` says is unsupported in each version."""
    assert rules_of(method, 2, since).outputs_first
    assert not rules_of(method, 2, (0, since[1] - 1, 2)).outputs_first
    assert not rules_of("ngram", 2, since).outputs_first


def test_a_prefix_is_found_by_the_token_behind_it_or_less_its_last_block() -> None:
    """Both requests begin with the same 32 tokens; the first one goes on with token 32, the other does not."""
    first = Request("a", 0.0, ((0, 64),), 64, ((10**6, 1),), 1)
    other = Request("b", 9.0, ((0, 32), (5000, 30)), 62, ((10**6, 1),), 1)
    again = Request("c", 9.0, ((0, 40), (5000, 30)), 70, ((10**6, 1),), 1)
    config = EngineConfig(num_blocks=100, block_size=16)
    hits = {}
    for name, rules in (
        ("plain", rules_of("ngram", 1, (0, 33, 0))), ("new", rules_of("mtp", 1, (0, 33, 0))),
        ("old", rules_of("mtp", 1, (0, 30, 0))),
    ):  # fmt: skip
        hits[name] = tuple(
            run(config, [first, second], rules, geometric(0.5, 1, 0))[0].rows[1].cached_tokens
            for second in (other, again)
        )
    assert hits == {"plain": (32, 32), "new": (16, 32), "old": (16, 16)}


@pytest.mark.parametrize(
    ("changes", "rules", "words"),
    [
        ({"groups": (CacheGroup("full", 16), CacheGroup("full", 32))}, rules_of("mtp", 1, (0, 33, 0)),
         "several sizes"),
        ({"groups": (CacheGroup("full", 16), CacheGroup("sliding", 16, 64))}, rules_of("mtp", 1, (0, 30, 0)),
         "from vLLM 0.33 on"),
        ({"eviction": "fifo"}, rules_of("mtp", 1, (0, 33, 0)), "own eviction"),
        ({"max_num_batched_tokens": 4}, rules_of("mtp", 4, (0, 33, 0)), "do not hold"),
        ({"long_prefill_token_threshold": 3}, rules_of("mtp", 3, (0, 33, 0)), "cuts drafts off"),
    ],
)  # fmt: skip
def test_what_drafts_do_not_go_with(changes: dict[str, object], rules: DraftRules, words: str) -> None:
    config = EngineConfig(num_blocks=100, **changes)  # type: ignore[arg-type]
    strategy = Speculation(rules, geometric(0.5, rules.tokens, 0))
    with pytest.raises(UsageError, match=words):
        strategy.engine(config, LinearLatency(1e-3, 1e-5, 0.0), Recorder())
    with pytest.raises(UsageError, match="acceptance rates for"):
        Speculation(rules, geometric(0.5, rules.tokens + 1, 0))


def test_a_pool_that_holds_a_request_without_its_drafts_turns_it_away() -> None:
    config = EngineConfig(num_blocks=5, block_size=16, max_model_len=1000)
    asked = [request("fits", 40, 16), request("does not", 40, 24, start=1000)]
    served, _ = run(config, asked, rules_of("mtp", 3, (0, 33, 0)), geometric(0.5, 3, 0))
    assert [row.id for row in served.rows] == ["fits"]
    assert served.rejected == [("does not", "needs more blocks than the pool has")]


def test_behind_a_router_every_replica_drafts() -> None:
    config = EngineConfig(num_blocks=200)
    strategy = Speculation(rules_of("mtp", 2, (0, 33, 0)), geometric(1.0, 2, 0))
    recorder = Recorder()
    cluster = Cluster(2, "round-robin", config, LinearLatency(1e-3, 1e-5, 0.0), recorder, strategy)
    cluster.run([request(f"r{i}", 20, 7, start=1000 * i) for i in range(6)])
    cluster.close()
    for index in range(2):
        metrics = {metric.name: metric.value for metric in recorder.sections[f"{SECTION} {index}"]}
        assert metrics["steps"] == 3 * 2
        assert metrics["acceptance_length"] == 3.0


class Slow:
    """Every step takes a second, and each draft made after it another."""

    def step_seconds(self, batch: StepBatch) -> float:
        batch.drafting_s = float(batch.drafting)
        return 1.0 + batch.drafting


@pytest.mark.parametrize(("version", "waits"), [((0, 33, 0), 0.0), ((0, 28, 0), 2.0)])
@pytest.mark.parametrize("ahead", [True, False])
def test_outputs_leave_before_drafts_are_made(
    version: tuple[int, int, int], waits: float, ahead: bool
) -> None:
    """The first token of three comes with the prompt; both drafts of two stand, so one more step ends it."""
    rows: list[RequestRow] = []
    rules = rules_of("draft_model", 2, version)
    config = EngineConfig(num_blocks=100, async_scheduling=ahead)
    replica = DraftReplica(
        config, Slow(), Recorder(on_request=rows.append), rules=rules, acceptance=geometric(1.0, 2, 0)
    )
    replica.run([request("r", 20, 4)])
    (row,) = rows
    assert row.first_token_s == 1.0 + waits
    # The second step begins when the first one's drafts are made; its own could never be verified.
    assert row.finish_s == 1.0 + 2.0 + 1.0 + waits


@pytest.mark.parametrize(
    ("method", "version", "beside"),
    [
        ("ngram", (0, 32, 0), False), ("ngram", (0, 33, 0), True), ("draft_model", (0, 27, 0), False),
        ("draft_model", (0, 28, 0), True), ("eagle", (0, 14, 0), True), ("mtp", (0, 14, 0), True),
    ],
)  # fmt: skip
def test_who_drafts_decides_whether_steps_are_planned_ahead(
    method: Method, version: tuple[int, int, int], beside: bool
) -> None:
    config, requests = EngineConfig(num_blocks=100), [request("r", 20, 9)]
    totals = []
    for ahead in (True, False):
        recorder = Recorder()
        engine = Speculation(rules_of(method, 2, version), geometric(0.5, 2, 0)).engine(
            replace(config, async_scheduling=ahead), LinearLatency(1e-3, 0.0, 0.0), recorder
        )
        engine.run(requests)
        engine.close()
        totals.append(recorder.totals.to_dict())
    assert (totals[0] != totals[1]) == beside
