"""Laws of drafts beside loads: a source without anything changes nothing, and every block comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from drafted_loads import DraftRemoteReplica
from drafted_workloads import workloads
from hypothesis import given, settings
from hypothesis import strategies as st
from no_source import NoSource

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.journey import FirstToken
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.engine.live import LiveRequest
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.speculation.acceptance import geometric
from kvplan.engine.speculation.replica import DraftReplica
from kvplan.engine.speculation.rules import rules_of
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CONFIG = EngineConfig(
    num_blocks=24, block_size=8, max_model_len=120, max_num_seqs=4, max_num_batched_tokens=32
)
CLOCK = LinearLatency(1e-3, 1e-5, 1e-8)
RULES = rules_of("mtp", 2, (0, 33, 0))


class Everything:
    """Has all that is known, and brings it in a tenth of a second or at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def lookup(self, request: LiveRequest, start: int) -> int:
        return request.num_tokens - start

    def fetch(self, request: LiveRequest, start: int, tokens: int, now: float) -> float:
        return now + self.seconds


class Link:
    def seconds(self, size: int, operations: int = 1) -> float:
        return 1e-3 + 1e-4 * size


def rows_of(make: Any, requests: list[Request]) -> tuple[list[RequestRow], list[str], Any]:
    rows: list[RequestRow] = []
    lines: list[str] = []
    engine = make(Recorder(on_request=rows.append, on_decision=lines.append))
    engine.run(requests)
    engine.close()
    return rows, lines, engine


def test_beside_a_connector_blocks_are_known_as_before() -> None:
    beside = RULES.with_connector()
    assert (RULES.hash_lookahead, RULES.drops_block) == (1, False)
    assert (beside.hash_lookahead, beside.drops_block) == (0, True)
    assert beside.with_connector() == beside
    own = rules_of("draft_model", 2, (0, 33, 0))
    assert own.with_connector() == own


@settings(max_examples=40, deadline=None)
@given(workloads())
def test_a_source_of_nothing_changes_nothing(requests: list[Request]) -> None:
    config = replace(CONFIG, async_scheduling=False)
    stood = geometric(0.6, 2, 1)
    plain = rows_of(
        lambda recorder: DraftReplica(
            config, CLOCK, recorder, rules=RULES.with_connector(), acceptance=stood
        ),
        requests,
    )
    beside = rows_of(
        lambda recorder: DraftRemoteReplica(
            config, CLOCK, recorder, NoSource(), rules=RULES, acceptance=stood
        ),
        requests,
    )
    assert plain[:2] == beside[:2]


@settings(max_examples=40, deadline=None)
@given(workloads(), st.sampled_from([0.0, 0.1]), st.booleans())
def test_all_blocks_come_back(requests: list[Request], seconds: float, overlapping: bool) -> None:
    config = replace(CONFIG, async_scheduling=overlapping)
    rows, _, engine = rows_of(
        lambda recorder: DraftRemoteReplica(
            config, CLOCK, recorder, Everything(seconds), rules=RULES, acceptance=geometric(0.6, 2, 1)
        ),
        requests,
    )
    scheduler = engine.scheduler
    assert scheduler.free_blocks == config.usable_blocks
    assert not scheduler.fenced
    assert not scheduler.queue
    totals = engine.recorder.totals
    assert len(rows) == totals.finished == totals.requests - totals.rejected


@settings(max_examples=25, deadline=None)
@given(workloads(), st.sampled_from([0, 3]))
def test_pools_that_draft_serve_everybody(requests: list[Request], layers: int) -> None:
    config = CONFIG
    strategy = Disaggregation(
        (Stage("link", Link(), prefill=True, decode=True, link=True),),
        1,
        PoolPlan(2),
        PoolPlan(2),
        layers,
        drafts=Speculation(RULES, geometric(0.6, 2, 1)),
    )
    rows, _, engine = rows_of(lambda recorder: strategy.engine(config, CLOCK, recorder), requests)
    for replica in (*engine.prefills, *engine.decodes):
        assert replica.scheduler.free_blocks == config.usable_blocks
        assert not replica.scheduler.has_requests
    totals = engine.recorder.totals
    assert len(rows) == totals.finished == totals.requests - totals.rejected


def test_a_prompt_that_fills_the_pool_is_served_behind_a_first_token_from_the_prefill_instance() -> None:
    """The load brings the prompt; the token behind it needs no places of its own beside those of the drafts."""
    config = replace(CONFIG, num_blocks=10, max_model_len=72)
    route = (Stage("link", Link(), prefill=True, decode=True, link=True),)
    drafts = Speculation(RULES, geometric(0.6, 2, 1))
    strategy = Disaggregation(route, 1, first_token=FirstToken.PREFILL, drafts=drafts)
    asked = Request("full", 0.0, ((0, 64),), 64, ((1000, 2),), 2)
    rows, _, engine = rows_of(lambda recorder: strategy.engine(config, CLOCK, recorder), [asked])
    assert [row.id for row in rows] == ["full"]
    assert engine.recorder.totals.rejected == 0
