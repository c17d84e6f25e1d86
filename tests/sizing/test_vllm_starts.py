"""Rules of vLLM's start-up that its own functions were run for (``tests/golden/test_vllm_defaults.py``)."""

from __future__ import annotations

import pytest

from kvplan.sizing.capacity import fit_model
from kvplan.sizing.captures import captured_tokens, largest_batch
from kvplan.sizing.context import UNNAMED
from kvplan.sizing.fit import fit_warnings
from kvplan.sizing.flags import engine_flags
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.prefix_caching import caches_prefixes
from kvplan.specs.catalog import load_gpu, load_model


@pytest.mark.parametrize(
    ("version", "tokens", "sequences", "ends"),
    [
        ((0, 9, 2), 8192, 8, (504, 512)), ((0, 10, 2), 8192, 8, (8, 16)), ((0, 11, 0), 8192, 200, (392, 400)),
        ((0, 12, 0), 8192, 200, (384, 400)), ((0, 20, 0), 300, 300, (272, 288)),
        ((0, 21, 0), 300, 300, (288, 300)), ((0, 33, 0), 8192, 300, (496, 512)),
    ],
)  # fmt: skip
def test_which_batches_are_captured(
    version: tuple[int, int, int], tokens: int, sequences: int, ends: tuple[int, int]
) -> None:
    largest = largest_batch(version, 9, "llama", sequences, 1)
    sizes = captured_tokens(version, largest, tokens, sequences, 1)
    assert sizes[-2:] == ends
    assert (300 in sizes) == (version >= (0, 21, 0))


@pytest.mark.parametrize(
    ("version", "pp", "lookup", "ahead"),
    [
        ("0.13", 1, False, False), ("0.14", 1, False, True), ("0.14.1", 2, False, False), ("0.15", 2, False, True),
        ("0.32", 1, True, False), ("0.33", 1, True, True), ("0.33", 2, True, True),
    ],
)  # fmt: skip
def test_what_older_versions_cannot_do_beside_planning_ahead_turns_it_off(
    version: str, pp: int, lookup: bool, ahead: bool
) -> None:
    found = fit_model(
        load_model("llama-3.1-8b"), load_gpu("h100-sxm"), version=version, parallel=Parallel(pp=pp),
        lookup=lookup, draft_tokens=3,
    )  # fmt: skip
    assert found.serving.async_scheduling is ahead


@pytest.mark.parametrize(
    ("model", "version", "block", "starts"),
    [
        ("glm-5.1", "0.33", 16, False), ("glm-5.1", "0.33", 64, True), ("glm-5.1", "0.33", None, True),
        ("deepseek-v3.2", "0.18", 32, False), ("deepseek-v3.2", "0.17", 32, True), ("deepseek-v3", "0.33", 32, True),
    ],
)  # fmt: skip
def test_kernels_of_indexers_read_whole_pages(
    model: str, version: str, block: int | None, starts: bool
) -> None:
    """vLLM 0.33 finds no backend for GLM-5.1 in blocks of 16 on an H100; before 0.18 it widened them."""
    report = fit_model(
        load_model(model), load_gpu("h100-sxm"), version=version, parallel=Parallel(tp=8), block_size=block,
        max_model_len=8192,
    )  # fmt: skip
    assert (engine_flags(report)["vllm"] is not None) == starts
    assert any("they take multiples of 64" in words for words in fit_warnings(report)) != starts


def test_convolutions_have_a_column_for_each_draft() -> None:
    """As vLLM 0.33 settled it for Nemotron-H with three drafts: blocks of 8,320 tokens hold a state."""
    model, gpu = load_model("nemotron-h-56b"), load_gpu("h100-sxm")

    def blocks(version: str, *, lookup: bool) -> tuple[int, int]:
        report = fit_model(
            model, gpu, version=version, kv_dtype="fp8", prefix_caching=False, lookup=lookup, draft_tokens=3,
            kv_pool_bytes=41_943_530_827,
        )  # fmt: skip
        return report.block_size, report.binding.capacity.num_blocks

    assert blocks("0.33", lookup=True) == (8320, 246)
    assert blocks("0.33", lookup=False) == blocks("0.16", lookup=True) == (8256, 248)
    net = load_model("qwen3-next-80b-a3b")
    kept = [
        fit_model(net, gpu, version="0.14", parallel=Parallel(tp=4), draft=True, draft_tokens=n).stages[0]
        for n in (1, 3)
    ]
    # Two columns more of 2,048 channels in bf16, in 36 layers.
    assert kept[1].pool.state_bytes - kept[0].pool.state_bytes == 36 * 2 * 2048 * 2


@pytest.mark.parametrize(
    ("version", "gpu", "kv", "block"),
    [
        ("0.33", "h100-sxm", "fp8", 64), ("0.31", "h100-sxm", "fp8", 64), ("0.30", "h100-sxm", "fp8", 16),
        ("0.33", "h100-sxm", "bf16", 16), ("0.33", "b200", "fp8", 16), ("0.33", "h100-sxm", "fp8_e5m2", 16),
    ],
)  # fmt: skip
def test_hopper_reads_wide_heads_in_fp8_in_tiles(version: str, gpu: str, kv: str, block: int) -> None:
    report = fit_model(
        load_model("gemma-4-e2b"), load_gpu(gpu), version=version, kv_dtype=kv, max_model_len=8192
    )
    assert report.block_size == block


def test_gpt_oss_is_captured_whatever_its_sequences() -> None:
    found = {version: largest_batch(version, 9, "gpt-oss", 8, 1) for version in ((0, 11, 0), (0, 33, 0))}
    assert found == {(0, 11, 0): 992, (0, 33, 0): 1024}
    assert captured_tokens((0, 33, 0), 1024, 2048, 8, 1)[-1] == 1024


def test_drafts_are_captured_with_their_sequences() -> None:
    largest = largest_batch((0, 33, 0), 9, None, 7, 3)
    assert (largest, captured_tokens((0, 33, 0), largest, 8192, 7, 3)) == (
        42, (1, 2, 3, 4, 6, 8, 12, 16, 21, 24, 32, 40),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "gpu", "version", "asked", "form", "block_tokens"),
    [
        ("deepseek-v3.2", "h100-sxm", "0.33", None, "bf16", 64),
        ("deepseek-v3.2", "h100-sxm", "0.11.0", None, "fp8_e4m3", 64),
        ("deepseek-v3.2", "rtx-pro-6000", "0.33", None, "fp8_e4m3", 64),
        ("deepseek-v3.2", "b200", "0.33", None, "bf16", 64),
        ("glm-5.1", "b200", "0.33", None, "fp8_e4m3", 64),
        ("glm-5.1", "b200", "0.31", None, "bf16", 64),
    ],
)  # fmt: skip
def test_sparse_latents_in_the_format_their_kernel_reads(
    model: str, gpu: str, version: str, asked: str | None, form: str, block_tokens: int
) -> None:
    report = fit_model(load_model(model), load_gpu(gpu), version=version, kv_dtype=asked, max_model_len=4096)
    assert (report.kv_format.name, report.block_size) == (form, block_tokens)


def test_fp8_latents_are_packed_but_on_data_center_blackwell() -> None:
    widths = {
        (gpu, version): fit_model(
            load_model("deepseek-v3.2"), load_gpu(gpu), version=version, kv_dtype="fp8", max_model_len=4096,
        ).request_bytes // (61 * 4096)
        for gpu, version in (("h100-sxm", "0.33"), ("b200", "0.33"), ("b200", "0.18"))
    }  # fmt: skip
    assert widths == {("h100-sxm", "0.33"): 788, ("b200", "0.33"): 708, ("b200", "0.18"): 788}


def test_without_bf16_vllm_computes_in_fp16_or_where_that_overflows_in_fp32() -> None:
    t4 = load_gpu("t4")
    found = {
        name: (report.kv_format.name, report.weights_format)
        for name in ("llama-3.2-1b", "gemma-2-2b", "gemma-2b")
        for report in (fit_model(load_model(name), t4, max_model_len=2048),)
    }
    assert found == {
        "llama-3.2-1b": ("fp16", "bf16"), "gemma-2-2b": ("fp32", "fp32"), "gemma-2b": ("fp16", "bf16"),
    }  # fmt: skip
    flags = engine_flags(fit_model(load_model("gemma-2-2b"), t4, max_model_len=2048))["vllm"]
    assert flags is not None
    assert "--dtype float32" in flags
    assert "kv-cache-dtype" not in flags


@pytest.mark.parametrize(
    ("gpu", "version", "prefix", "given", "tokens"),
    [
        ("h100-sxm", "0.33", None, None, 576), ("a100-80g", "0.33", None, None, 544),
        ("h100-sxm", "0.33", False, None, 544), ("h100-sxm", "0.32", None, None, 544),
        ("h100-sxm", "0.18", None, 64, 544), ("h100-sxm", "0.21", None, 64, 576),
    ],
)  # fmt: skip
def test_a_block_grows_until_it_holds_a_state(
    gpu: str, version: str, prefix: bool | None, given: int | None, tokens: int
) -> None:
    report = fit_model(
        load_model("qwen3-next-80b-a3b"), load_gpu(gpu), version=version, max_model_len=4096,
        prefix_caching=prefix, block_size=given,
    )  # fmt: skip
    assert report.block_size == tokens


def test_blackwells_kernel_of_wide_heads_wanted_blocks_of_32() -> None:
    model, gpu = load_model("qwen3.5-397b-a17b"), load_gpu("b200")
    found = {v: fit_model(model, gpu, version=v, max_model_len=4096).block_size for v in ("0.17", "0.18")}
    assert found == {"0.17": 2112, "0.18": 2096}


def test_prefixes_of_hybrids_are_cached_unasked_from_0_28_on() -> None:
    model = load_model("qwen3-next-80b-a3b")
    assert [caches_prefixes(model, (0, minor, 1)) for minor in (26, 27, 28)] == [False, False, True]


def test_prefixes_of_states_are_cached_where_vllm_can() -> None:
    model, gpu = load_model("qwen3-next-80b-a3b"), load_gpu("h200-sxm")
    for version, cached in (("0.12", False), ("0.15", True)):
        report = fit_model(model, gpu, version=version, max_model_len=4096, prefix_caching=True)
        assert report.serving.prefix_caching is cached


def test_no_prefixes_of_what_attends_to_an_encoder() -> None:
    assert not caches_prefixes(load_model("whisper-large-v3"), (0, 33, 0))


def test_windows_are_held_open_for_one_step_before_0_26() -> None:
    model, gpu = load_model("gemma-3-4b"), load_gpu("l40s")
    held = {
        version: fit_model(model, gpu, version=version).binding.pool.in_flight for version in ("0.25", "0.26")
    }
    assert held == {"0.25": 2048, "0.26": 4096}
    spread = fit_model(model, gpu, version="0.33", parallel=Parallel(pp=2)).binding.pool.in_flight
    assert spread == 3 * 2048


def test_without_a_limit_engines_take_2_048_tokens() -> None:
    model = load_model("llama-3.1-8b").model_copy(update={"max_context": None})
    assert fit_model(model, load_gpu("h100-sxm")).max_model_len == UNNAMED == 2048


@pytest.mark.parametrize(
    ("engine", "version", "starts"),
    [
        ("vllm", None, 4096), ("vllm", "0.11.1", 4096), ("vllm", "0.11.0", 131_072),
        ("sglang", None, 131_072),
    ],
)  # fmt: skip
def test_models_of_long_rope_start_at_the_length_they_were_trained_at(
    engine: str, version: str | None, starts: int
) -> None:
    model, gpu = load_model("phi-3.5-mini-instruct"), load_gpu("h100-sxm")
    report = fit_model(model, gpu, engine=engine, version=version)
    assert report.max_model_len == starts
    said = [words for words in fit_warnings(report) if "LongRoPE" in words]
    assert len(said) == (starts == 4096)
    assert not any("LongRoPE" in words for words in fit_warnings(fit_model(model, gpu, max_model_len=4096)))
    assert fit_model(model, gpu, max_model_len=131_072).max_model_len == 131_072


def test_long_rope_has_a_table_of_either_length() -> None:
    model = load_model("phi-3.5-mini-instruct")
    plain = model.model_copy(update={"unstretched_context": None})
    more, less = (
        fit_model(one, load_gpu("h100-sxm"), max_model_len=4096).binding.bill.weights_bytes
        for one in (model, plain)
    )
    assert more - less == 4096 * 96 * 2


@pytest.mark.parametrize(
    ("engine", "version", "limit"),
    [("vllm", None, 40_960), ("vllm", "0.30", 40_960), ("vllm", "0.28", 131_072), ("sglang", None, 40_960)],
)
def test_yarn_that_was_added_is_taken_as_written_from_0_30(
    engine: str, version: str | None, limit: int
) -> None:
    plain = load_model("qwen3-8b")
    model = plain.model_copy(update={"yarn_context": 131_072})
    gpu = load_gpu("h100-sxm")
    report = fit_model(model, gpu, engine=engine, version=version)
    assert (report.max_model_len, report.context_limit) == (limit, limit)
    longer = fit_warnings(fit_model(model, gpu, engine=engine, version=version, max_model_len=131_072))
    assert any("LONG" in words for words in longer) == (limit == 40_960)
    rows = [fit_model(one, gpu, version="0.28", max_model_len=4096).binding.bill.weights_bytes
            for one in (model, plain)]  # fmt: skip
    assert rows[0] - rows[1] == (131_072 - 40_960) * 128 * 2


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_context_of_a_model_that_names_none_is_said_to_be_assumed(engine: str) -> None:
    model, gpu = load_model("llama-3.1-8b").model_copy(update={"max_context": None}), load_gpu("h100-sxm")
    report = fit_model(model, gpu, engine=engine)
    assert report.max_model_len == UNNAMED
    assert any("2,048 tokens are taken" in words and "--ctx N" in words for words in fit_warnings(report))
    asked = fit_model(model, gpu, engine=engine, max_model_len=4096)
    assert not any("tokens are taken" in words for words in fit_warnings(asked))
