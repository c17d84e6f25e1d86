"""Pipeline stages and data-parallel ranks: layers, tables, pools and what engines refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import UsageError
from kvplan.sizing.capacity import FitReport, fit_model
from kvplan.sizing.flags import engine_flags, no_command
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.stages import stages
from kvplan.sizing.weights import stage_weights
from kvplan.specs.catalog import load_gpu, load_model
from tests.sizing.conftest import dense_model


@pytest.mark.parametrize(
    ("engine", "version", "sizes"),
    [
        ("vllm", None, [11, 12, 12, 11]), ("vllm", (0, 8, 0), [11, 12, 12, 11]),
        ("vllm", (0, 7, 3), [11, 11, 11, 13]), ("sglang", None, [11, 11, 12, 12]),
        ("sglang", (0, 5, 6), [11, 11, 12, 12]), ("sglang", (0, 5, 5), [11, 11, 11, 13]),
    ],
)  # fmt: skip
def test_odd_layers_go_where_the_engine_puts_them(
    engine: str, version: tuple[int, int, int] | None, sizes: list[int]
) -> None:
    assert [len(held) for held in stages(46, 4, engine, version)] == sizes


@given(
    st.integers(1, 200), st.integers(1, 16), st.sampled_from(["vllm", "sglang"]),
    st.sampled_from([None, (0, 5, 5), (0, 5, 6), (0, 7, 3), (0, 8, 0)]),
)  # fmt: skip
def test_stages_partition_the_layers(
    layers: int, pp: int, engine: str, version: tuple[int, int, int] | None
) -> None:
    if pp <= layers:
        found = stages(layers, pp, engine, version)
        assert [index for held in found for index in held] == list(range(layers))
        assert len(found) == pp
        assert min(map(len, found)) == layers // pp


def stage_tables(model: str, engine: str = "vllm") -> list[list[str]]:
    spec = load_model(model)
    return [
        [part for part in ("embeddings", "lm_head") if bill.by_component.get(part)]
        for stage in range(3)
        for bill in (stage_weights(spec, pp=3, stage=stage, engine=engine),)
    ]


@pytest.mark.parametrize(
    ("model", "tables"),
    [
        ("llama-3.1-8b", [["embeddings"], [], ["lm_head"]]),
        ("llama-3.2-1b", [["embeddings"], [], ["embeddings"]]),
        ("gpt-oss-20b", [["embeddings", "lm_head"]] * 3), ("qwen3-30b-a3b", [["embeddings", "lm_head"]] * 3),
        ("qwen3-32b", [["embeddings"], [], ["lm_head"]]), ("gemma-2-9b", [["embeddings"]] * 3),
        ("qwen3.5-27b", [["embeddings"], ["embeddings"], ["embeddings", "lm_head"]]),
        ("nemotron-h-56b", [["embeddings", "lm_head"]] * 3), ("nemotron-super-49b", [["embeddings"], [], ["lm_head"]]),
        ("falcon-7b", [["embeddings"]] * 3), ("olmo-2-7b", [["embeddings"], [], ["lm_head"]]),
    ],
)  # fmt: skip
def test_some_classes_of_vllm_build_their_tables_on_every_stage(model: str, tables: list[list[str]]) -> None:
    assert stage_tables(model) == tables


@pytest.mark.parametrize(
    ("model", "version", "whole"),
    [
        ("gpt-neox-20b", (0, 31, 0), True), ("gpt-neox-20b", (0, 32, 0), False), ("olmo-2-7b", (0, 25, 1), True),
        ("olmo-3-32b", (0, 28, 0), True), ("olmo-2-7b", (0, 27, 0), False), ("starcoder2-7b", (0, 24, 0), True),
        ("starcoder2-7b", (0, 25, 0), False), ("llama-3.1-8b", (0, 18, 0), False),
    ],
)  # fmt: skip
def test_classes_that_vllm_gave_up_built_their_tables_on_every_stage(
    model: str, version: tuple[int, int, int], whole: bool
) -> None:
    bill = stage_weights(load_model(model), pp=3, stage=1, version=version)
    assert bool(bill.by_component.get("embeddings")) is whole


@pytest.mark.parametrize(
    ("model", "engine", "version", "everywhere"),
    [
        ("qwen3.5-27b", "vllm", None, False), ("qwen3.5-27b", "vllm", (0, 32, 0), True),
        ("qwen3.5-27b", "sglang", None, True), ("gemma-4-31b", "sglang", None, False),
    ],
)  # fmt: skip
def test_towers_for_images_are_on_every_stage_of_some(
    model: str, engine: str, version: tuple[int, int, int] | None, everywhere: bool
) -> None:
    bill = stage_weights(load_model(model), pp=2, stage=1, engine=engine, version=version)
    assert bool(bill.by_component.get("vision")) is everywhere


def test_classes_of_sglang_that_have_stages_build_tables_at_the_ends() -> None:
    assert stage_tables("gpt-oss-20b", "sglang") == [["embeddings"], [], ["lm_head"]]


@pytest.mark.parametrize(
    ("model", "vllm", "sglang"),
    [
        ("llama-3.1-8b", True, True), ("gemma-3n-e4b", False, False), ("gemma-3-4b", True, False),
        ("qwen3-next-80b-a3b", True, False), ("gpt-oss-20b", True, True), ("codestral-mamba-7b", False, False),
        ("whisper-large-v3", False, False), ("gemma-4-31b", True, True), ("command-r-v01", True, False),
        ("granite-4.0-h-small", True, True), ("granite-3.1-8b", True, False), ("phi-3.5-moe", True, False),
        ("phi-4", True, True), ("olmo-2-7b", True, False), ("deepseek-v3", True, True),
    ],
)  # fmt: skip
def test_classes_without_stages_have_no_command(model: str, vllm: bool, sglang: bool) -> None:
    report = fit_model(load_model(model), load_gpu("b200"), max_model_len=448, parallel=Parallel(pp=2))
    for engine, starts in (("vllm", vllm), ("sglang", sglang)):
        reason = no_command(report, engine)  # type: ignore[arg-type]
        assert ("has no pipeline stages" in (reason or "")) is not starts, reason


def test_layers_that_read_the_kv_of_another_stage_have_no_command() -> None:
    report = fit_model(
        load_model("gemma-4-e2b"), load_gpu("h100-sxm"), max_model_len=4096, parallel=Parallel(pp=2)
    )
    reason = no_command(report, "vllm")
    assert reason is not None
    assert "layer 18 of gemma-4-e2b, on stage 1, reads the KV of layer 13" in reason


def test_experts_are_dealt_where_that_was_sized() -> None:
    """Unasked, vLLM's data-parallel ranks cut experts over all of them."""
    gpu, flag, ranks = load_gpu("h100-sxm"), "--enable-expert-parallel", Parallel(tp=2, attention_ranks=2)
    for name, dealt in (("qwen3-8b", False), ("qwen3-30b-a3b", False), ("qwen3-30b-a3b", True)):
        report = fit_model(
            load_model(name), gpu, max_model_len=4096, parallel=ranks, expert_parallel=dealt
        )  # fmt: skip
        command = engine_flags(report)["vllm"] or ""
        assert "--data-parallel-size 2" in command
        assert (flag in command) is dealt
    asked = fit_model(
        load_model("qwen3-8b"), gpu, max_model_len=4096, parallel=Parallel(tp=2), expert_parallel=True
    )
    assert "has no experts" in (no_command(asked, "vllm") or "")


def test_a_rank_of_vllms_is_whole_but_for_its_experts() -> None:
    model = load_model("deepseek-v3")
    whole = stage_weights(model).by_component
    rank = stage_weights(model, tp=8, ep=8, attention_ranks=8).by_component
    assert rank["experts"] * 8 == whole["experts"]
    kept = ("attention", "dense_mlp", "shared_experts", "lm_head", "embeddings", "router")
    assert {part: rank[part] for part in kept} == {part: whole[part] for part in kept}


def test_ranks_of_sglangs_share_what_every_token_passes_through() -> None:
    model = load_model("deepseek-v3")
    whole = stage_weights(model).by_component
    rank = stage_weights(model, tp=8, ep=8, attention_ranks=8, engine="sglang").by_component
    for part in ("dense_mlp", "shared_experts", "lm_head"):
        assert rank[part] == pytest.approx(whole[part] / 8, rel=1e-3)
    assert (rank["attention"], rank["embeddings"]) == (whole["attention"], whole["embeddings"])


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_ranks_of_several_gpus_cut_what_is_theirs_over_these(engine: str) -> None:
    model = load_model("qwen3-235b-a22b")
    whole = stage_weights(model).by_component
    rank = stage_weights(model, tp=8, ep=8, attention_ranks=2, engine=engine).by_component
    head = 4 if engine == "vllm" else 8
    for part, gpus in (("attention", 4), ("embeddings", 4), ("lm_head", head), ("experts", 8)):
        assert rank[part] == pytest.approx(whole[part] / gpus, rel=1e-3), part
    before = stage_weights(model, tp=8, ep=8, attention_ranks=2, engine="sglang", version=(0, 5, 8))
    assert before.by_component["embeddings"] == whole["embeddings"]


def test_ranks_of_several_gpus_are_started_as_the_engines_call_them() -> None:
    report = fit_model(
        load_model("qwen3-235b-a22b"), load_gpu("h200-sxm"), max_model_len=4096,
        parallel=Parallel(tp=8, attention_ranks=2), expert_parallel=True,
    )  # fmt: skip
    flags = engine_flags(report)
    assert "--data-parallel-size 2 --tensor-parallel-size 4 --enable-expert-parallel" in (flags["vllm"] or "")
    assert "--tp-size 8 --dp-size 2 --enable-dp-attention --ep-size 8" in (flags["sglang"] or "")
    alone = fit_model(
        load_model("qwen3-235b-a22b"), load_gpu("h200-sxm"), max_model_len=4096, parallel=Parallel(tp=4),
        kv_pool_bytes=10**10,
    )  # fmt: skip
    same = fit_model(
        load_model("qwen3-235b-a22b"), load_gpu("h200-sxm"), max_model_len=4096, kv_pool_bytes=10**10,
        parallel=Parallel(tp=8, attention_ranks=2), expert_parallel=True,
    )  # fmt: skip
    assert same.binding.capacity == alone.binding.capacity
    assert same.total_concurrency == 2 * alone.total_concurrency


def test_ranks_that_do_not_divide_the_gpus_are_refused() -> None:
    with pytest.raises(UsageError, match="tp 8 is no multiple of 3 attention ranks") as caught:
        fit_model(
            load_model("qwen3-235b-a22b"), load_gpu("h200-sxm"), parallel=Parallel(tp=8, attention_ranks=3)
        )
    assert caught.value.hint == "use one of 1, 2, 4, 8"


def test_the_widths_of_an_mlp_are_cut_over_a_rank_of_vllms_alone() -> None:
    """It is not cut over eight ranks, so eight need not divide it; SGLang's share it."""
    odd, gpu = dense_model("odd", 2048, 32_000, 4, (16, 8, 128), 9217, 8192), load_gpu("h100-sxm")
    assert fit_model(odd, gpu, max_model_len=4096, parallel=Parallel(tp=2, attention_ranks=2)).fits
    with pytest.raises(UsageError, match="does not divide the MLP width 9217"):
        fit_model(odd, gpu, max_model_len=4096, parallel=Parallel(tp=2, attention_ranks=2), engine="sglang")


def sglang(model: str, pp: int, **options: object) -> FitReport:
    return fit_model(
        load_model(model), load_gpu("h200-sxm"), engine="sglang", max_model_len=4096, parallel=Parallel(pp=pp),
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def test_sglangs_stages_take_what_is_left_on_the_fullest_gpu() -> None:
    report = sglang("qwen3-32b", 4)
    left = [stage.bill.kv_pool_bytes for stage in report.stages]
    assert len(set(left)) > 1
    assert {stage.pool_bytes for stage in report.stages} == {min(left)}


def test_sglangs_stages_reserve_states_alike() -> None:
    """Of 52 layers of Nemotron 3 Nano 23 have a state: 12 of the first half."""
    model = "nemotron-3-nano-30b-a3b"
    now, before, whole = sglang(model, 2), sglang(model, 2, version="0.5.16"), sglang(model, 1)
    states = [stage.pool.state_bytes for stage in now.stages]
    assert {stage.pool.slot_bytes for stage in now.stages} == {max(states)}
    assert (
        {stage.pool.slot_bytes for stage in before.stages}
        == {sum(states)}
        == {whole.stages[0].pool.slot_bytes}
    )
    assert len({stage.capacity.states for stage in now.stages}) == 1


def test_drafting_layers_on_a_later_stage_keep_embeddings_of_their_own() -> None:
    """vLLM shares the model's only where all of it is on one GPU (``maybe_share_target_embed``)."""
    model = load_model("deepseek-v3")

    def tables(pp: int, engine: str, *, draft: bool) -> int:
        bill = stage_weights(model, pp=pp, stage=pp - 1, draft=draft, engine=engine)
        return bill.by_component.get("embeddings", 0)

    table = model.vocab_size * model.hidden_size * 2
    found = {
        (pp, engine): tables(pp, engine, draft=True) - tables(pp, engine, draft=False)
        for pp in (1, 2)
        for engine in ("vllm", "sglang")
    }
    assert found == {(1, "vllm"): 0, (2, "vllm"): table, (1, "sglang"): 0, (2, "sglang"): 0}


def test_sglang_has_no_stages_with_drafts_but_for_prefill() -> None:
    report = sglang("deepseek-v3", 2, draft=True)
    assert "only on prefill servers" in (no_command(report, "sglang") or "")
    assert no_command(report, "vllm") is None
