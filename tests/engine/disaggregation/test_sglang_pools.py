"""SGLang's prefill and decode servers under any pressure: conservation, causality, and what they are without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import pytest
from fuzzing import examples, fuzz
from hypothesis import given
from hypothesis import strategies as st
from radix_runs import between_servers, runs
from sglang_servers import CLOCK, FREE, Case, a_request, deployments, generous, one_of_each, play, told

import kvplan.engine.disaggregation.sglang.engine as engines
from kvplan.engine.disaggregation.pool import Ranks
from kvplan.engine.disaggregation.sglang.decode import DecodeReplica, DecodeScheduler
from kvplan.engine.disaggregation.sglang.engine import PARTS, DecodeServer, PrefillServer
from kvplan.engine.disaggregation.sglang.instance import SglangInstance
from kvplan.engine.disaggregation.sglang.options import DecodeOptions, default_extra_slots
from kvplan.engine.disaggregation.sglang.prefill import PrefillReplica, PrefillScheduler
from kvplan.engine.disaggregation.sglang.strategy import SglangDisaggregation
from kvplan.engine.disaggregation.sglang.transit import HandedSglangRequest
from kvplan.engine.disaggregation.strategy import PoolPlan
from kvplan.engine.errors import EngineStuck
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.sglang.scheduler import SglangScheduler
from kvplan.errors import UsageError
from kvplan.traces.request import Request

MOST_CALLS = 50_000
"""Far more than any of these workloads needs: an engine that gets there makes no progress."""


class AuditedDecode(DecodeReplica):
    """Checks its books after every round and delivery."""

    calls = 0

    def advance(self, until: float) -> None:
        self.calls += 1
        assert self.calls < MOST_CALLS
        super().advance(until)

    def _plan(self, clock: float) -> tuple[SglangPlan, float]:
        planned = super()._plan(clock)
        self.audit()
        return planned

    def deliver(self, plan: SglangPlan, clock: float) -> bool:
        heard = super().deliver(plan, clock)
        self.audit()
        return heard

    def audit(self) -> None:
        scheduler, page, most = self.decode, self.config.page_size, self.config.max_running_requests
        holders = [request for request in EVERYBODY.get(scheduler, ()) if request.holding is not None]
        tokens = [
            request.base + scheduler.decoding.tick if request.ticket else request.computed
            for request in holders
        ]
        assert (
            scheduler.pool.free + sum(-(-count // page) * page for count in tokens) == self.config.pool_tokens
        )
        assert scheduler.rows + len(holders) == most + self.options.extra_slots
        assert scheduler.buffers + len(scheduler.coming) == 2 * most
        assert scheduler.rows >= 0
        assert scheduler.buffers >= 0
        assert scheduler.decoding.count <= most


class AuditedPrefill(PrefillReplica):
    """Checks its books after every round."""

    def _plan(self, clock: float) -> tuple[SglangPlan, float]:
        planned = super()._plan(clock)
        scheduler, most = self.prefill, self.config.max_running_requests
        holders = [request for request in EVERYBODY.get(scheduler, ()) if request.holding is not None]
        assert scheduler.held == len(holders) <= most
        assert scheduler.buffers + len(scheduler.waiting) + len(holders) == 2 * most
        own = sum(request.held.private for request in holders)
        tree = scheduler.pool.tree
        assert scheduler.pool.free + tree.evictable + tree.protected + own == self.config.pool_tokens
        return planned


EVERYBODY: WeakKeyDictionary[SglangScheduler, list[SglangRequest]] = WeakKeyDictionary()
"""All requests that each scheduler was given."""


def noted(add):  # type: ignore[no-untyped-def]
    def and_noted(self: SglangScheduler, request: SglangRequest) -> None:
        EVERYBODY.setdefault(self, []).append(request)
        add(self, request)

    return and_noted


@pytest.fixture(scope="module", autouse=True)
def _audited():  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "PrefillReplica", AuditedPrefill)
        patch.setattr(engines, "DecodeReplica", AuditedDecode)
        for kind in (PrefillScheduler, DecodeScheduler):
            patch.setattr(kind, "add", noted(kind.add))
        yield


def members(servers: Sequence[PrefillServer | DecodeServer]) -> Iterator[SglangInstance]:
    """Whoever has requests: instances without ranks, and ranks."""
    for server in servers:
        yield from server.members


@examples(120)
@given(deployments())
def test_every_request_gets_through(case: Case) -> None:
    """Conservation in both pools, causality, and that the parts of a first token are all of it."""
    config, strategy, requests = case
    try:
        rows, recorder, engine = play(config, strategy, requests)
    except EngineStuck:
        return  # a retracted request may need more than there is once it has grown
    totals = recorder.totals
    assert totals.requests == len(requests) == totals.finished + totals.rejected
    assert totals.unfinished == 0
    assert len({row.id for row in rows}) == len(rows) == totals.finished
    for row in rows:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
        assert (row.output_tokens == 1) <= (row.finish_s == row.first_token_s)
    for prefill in members(engine.prefills):
        assert prefill.scheduler.pool.unreferenced == prefill.config.pool_tokens
    for decode in members(engine.decodes):
        assert decode.scheduler.pool.free == decode.config.pool_tokens
    parts = engine.breakdown.parts
    assert list(parts) == list(PARTS)
    assert all(seconds >= 0 for part in parts.values() for seconds in part)
    ttft = sorted(map(sum, zip(*parts.values(), strict=True)))
    assert ttft == pytest.approx(sorted(recorder.ttft_s), abs=1e-9)
    page = config.page_size
    sent = sum(-(-row.prompt_tokens // page) for row in rows)
    aborted = [count for why, count in recorder.rejections.items() if why.startswith("aborted")]
    assert engine.fabric.moved_bytes >= sent * 100
    assert aborted or engine.fabric.moved_bytes == sent * 100


@fuzz(80)
@given(deployments())
def test_steps_taken_in_bulk_are_steps_taken_one_by_one(case: Case) -> None:
    """With a decision log every step is planned."""
    assert told(case) == told(case, log=True)


@examples(25)
@given(deployments())
def test_runs_repeat_exactly(case: Case) -> None:
    assert told(case) == told(case)


def test_queues_that_were_not_compared_are_refused() -> None:
    config = SglangConfig(1000)
    for options in (
        {"schedule_policy": "lof"}, {"enable_priority_scheduling": True}, {"max_queued_requests": 4},
        {"min_free_slots_delay": 2},
    ):  # fmt: skip
        with pytest.raises(UsageError, match="SGLang's queue") as refused:
            one_of_each(config).sglang_engine(replace(config, **options), CLOCK, Recorder())  # type: ignore[arg-type]
        assert refused.value.where == f"engine.{next(iter(options))}"


@examples(50)
@given(runs())
def test_prompts_are_computed_as_by_an_engine_that_is_asked_for_one_token(
    case: tuple[SglangConfig, list[Request]],
) -> None:
    """A link that takes no time and room for everybody: nothing behind the prefill server is seen in it."""
    config, requests = case
    config = generous(between_servers(config), requests)
    asked = [item._replace(output=((item.output[0][0], 1),), output_tokens=1) for item in requests]
    split, _, _ = play(config, one_of_each(config), asked)
    rows: list[RequestRow] = []
    SglangReplica(config, CLOCK, Recorder(on_request=rows.append)).run(asked)
    assert sorted(split) == sorted(rows)


@examples(30)
@given(runs(), st.integers(1, 40))
def test_a_lone_request_takes_what_the_engine_takes(
    case: tuple[SglangConfig, list[Request]], apart: int
) -> None:
    """Over a link that takes no time two servers are one: no token is computed twice."""
    config, requests = case
    # The prefill server never hears the answers, so it cannot cache them either.
    config = replace(
        generous(between_servers(config), requests), disable_overlap_schedule=True, disable_radix_cache=True
    )
    alone = [item._replace(arrival_s=100.0 * number * apart) for number, item in enumerate(requests)]
    split, _, _ = play(config, one_of_each(config), alone)
    rows: list[RequestRow] = []
    SglangReplica(config, CLOCK, Recorder(on_request=rows.append)).run(alone)
    for ours, theirs in zip(split, rows, strict=True):
        assert (ours.id, ours.scheduled_s) == (theirs.id, theirs.scheduled_s)
        assert ours.first_token_s == pytest.approx(theirs.first_token_s, abs=1e-9)
        assert ours.finish_s == pytest.approx(theirs.finish_s, abs=1e-9)


# -- the decode server's budget -------------------------------------------------------------------------------


def decode_server(pool_tokens: int, options: DecodeOptions, **kwargs: object) -> DecodeScheduler:
    config = replace(SglangConfig(pool_tokens), disable_radix_cache=True, **kwargs)  # type: ignore[arg-type]
    return DecodeScheduler(config, options, keep_schedule=False)


def asked(name: str, prompt: int, output: int) -> HandedSglangRequest:
    return HandedSglangRequest(a_request(name, prompt, output))


@pytest.mark.parametrize("ranks", [None, Ranks(1)])
@pytest.mark.parametrize("overlap", [True, False])
def test_who_has_only_a_first_token_goes_one_by_one_where_one_may_run(
    overlap: bool, ranks: Ranks | None
) -> None:
    """Each round has somebody end and nobody decode; the next one must not wait for something to come."""
    config = replace(SglangConfig(1000), max_running_requests=4, disable_overlap_schedule=not overlap)
    alone = replace(config, max_running_requests=1)
    strategy = SglangDisaggregation(
        FREE, 100, PoolPlan(config=config), PoolPlan(config=alone, ranks=ranks), DecodeOptions(0, 8)
    )
    asking = [a_request("0", 10, 100), *(a_request(name, 10, 1) for name in "1234")]
    rows, _, _ = play(config, strategy, asking)
    assert len(rows) == 5


def test_room_is_kept_for_everybody_who_runs_or_will() -> None:
    server = decode_server(1000, DecodeOptions(100, 10))
    for name in "0123":
        server.add(asked(name, 200, 5))
    server.schedule()
    # 1000 - 200 - 100 for the first leaves 700, which the second's 200 + 100 fit into; then 1000 - 400 - 200.
    assert [request.request.id for request in server.reserved] == ["0", "1", "2"]
    assert server.pool.free == 400


def test_who_runs_must_be_able_to_end_when_all_others_are_retracted() -> None:
    server = decode_server(1000, DecodeOptions(0, 10), disable_overlap_schedule=True)
    long = asked("0", 100, 800)
    server.add(long)
    server.schedule()
    server.arrived(long)
    server.deliver(server.schedule())
    # 899 tokens are free, and 102 of its 900 are known.
    server.add(asked("1", 102, 5))
    server.deliver(server.schedule())
    assert not server.reserved
    server.expected.clear()
    server.add(asked("2", 101, 5))
    server.schedule()
    assert [request.request.id for request in server.reserved] == ["2"]


def test_extra_slots_are_those_of_small_batches() -> None:
    assert [default_extra_slots(given) for given in (None, 1, 32, 33)] == [0, 2, 64, 0]
    with pytest.raises(UsageError, match="extra_slots is -1"):
        DecodeOptions(extra_slots=-1)


def test_what_would_wait_for_ever_is_refused() -> None:
    config = replace(SglangConfig(1000), page_size=16)
    options = DecodeOptions(512)
    assert not options.never_fits(480, 100, config)
    assert options.never_fits(481, 100, config)
    server = DecodeReplica(config, options, CLOCK, Recorder(), None)  # type: ignore[arg-type]
    request = a_request("0", 481, 100)
    assert server.refusal(request) == (
        "prompt and num_reserved_decode_tokens larger than the pool: it would wait for ever"
    )
