"""SGLang's ranks above a second pool, for recurrent states or for windows: one rank is the engine itself, steps
taken in bulk are single ones, and every rank gives back what it took."""

from __future__ import annotations

from collections.abc import Sequence

from drafted_workloads import workloads
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from served import request

from kvplan.engine.lockstep.sglang import SglangLockstepEngine
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.engine.speculation.acceptance import geometric
from kvplan.engine.speculation.metrics import SECTION
from kvplan.engine.speculation.rules import sglang_rules_of
from kvplan.engine.speculation.strategy import Speculation
from kvplan.engine.strategy import Engine, Strategy
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
POOLS = (
    RecurrentStates(StateRules(60, 4, spare=True, interval=8)),
    RecurrentStates(StateRules(70, 16, spare=True, interval=256)),
    WindowPools(SlidingWindows(16, 400, 4)),
    WindowPools(SlidingWindows(40, 180, 128)),
)


class Told:
    """What an engine makes of requests."""

    def __init__(
        self, strategy: Strategy, config: SglangConfig, requests: Sequence[Request], *, log: bool = False
    ) -> None:
        self.rows: list[RequestRow] = []
        self.lines: list[str] = []
        self.recorder = Recorder(on_request=self.rows.append, on_decision=self.lines.append if log else None)
        self.recorder.series_stride = 1000  # a point of the series ends bulk steps
        self.engine: Engine = strategy.sglang_engine(config, CLOCK, self.recorder)  # type: ignore[attr-defined]
        self.engine.run(requests)
        self.engine.close()

    @property
    def answers(self) -> tuple[object, ...]:
        return self.rows, self.recorder.totals.to_dict(), self.recorder.series


@fuzz(150)
@given(
    requests=workloads(), pool=st.sampled_from(POOLS), ranks=st.integers(1, 3), tight=st.booleans(),
    overlap=st.booleans(), page=st.sampled_from((1, 4)), interval=st.sampled_from((0, 0, 3)),
)  # fmt: skip
def test_ranks_with_a_second_pool(
    requests: list[Request], pool: RecurrentStates | WindowPools, ranks: int, tight: bool, overlap: bool,
    page: int, interval: int,
) -> None:  # fmt: skip
    config = SglangConfig(
        pool_tokens=200 if tight else 900, page_size=page, context_length=160, max_running_requests=8,
        chunked_prefill_size=64, disable_overlap_schedule=not overlap, prefill_decode_interval=interval,
    )  # fmt: skip
    strategy = DataParallelAttention(ranks, "round-robin").with_pool(pool)
    bulk, single = (Told(strategy, config, requests, log=log) for log in (False, True))
    assert bulk.answers == single.answers
    assert bulk.recorder.sections == single.recorder.sections
    totals = bulk.recorder.totals
    assert totals.finished + totals.rejected == len(requests)
    assert isinstance(bulk.engine, SglangLockstepEngine)
    for rank in bulk.engine.ranks:
        assert rank.scheduler.pool.unreferenced == config.pool_tokens
    if ranks == 1:
        alone = Told(pool, config, requests)
        assert alone.answers == bulk.answers
        sections = bulk.recorder.sections
        assert {f"{name} 0": told for name, told in alone.recorder.sections.items()} == {
            name: told for name, told in sections.items() if name != "dp_attention"
        }


def test_drafts_know_of_the_pool() -> None:
    asked = [request(f"r{number}", 30, 12, start=900 * number) for number in range(4)]
    config = SglangConfig(900, max_running_requests=8)
    drafts = Speculation(sglang_rules_of("mtp", 2), geometric(1.0, 2, 0), states=POOLS[0].rules)  # type: ignore[union-attr]
    told = Told(DataParallelAttention(2, "round-robin").with_drafts(drafts), config, asked)
    assert set(told.recorder.sections) == {
        "dp_attention",
        SECTION,
        "recurrent states 0",
        "recurrent states 1",
    }
    assert told.recorder.totals.finished == 4
