"""SGLang in a scenario: its option names, and what they and ``cache`` both say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.eviction import EvictionParameters
from kvplan.errors import KvplanError, UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.scenario.load import dump_scenario, load_scenario
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.run import Run
from kvplan.scenario.system import system_of

BASE = [
    "engine.kind=sglang",
    "cache.blocks=5000",
    "latency={model: linear, a: 5.0e-3, b: 2.0e-5, c: 1.0e-8}",
    "workload={synthesize: fixed, requests: 20, rate: 5}",
]


def config_of(*assignments: str) -> SglangConfig:
    config = resolve_deployment(load_scenario(None, {}, [*BASE, *assignments])).config
    assert isinstance(config, SglangConfig)
    return config


def build(assignments: list[str]) -> None:
    scenario = load_scenario(None, {}, assignments)
    system = system_of(scenario, resolve_deployment(scenario))
    system.engine("fast", LinearLatency(1.0, 0.0, 0.0), Recorder())


def test_options_reach_the_engine_under_their_own_names() -> None:
    config = config_of(
        "engine.page_size=4", "engine.max_running_requests=7", "engine.chunked_prefill_size=512",
        "engine.schedule_policy=lpm", "engine.schedule_conservativeness=0.5",
        "engine.radix_eviction_policy=slru", "engine.context_length=4096", "engine.disable_overlap_schedule=true",
        "engine.prefill_max_requests=3", "engine.prefill_decode_interval=5", "engine.prefill_decode_interval_min_bs=2",
    )  # fmt: skip
    assert config == SglangConfig(
        20_000, 4, 4096, 7, 512, schedule_policy="lpm", schedule_conservativeness=0.5,
        radix_eviction_policy="slru", disable_overlap_schedule=True, prefill_max_requests=3,
        prefill_decode_interval=5, prefill_decode_interval_min_bs=2,
    )  # fmt: skip


def test_parameters_of_eviction_reach_the_engine() -> None:
    assert config_of(
        "engine.radix_eviction_policy=slru", "engine.radix_eviction_policy_config.protected_threshold=4"
    ).radix_eviction_policy_config == EvictionParameters(protected_threshold=4)
    config = config_of(
        "cache.eviction=tlru",
        "engine.radix_eviction_policy_config={threshold: 4k, next_prompt_estimate: 512}",
    )
    assert config.radix_eviction_policy == "tlru"
    assert config.radix_eviction_policy_config == EvictionParameters(threshold=4096, next_prompt_estimate=512)


@pytest.mark.parametrize("policy", ["fifo", "mru", "filo"])
def test_orders_that_no_command_line_takes_can_be_studied(policy: str) -> None:
    assert config_of(f"cache.eviction={policy}").radix_eviction_policy == policy


def test_options_of_priorities_and_queues_reach_the_engine() -> None:
    config = config_of(
        "engine.schedule_policy=lof", "engine.enable_priority_scheduling=true",
        "engine.schedule_low_priority_values_first=true", "engine.priority_scheduling_preemption_threshold=3",
        "engine.retraction_policy=priority", "engine.max_queued_requests=12", "engine.min_free_slots_delay=4",
    )  # fmt: skip
    plain = config_of()
    assert config == replace(
        plain, schedule_policy="lof", enable_priority_scheduling=True, retraction_policy="priority",
        schedule_low_priority_values_first=True, priority_scheduling_preemption_threshold=3,
        max_queued_requests=12, min_free_slots_delay=4,
    )  # fmt: skip
    assert config.preempts
    assert not plain.preempts
    without = config_of("engine.enable_priority_scheduling=true", "engine.disable_priority_preemption=true")
    assert not without.preempts


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["engine.schedule_policy=priority"], "enable_priority_scheduling"),
        (["engine.schedule_policy=random"], "no order that could be foretold"),
        (["engine.schedule_policy=routing-key"], "no trace says them"),
        (["engine.num_continuous_decode_steps=4"], "does nothing with it"),
        (["engine.scheduler_recv_interval=4"], "before every batch"),
        (["engine.default_priority_value=4"], "have 0"),
        (["engine.enable_prefill_delayer=true"], "no rank holds its prompts back"),
        (["engine.disable_priority_preemption=true"], "changes nothing without 'enable_priority_scheduling'"),
        (["engine.schedule_low_priority_values_first=true"], "changes nothing without"),
        (
            ["engine.enable_priority_scheduling=true", "engine.disable_priority_preemption=true",
             "engine.priority_scheduling_preemption_threshold=2"],
            "where 'disable_priority_preemption' is set",
        ),
        (["engine.enable_priority_scheduling=true", "engine.schedule_policy=lpm"], "does not start"),
        (["engine.retraction_policy=priority"], "only where it schedules by priority"),
        (["engine.schedule_policy=shortest-prefill-first", "cache.prefix=none"], "needs the prefix cache"),
        (["engine.schedule_policy=hrrn", "engine.version=0.5.19"], "0.5.20 is the first"),
        (["engine.retraction_policy=priority", "engine.version=0.5.15"], "0.5.16 is the first"),
        (["engine.radix_eviction_policy=slru", "engine.version=0.5.9"], "0.5.10 is the first"),
        (["engine.radix_eviction_policy=lru", "engine.version=0.5.2"], "has no option radix_eviction_policy"),
        (["engine.radix_eviction_policy=tlru", "engine.version=0.5.20"], "0.5.21 is the first"),
        (["engine.radix_eviction_policy=tlru"], "spares nothing"),
        (["cache.eviction=tlru", "engine.radix_eviction_policy_config.threshold=0"], "greater than or equal to 1"),
        (
            ["cache.eviction=tlru", "engine.radix_eviction_policy_config={threshold: 5, next_prompt_estimate: 5}"],
            "threshold is 5 and the next prompt is expected to add 5",
        ),
        (["engine.radix_eviction_policy_config.protected_threshold=2"], "lru has no parameter protected_threshold"),
        (
            ["engine.radix_eviction_policy=slru", "engine.version=0.5.19",
             "engine.radix_eviction_policy_config.protected_threshold=4"],
            "has no option radix_eviction_policy_config: 0.5.20",
        ),
        (["engine.min_free_slots_delay=2", "parallel.pp=2"], "pipeline parallelism"),
    ],
)  # fmt: skip
def test_what_sglang_refuses_or_nobody_simulates_is_refused_by_name(
    assignments: list[str], said: str
) -> None:
    on_gpu = ["model=llama-3.1-8b", "gpu=h100-sxm"] if "tiers" in assignments[0] else []
    base = [it for it in BASE if "cache.blocks" not in it] if on_gpu else BASE
    with pytest.raises(KvplanError) as refused:
        build([*base, *on_gpu, *assignments])
    assert said in str(refused.value)


def test_an_option_of_a_part_is_refused_as_the_part() -> None:
    with pytest.raises(KvplanError) as refused:
        load_scenario(None, {}, [*BASE, "engine.disable_priority_preemption=true"])
    assert refused.value.where.endswith("  engine")


@pytest.mark.parametrize(
    ("cache", "engine"),
    [
        ("cache.block_size=16", "engine.page_size=16"),
        ("cache.eviction=lfu", "engine.radix_eviction_policy=lfu"),
        ("cache.prefix=none", "engine.disable_radix_cache=true"),
    ],
)
def test_either_place_will_do(cache: str, engine: str) -> None:
    assert config_of(cache) == config_of(engine) == config_of(cache, engine)
    assert config_of(cache) != config_of()


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["cache.block_size=4", "engine.page_size=8"], "contradict"),
        (["cache.eviction=lfu", "engine.radix_eviction_policy=slru"], "contradict"),
        (["engine.radix_eviction_policy=fifo"], "no version takes it on its command line"),
        (["cache.eviction=belady"], "is of blocks"),
        (["engine.kind=vllm", "cache.eviction=tlru"], "is SGLang's"),
        (["cache.prefix=radix", "engine.disable_radix_cache=true"], "contradict"),
        (["cache.prefix=hash"], "radix or none"),
        (["cache.groups=[{kind: full}]"], "cache.groups"),
        (["engine.max_total_tokens=100"], "both give the pool"),
        (["engine.max_num_seqs=4"], "unknown field"),
        (["engine.kind=tgi"], "vllm or sglang"),
        (["engine.kind=vllm", "cache.prefix=radix"], "no radix cache"),
    ],
)
def test_contradictions_are_refused(assignments: list[str], said: str) -> None:
    with pytest.raises(KvplanError, match=said):
        load_scenario(None, {}, [*BASE, *assignments])


def test_a_printed_scenario_reads_back_to_itself(tmp_path: Path) -> None:
    scenario = load_scenario(None, {}, [*BASE, "engine.page_size=16"])
    assert (scenario.cache.prefix, scenario.cache.block_size) == ("radix", 16)
    path = tmp_path / "scenario.yaml"
    path.write_text(dump_scenario(scenario))
    assert load_scenario(str(path)) == scenario


def test_the_pool_is_what_sglang_would_have() -> None:
    on_gpu = ["engine.kind=sglang", "workload={synthesize: fixed}", "model=llama-3.1-8b", "gpu=h100-sxm"]
    deployment = resolve_deployment(load_scenario(None, {}, on_gpu))
    assert deployment.fit is not None
    assert deployment.fit.serving.kind == "sglang"
    config = deployment.config
    assert isinstance(config, SglangConfig)
    assert config.pool_tokens == deployment.fit.kv_tokens
    assert {item.name for item in deployment.assumptions} >= {
        "engine.max_total_tokens", "engine.mem_fraction_static", "engine.max_running_requests",
    }  # fmt: skip
    smaller = resolve_deployment(load_scenario(None, {}, [*on_gpu, "engine.max_total_tokens=1000"])).config
    assert isinstance(smaller, SglangConfig)
    assert smaller.pool_tokens == 1000


def test_pools_that_are_not_simulated_are_refused() -> None:
    states = ["engine.kind=sglang", "workload={synthesize: fixed}", "model=jamba-v0.1", "gpu=h100-sxm"]
    with pytest.raises(UsageError, match="is not simulated"):
        resolve_deployment(load_scenario(None, {}, [*states, "parallel.tp=4"]))
    assert resolve_deployment(
        load_scenario(None, {}, [*states, "parallel.tp=4", "cache.blocks=10000"])
    ).config


def test_windows_without_a_pool_of_their_own_are_kept_whole() -> None:
    """SGLang forgets nothing of Gemma 3's windows: its pool is one of tokens."""
    gemma = ["engine.kind=sglang", "workload={synthesize: fixed}", "model=gemma-3-12b", "gpu=h100-sxm"]
    deployment = resolve_deployment(load_scenario(None, {}, gemma))
    assert deployment.fit is not None
    assert isinstance(deployment.config, SglangConfig)
    assert deployment.config.pool_tokens == deployment.fit.kv_tokens


def test_a_page_is_what_kernels_read_unless_it_is_given(tmp_path: Path) -> None:
    on_gpu = ["engine.kind=sglang", "workload={synthesize: fixed}", "model=llama-3.1-8b", "gpu=b200"]

    def page(*assignments: str) -> tuple[int, object]:
        scenario = load_scenario(None, {}, [*on_gpu, *assignments])
        path = tmp_path / "scenario.yaml"
        path.write_text(dump_scenario(scenario))
        assert load_scenario(str(path)) == scenario
        deployment = resolve_deployment(scenario)
        assert resolve_deployment(load_scenario(str(path))).config == deployment.config
        assert isinstance(deployment.config, SglangConfig)
        said = {item.name: item.value for item in deployment.assumptions}
        return deployment.config.page_size, said.get("engine.page_size")

    assert page() == (64, 64)
    assert page("engine.page_size=32") == page("cache.block_size=32") == (32, None)
    assert page("engine.page_size=8") == (64, 64)  # which no kernel reads: SGLang says so and takes 64
    assert page("engine.version=0.5.6") == (1, None)
    assert page("gpu=h100-sxm") == (1, None)


def test_a_limit_on_requests_is_bounded_by_the_pool() -> None:
    assert config_of("cache.blocks=1000", "engine.max_running_requests=700").max_running_requests == 500
    assert config_of("cache.blocks=1000").max_running_requests == 500
    older = config_of("cache.blocks=1000", "engine.max_running_requests=700", "engine.version=0.5.9")
    assert older.max_running_requests == 700


@pytest.mark.parametrize("overlap", ["false", "true"])
def test_both_engines_give_the_same_result(overlap: str) -> None:
    scenario = load_scenario(None, {}, [*BASE, f"engine.disable_overlap_schedule={overlap}"])
    results = []
    for engine in ("fast", "reference"):
        run = Run(scenario, engine=engine)
        run.execute()
        results.append(run.result(["kvplan"]))
    fast, reference = results
    assert fast["totals"]["finished"] == 20
    assert fast["totals"] == reference["totals"]
    assert fast["latency"] == reference["latency"]
    assert fast["series"] == reference["series"]


@pytest.mark.parametrize("field", ["engine.page_size", "cache.block_size"])
def test_a_printed_scenario_takes_a_page_size_in_either_place(tmp_path: Path, field: str) -> None:
    printed = tmp_path / "printed.yaml"
    printed.write_text(dump_scenario(load_scenario(None, {}, BASE)))
    config = resolve_deployment(load_scenario(str(printed), {}, [f"{field}=64"])).config
    assert isinstance(config, SglangConfig)
    assert config.page_size == 64


@pytest.mark.parametrize(
    ("option", "version"),
    [
        ("prefill_max_requests=2", "0.5.6"),
        ("prefill_decode_interval=2", "0.5.18"),
        ("prefill_decode_interval_min_bs=2", "0.5.22"),
    ],
)
def test_options_a_version_lacks_are_refused(option: str, version: str) -> None:
    with pytest.raises(UsageError, match=f"SGLang {version} has no option"):
        config_of(f"engine.{option}", f"engine.version={version}")
    assert config_of(f"engine.{option}")


@pytest.mark.parametrize(
    ("model", "gpu", "version", "rounds"),
    [
        ("qwen3-vl-8b", "h100-sxm", "0.5.23", 22),
        ("qwen3-vl-8b", "h100-sxm", "0.5.19", 0),
        ("qwen3-vl-8b", "a100-80g", "0.5.23", 0),
        ("qwen3-8b", "h100-sxm", "0.5.23", 0),
    ],
)
def test_profiled_models_hold_prompts_back_on_a_large_hopper(
    model: str, gpu: str, version: str, rounds: int
) -> None:
    def config(*more: str) -> SglangConfig:
        flags = {"model": model, "gpu": gpu, "engine.kind": "sglang", "workload.synthesize": "fixed"}
        found = resolve_deployment(load_scenario(None, flags, [f"engine.version={version}", *more])).config
        assert isinstance(found, SglangConfig)
        return found

    assert config().prefill_decode_interval == rounds
    assert config().radix_eviction_policy == ("priority" if rounds else "lru")
    for said in ("cache.eviction=lru", "engine.radix_eviction_policy=lru"):
        assert config(said).radix_eviction_policy == "lru"
    if version != "0.5.19":
        assert config("engine.prefill_decode_interval=3").prefill_decode_interval == 3
        assert config("engine.prefill_decode_interval=0").prefill_decode_interval == 0
