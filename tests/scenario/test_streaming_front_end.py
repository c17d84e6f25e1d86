"""A front end whose thread hands tokens out, in a scenario."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import SpecError, UnknownName, UsageError
from kvplan.latency.client import OUTPUT_SHARE, client_overhead
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

BASE = {
    "model": "llama-3.2-1b", "gpu": "l40s", "workload.synthesize": "fixed", "workload.requests": 60,
    "workload.rate": 40.0, "workload.output_tokens": "uniform:20-60", "latency.model": "roofline",
    "accuracy.ensemble": 4,
}  # fmt: skip
CHUNK, OUTPUT = "latency.api_server_chunk_s", "latency.api_server_output_s"


def result(**more: object) -> dict[str, Any]:
    run = Run(load_scenario(None, {**BASE, **more}))
    run.execute()
    return run.result(["x"])


def test_it_is_in_the_assumptions_the_clients_and_the_interval() -> None:
    without, slow = result(), result(**{CHUNK: 1e-3})
    assert slow["latency"]["ttft_s"]["mean"] > without["latency"]["ttft_s"]["mean"]
    told = {item["name"]: item for item in slow["assumptions"]}
    assert told[CHUNK]["value"] == 1e-3
    assert told[OUTPUT]["value"] == OUTPUT_SHARE * 1e-3
    assert "assumed" in told[OUTPUT]["source"]
    about = {item["name"]: item["value"] for item in slow["strategies"]["clients"]}
    assert 0.0 < about["front_end_busy"] <= 1.0
    assert about["chunk_tokens"] >= 1.0
    low, high = slow["accuracy"]["intervals"]["ttft_s"]["mean"]
    assert low <= slow["latency"]["ttft_s"]["mean"] <= high


def test_nothing_changes_where_it_is_nothing() -> None:
    nothing, without = result(**{CHUNK: 0.0}), result()
    for part in ("latency", "totals", "strategies", "assumptions"):
        assert nothing[part] == without[part]


def test_work_on_outputs_may_be_given_alone_and_as_nothing() -> None:
    alone, _ = client_overhead({"api_server_output_s": 1e-4})
    assert (alone.output_s, alone.chunk_s, alone.streams) == (1e-4, 0.0, True)
    none, _ = client_overhead({"api_server_chunk_s": 1e-4, "api_server_output_s": 0.0})
    assert (none.output_s, none.chunk_s, none.streams) == (0.0, 1e-4, True)


@pytest.mark.parametrize("value", [-1e-6, 0.5, "fast", True, float("nan")])
def test_no_such_time(value: object) -> None:
    with pytest.raises(SpecError) as error:
        client_overhead({"api_server_chunk_s": value})
    assert "api_server_chunk_s" in str(error.value)


def test_a_misspelt_constant_is_named() -> None:
    with pytest.raises(UnknownName):
        client_overhead({"api_server_chunks_s": 1e-4})


@pytest.mark.parametrize(
    ("more", "what"),
    [({"parallel.replicas": 2}, "several replicas"), ({"sampling.n": 2}, "not of"),
     ({"tiers": {"host": {"memory": "8GiB"}}}, "not of")],
)  # fmt: skip
def test_several_instances_and_others_that_wait_are_refused(more: dict[str, object], what: str) -> None:
    with pytest.raises(UsageError) as error:
        Run(load_scenario(None, {**BASE, **more, CHUNK: 1e-4}))
    assert what in str(error.value)
    assert "api_server_chunk_s" in str(error.value)


def test_clients_that_give_up_are_refused() -> None:
    run = Run(load_scenario(None, {**BASE, "workload.timeout_s": 30.0, CHUNK: 1e-4}))
    with pytest.raises(UsageError):
        run.execute()


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"workload.max_in_flight": 8},
        {"model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8, "speculative.method": "mtp",
         "speculative.tokens": 1, "speculative.acceptance": 0.8},
    ],
)  # fmt: skip
def test_steps_are_heard_of_at_their_times(
    kind: str, more: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every first and last token is of a step that the front end was told of, to the last bit."""
    from kvplan.engine.streaming import Streamer

    of, seen = Streamer._of, []

    def checked(self: Streamer, time_s: float) -> tuple[float, int, int]:
        assert time_s in self._ended_s
        seen.append(time_s)
        return of(self, time_s)

    monkeypatch.setattr(Streamer, "_of", checked)
    run = Run(load_scenario(None, {**BASE, **more, "engine.kind": kind, CHUNK: 3e-4, "accuracy.ensemble": 0}))
    run.execute()
    assert len(seen) == 120
