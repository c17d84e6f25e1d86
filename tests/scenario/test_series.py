"""Recording a series changes no outcome, whatever engine it is of: its points only cut short what is done at once."""

from __future__ import annotations

import pytest

from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

VLLM = (
    "latency={model: linear, a: 0.005, b: 2e-5, c: 1e-8}",
    "workload={synthesize: chat, requests: 150, rate: 12}",
    "accuracy={ensemble: 0}",
    "engine={max_model_len: 8192, max_num_seqs: 24, max_num_batched_tokens: 2048}",
)
SGLANG = (*VLLM[:3], "engine={kind: sglang, context_length: 8192, max_total_tokens: 20000}")
DRAFTS = "speculative={method: draft_model, model: llama-3.2-1b, tokens: 3, acceptance: 0.7}"
H100 = ("model=llama-3.1-8b", "gpu=h100-sxm")
POOL = "cache.blocks=900"
LINK = "disaggregation={prefill: {instances: 2}, decode: {instances: 2}, bandwidth: 2e9, bytes_per_token: 100000}"

OBSERVED = ("used_share", "reserved_share", "fragmentation", "fragmentation_peak")
"""Looked at where the series has its points, so that it is a series itself."""

ENGINES: dict[str, tuple[str, ...]] = {
    "vllm": (*VLLM, POOL),
    "vllm in turn": (*VLLM, POOL, "engine.async_scheduling=false"),
    "groups": (*VLLM, "model=gpt-oss-20b", "gpu=h100-sxm", "cache.blocks=1500"),
    "states": (*VLLM, "model=qwen3-next-80b-a3b", "gpu=h200-sxm", "parallel.tp=2", "cache.blocks=400"),
    "drafts": (*VLLM, *H100, POOL, "speculative={method: ngram, tokens: 3, acceptance: 0.5}"),
    "replicas": (*VLLM, POOL, "parallel.replicas=3"),
    "pools": (*VLLM, POOL, LINK),
    "pools by layer": (*VLLM, POOL, LINK, "disaggregation.streaming=layerwise", "disaggregation.layers=8"),
    "tiers": (*VLLM, *H100, POOL, "tiers={host: {memory: 8GiB}}"),
    "offloading": (*VLLM, *H100, POOL, "tiers={host: {memory: 8GiB, connector: offloading}}"),
    "swap": (*VLLM, *H100, POOL, "engine.preemption=swap", "cache.host_memory=8GiB"),
    "slots": (*VLLM, POOL, "cache.allocation=slots"),
    "retention": (*VLLM, POOL, "cache.retention='streaming:4+1020'"),
    "samples": (*VLLM, POOL, "sampling={n: 2}"),
    "sglang": SGLANG,
    "sglang in turn": (*SGLANG, "engine.disable_overlap_schedule=true"),
    "sglang's host, through": (*SGLANG, *H100, "tiers={host: {memory: 8GiB, write: through}}"),
    "sglang's host, selective": (*SGLANG, *H100, "tiers={host: {memory: 8GiB, write: selective}}"),
    "sglang's host, back": (*SGLANG, *H100, "tiers={host: {memory: 8GiB, write: back}}"),
    "sglang's windows": (*SGLANG, "model=gpt-oss-20b", "gpu=h100-sxm"),
    "sglang's states": (*SGLANG, "model=qwen3-next-80b-a3b", "gpu=h200-sxm", "parallel.tp=2"),
    "sglang's drafts": (*SGLANG, *H100, DRAFTS),
}


@pytest.mark.parametrize("name", ENGINES)
def test_recording_a_series_changes_no_outcome(name: str) -> None:
    for seed in range(3):
        run = Run(load_scenario(None, {}, [*ENGINES[name], f"seed={seed}"]))
        found = []
        for series in (True, False):
            rows: list[RequestRow] = []
            recorder = Recorder(on_request=rows.append, series=series)
            engine = run.system.engine("fast", run.clock.model, recorder)
            engine.run(run.workload.requests())
            engine.close()
            assert rows
            assert (len(recorder.series) > 10) == series
            sections = {
                name: [metric for metric in metrics if not metric.name.endswith(OBSERVED)]
                for name, metrics in recorder.sections.items()
            }
            found.append((sorted(rows), recorder.totals.to_dict(), sections, recorder.rejections))
        assert found[0] == found[1]
