"""Laws of ranks whose requests have drafts: one rank is the engine itself, and drafts are made by all or none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from drafted_workloads import workloads
from hypothesis import given, settings
from hypothesis import strategies as st
from served import request

from kvplan.engine.config import EngineConfig
from kvplan.engine.lockstep.drafted import DraftedLockstepEngine
from kvplan.engine.lockstep.sglang_drafted import DraftedSglangLockstepEngine
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.protocols import StepBatch
from kvplan.engine.recorder import Metric, Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.speculation.acceptance import geometric
from kvplan.engine.speculation.metrics import SECTION
from kvplan.engine.speculation.rules import Method, rules_of, sglang_rules_of
from kvplan.engine.speculation.strategy import Speculation
from kvplan.engine.strategy import Engine
from kvplan.errors import UsageError
from kvplan.traces.request import Request

NEW, OLD = (0, 33, 0), (0, 28, 0)
METHODS: tuple[Method, ...] = ("mtp", "draft_model")


class Clock:
    """A draft takes as long as a step with a few tokens; drafts made after each step are noted."""

    def __init__(self) -> None:
        self.drafting: list[int] = []

    def step_seconds(self, batch: StepBatch) -> float:
        self.drafting.append(batch.drafting)
        batch.drafting_s = 1e-3 * batch.drafting
        return 5e-3 + 2e-4 * batch.scheduled_tokens + 1e-5 * batch.decode_context + batch.drafting_s


class Told:
    """What an engine makes of requests; ``ranks`` 0: one engine of them alone."""

    def __init__(
        self, config: EngineConfig | SglangConfig, drafts: Speculation, ranks: int, requests: Sequence[Request],
        *, log: bool = False,
    ) -> None:  # fmt: skip
        self.rows: list[RequestRow] = []
        self.lines: list[str] = []
        self.clock = Clock()
        self.recorder = Recorder(on_request=self.rows.append, on_decision=self.lines.append if log else None)
        strategy = DataParallelAttention(ranks, "round-robin").with_drafts(drafts) if ranks else drafts
        build = strategy.engine if isinstance(config, EngineConfig) else strategy.sglang_engine
        self.engine: Engine = build(config, self.clock, self.recorder)  # type: ignore[arg-type]
        self.engine.run(requests)
        self.engine.close()

    @property
    def answers(self) -> tuple[object, ...]:
        return self.rows, self.recorder.totals.to_dict(), self.recorder.series, self.figures

    @property
    def figures(self) -> list[Metric]:
        return self.recorder.sections[SECTION]


def vllm(method: Method, drafts: int, chance: float, version: tuple[int, int, int] = NEW) -> Speculation:
    return Speculation(rules_of(method, drafts, version), geometric(chance, drafts, 3))


def sglang(method: Method, drafts: int, chance: float) -> Speculation:
    return Speculation(sglang_rules_of(method, drafts), geometric(chance, drafts, 3))


DRAWN = {
    "requests": workloads(), "drafts": st.integers(1, 4),
    "chance": st.sampled_from((0.0, 0.6, 1.0)), "ahead": st.booleans(), "tight": st.booleans(),
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(**DRAWN, method=st.sampled_from(METHODS), version=st.sampled_from((NEW, OLD)), ranks=st.integers(1, 3))
def test_vllms_ranks_serve_everybody_and_one_of_them_is_the_engine_itself(
    requests: list[Request], method: Method, drafts: int, chance: float, ahead: bool, tight: bool,
    version: tuple[int, int, int], ranks: int,
) -> None:  # fmt: skip
    config = EngineConfig(
        num_blocks=30 if tight else 200, block_size=4, max_model_len=110, max_num_batched_tokens=64,
        max_num_seqs=8, async_scheduling=ahead,
    )  # fmt: skip
    speculation = vllm(method, drafts, chance, version)
    told = Told(config, speculation, ranks, requests)
    totals = told.recorder.totals
    assert totals.finished + totals.rejected == len(requests)
    assert isinstance(told.engine, DraftedLockstepEngine)
    for rank in told.engine.ranks:
        assert rank.scheduler.free_blocks == rank.config.usable_blocks
    if ranks == 1:
        assert told.answers == Told(config, speculation, 0, requests).answers


@settings(max_examples=60, deadline=None)
@given(**DRAWN, mixed=st.booleans(), ranks=st.integers(1, 3))
def test_sglangs_ranks_serve_everybody_and_one_of_them_is_the_engine_itself(
    requests: list[Request], drafts: int, chance: float, ahead: bool, tight: bool, mixed: bool, ranks: int
) -> None:  # fmt: skip
    config = SglangConfig(
        pool_tokens=150 if tight else 900, context_length=160, max_running_requests=8, chunked_prefill_size=64,
        disable_overlap_schedule=not ahead, enable_mixed_chunk=mixed,
    )  # fmt: skip
    speculation = sglang("mtp", drafts, chance)
    told = Told(config, speculation, ranks, requests)
    totals = told.recorder.totals
    assert totals.finished + totals.rejected == len(requests)
    assert isinstance(told.engine, DraftedSglangLockstepEngine)
    for rank in told.engine.ranks:
        assert rank.scheduler.pool.unreferenced == rank.config.pool_tokens
    if ranks == 1:
        assert told.answers == Told(config, speculation, 0, requests).answers


@pytest.mark.parametrize("overlap", [True, False])
def test_sglang_decodes_nowhere_while_a_rank_computes_prompts(
    overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[tuple[bool, bool]] = []
    launch = DraftedSglangLockstepEngine._launch

    def watched(self: DraftedSglangLockstepEngine, plans: tuple[SglangPlan, ...]) -> float:
        kinds.append((any(plan.extends for plan in plans), any(plan.decodes for plan in plans)))
        return launch(self, plans)

    monkeypatch.setattr(DraftedSglangLockstepEngine, "_launch", watched)
    config = SglangConfig(pool_tokens=900, disable_overlap_schedule=not overlap)
    asked = [request("a", 20, 30), request("b", 30, 9, arrival_s=0.05), request("c", 9, 9, arrival_s=0.1)]
    told = Told(config, sglang("mtp", 2, 0.5), 3, asked)
    assert set(kinds) == {(True, False), (False, True)}
    # While b's and c's prompts were computed, a waited, whose rank ran empty.
    found = {metric.name: metric.value for metric in told.recorder.sections["dp_attention"]}
    assert kinds.count((True, False)) == 3
    assert found["idle"] > 0


def test_vllms_ranks_make_drafts_together_or_not_at_all() -> None:
    """One computes a prompt in steps after which nobody could use drafts, the other one decodes."""
    config = EngineConfig(num_blocks=100, max_num_batched_tokens=8, async_scheduling=False)
    drafts = vllm("mtp", 2, 0.0)
    alone = Told(config, drafts, 0, [request("long", 32, 3)])
    # Three steps of four leave the prompt unfinished, and the last of all brings the last token.
    assert alone.clock.drafting == [0, 0, 0, 2, 2, 0]
    both = Told(config, drafts, 2, [request("long", 32, 3), request("short", 4, 9)])
    assert both.clock.drafting[:12] == [2] * 12
    # Nobody would use drafts of a step with prompts only: they are left out where both ranks agree.
    prompts = Told(config, drafts, 2, [request("long", 32, 3), request("longer", 32, 3, start=500)])
    assert prompts.clock.drafting == [0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 0, 0]
    # An empty batch does not agree.
    idle = Told(config, drafts, 2, [request("long", 32, 3)])
    assert set(idle.clock.drafting) == {2}


def test_outputs_leave_before_drafts_are_made() -> None:
    config = EngineConfig(num_blocks=100, async_scheduling=False)
    asked = [request("a", 20, 4), request("b", 40, 4, start=900)]
    new, old = (Told(config, vllm("draft_model", 2, 1.0, version), 2, asked) for version in (NEW, OLD))
    first, later = ({row.id: row.first_token_s for row in told.rows} for told in (new, old))
    # Both have their first token when the longer prompt is through.
    assert first["a"] == first["b"] == pytest.approx(5e-3 + 40 * 2e-4)
    assert later["a"] == pytest.approx(first["a"] + 2e-3)
    # The next step begins when they are made, and makes none: nobody could use them.
    assert max(row.finish_s for row in new.rows) == pytest.approx(later["a"] + 5e-3 + 6e-4 + 43e-5)


def test_drafts_of_all_ranks_are_counted_together() -> None:
    asked = [request(f"r{number}", 20, 7, start=1000 * number) for number in range(4)]
    config = EngineConfig(num_blocks=100)
    told = Told(config, vllm("mtp", 2, 1.0), 2, asked)
    assert [name for name in told.recorder.sections if name.startswith(SECTION)] == [SECTION]
    assert {metric.name: metric.value for metric in told.figures}["steps"] == 4 * 2


def test_no_model_drafts_for_sglangs_ranks() -> None:
    """``_handle_eagle_family`` refuses ``STANDALONE`` below data-parallel attention."""
    with pytest.raises(UsageError, match="another model drafts"):
        Told(SglangConfig(pool_tokens=900), sglang("draft_model", 2, 0.5), 2, [])
