"""Cases of SGLang's prefill and decode servers, and playing them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from pools import Line
from radix_runs import between_servers, runs
from workloads import stride_of

from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.pool import Ranks
from kvplan.engine.disaggregation.sglang.engine import SglangPoolsEngine
from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.strategy import SglangDisaggregation
from kvplan.engine.disaggregation.strategy import PoolPlan
from kvplan.engine.errors import EngineStuck
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.router import ROUTERS
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.speculation.acceptance import geometric
from kvplan.engine.speculation.rules import sglang_rules_of
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
FREE = (Stage("link", Line(float("inf"), 0.0), prefill=True, decode=True, link=True),)

Case = tuple[SglangConfig, SglangDisaggregation, list[Request]]


@st.composite
def deployments(draw: st.DrawFn) -> Case:
    """Pools down to the smallest that can serve a request at all, links from none to hopeless."""
    config, requests = draw(runs())
    config = replace(between_servers(config), enable_mixed_chunk=False)
    options = DecodeOptions(draw(st.sampled_from([0, 1, 8, 64])), draw(st.sampled_from([0, 0, 1, 5])))

    def pool() -> PoolPlan:
        more = draw(st.sampled_from([0, 0, 4, 64, 1000])) * config.page_size
        own = replace(
            config,
            pool_tokens=config.pool_tokens + more,
            max_running_requests=draw(st.sampled_from([1, 2, config.max_running_requests])),
        )
        router = draw(st.sampled_from(ROUTERS.names()))
        return PoolPlan(draw(st.integers(1, 3)), router, own, CLOCK, draw(ranks()))

    carrier = Line(
        draw(st.sampled_from([1e3, 1e5, 1e9, float("inf")])), draw(st.sampled_from([0.0, 1e-4, 0.02]))
    )
    link = Stage("link", carrier, prefill=True, decode=True, link=True)
    return config, SglangDisaggregation((link,), 100, pool(), pool(), options, draw(drafts())), requests


def ranks() -> st.SearchStrategy[Ranks | None]:
    """None half of the time."""
    routers = st.sampled_from([None, *ROUTERS.names()])
    return st.one_of(st.none(), st.builds(Ranks, st.integers(1, 3), st.just(1), routers))


def drafts() -> st.SearchStrategy[Speculation | None]:
    """None half of the time."""
    return st.one_of(st.none(), st.builds(speculation, st.integers(1, 4), st.sampled_from([0.0, 0.6, 1.0])))


def speculation(tokens: int, chance: float) -> Speculation:
    return Speculation(sglang_rules_of("eagle", tokens), geometric(chance, tokens, 3))


def play(
    config: SglangConfig, strategy: SglangDisaggregation, requests: list[Request], *, log: bool = False
) -> tuple[list[RequestRow], Recorder, SglangPoolsEngine]:
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    recorder.series_stride = stride_of(requests)
    engine = strategy.sglang_engine(config, CLOCK, recorder)
    engine.run(requests)
    engine.close()
    return rows, recorder, engine


def told(case: Case, *, log: bool = False) -> tuple[object, ...]:
    """Rows, totals and section of a run, or why it is stuck (SGLang's own rules allow it)."""
    try:
        rows, recorder, _ = play(*case, log=log)
    except EngineStuck as exc:
        return (exc.message,)
    return rows, recorder.totals.to_dict(), recorder.series, recorder.sections["disaggregation"]


def generous(config: SglangConfig, requests: list[Request]) -> SglangConfig:
    room = sum(item.prompt_tokens + item.output_tokens + 4 * config.page_size for item in requests)
    room += -room % config.page_size
    return replace(
        config, pool_tokens=room + 4096 * config.page_size, max_running_requests=4096, context_length=100_000,
        enable_mixed_chunk=False, prefill_decode_interval=0,
    )  # fmt: skip


def one_of_each(config: SglangConfig) -> SglangDisaggregation:
    return SglangDisaggregation(FREE, 100, PoolPlan(), PoolPlan(), DecodeOptions(0, 4096))


def a_request(name: str, prompt: int, output: int) -> Request:
    start = 1000 * (int(name) + 1)
    return Request(name, 0.0, ((start, prompt),), prompt, ((start + 500, output),), output)
