"""Weights: published parameter counts exactly, what engines log to the hundredth of a GiB, laws of sharding."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import UnknownName, UsageError
from kvplan.sizing.allocator import allocated_bytes
from kvplan.sizing.weight_formats import weight_format, weight_format_names
from kvplan.sizing.weights import active_parameters, parameter_count, stage_weights
from kvplan.specs.catalog import entries, load_entry, load_model
from kvplan.specs.model import ExtraWeights
from kvplan.specs.schema import ModelSpec
from kvplan.units import GIB, MIB

Hand = Callable[[str], ModelSpec]


# Laws


@given(size=st.integers(1, 1 << 34))
def test_the_allocator_never_gives_less_and_wastes_at_most_a_mebibyte(size: int) -> None:
    given_bytes = allocated_bytes(size)
    assert size <= given_bytes <= size + MIB
    assert allocated_bytes(given_bytes) == given_bytes


@given(
    outputs=st.integers(1, 40000), inputs=st.integers(1, 40000), name=st.sampled_from(weight_format_names())
)
def test_a_format_holds_its_codes_and_little_more(outputs: int, inputs: int, name: str) -> None:
    fmt = weight_format(name)
    size = fmt.matrix(outputs, inputs)
    codes = -(-outputs * inputs * fmt.bits // 8)
    assert size >= codes
    assert fmt.matrix(2 * outputs, inputs) <= 2 * size
    if not fmt.quantized:
        assert size == codes


@pytest.mark.parametrize(
    "name", ["int1_group64", "int9_channel", "int2_group", "int2_group0", "int2_group99999"]
)
def test_integers_that_no_engine_stores(name: str) -> None:
    with pytest.raises(UnknownName):
        weight_format(name)


def test_integers_of_few_bits() -> None:
    assert weight_format("int2_group64").matrix(64, 128) == 64 * (128 * 2 + 2 * (16 + 2)) // 8
    assert weight_format("int3_channel").matrix(64, 128) == 64 * (128 * 3 + 16 + 3) // 8
    assert weight_format("int8_block128").matrix(128, 256) == 128 * 256 + 2 * 4


@given(tp=st.sampled_from([1, 2, 4, 8]), pp=st.sampled_from([1, 2, 3, 4, 7]))
def test_shards_sum_to_the_whole_plus_what_every_rank_repeats(hand_model: Hand, tp: int, pp: int) -> None:
    model = hand_model("llama-3.1-8b")
    whole = stage_weights(model).stored_bytes
    parts = sum(tp * stage_weights(model, tp=tp, pp=pp, stage=stage).stored_bytes for stage in range(pp))
    norms = 2 * model.hidden_size * (2 * model.num_layers + 1)
    assert parts == whole + (tp - 1) * norms


@given(tp=st.sampled_from([1, 2, 4, 8]), rows=st.integers(1, 100))
def test_ranks_hold_every_row_of_a_table_between_them(hand_model: Hand, tp: int, rows: int) -> None:
    model = hand_model("llama-3.1-8b")
    beside = model.model_copy(update={"extra_weights": (ExtraWeights(name="table", parameters=rows),)})
    share = stage_weights(beside, tp=tp).stored_bytes - stage_weights(model, tp=tp).stored_bytes
    assert 2 * rows <= tp * share < 2 * (rows + tp)


@given(ep=st.sampled_from([1, 2, 4, 8]))
def test_dealing_experts_out_takes_no_more_than_cutting_them(hand_model: Hand, ep: int) -> None:
    model = hand_model("mixtral-8x7b")
    cut = stage_weights(model, tp=ep).by_component["experts"]
    dealt = stage_weights(model, tp=ep, ep=ep).by_component["experts"]
    assert cut == dealt


def test_kv_heads_are_repeated_once_there_are_more_ranks(hand_model: Hand) -> None:
    model = hand_model("qwen3-235b-a22b")  # 4 KV heads
    four = stage_weights(model, tp=4).by_component["attention"]
    eight = stage_weights(model, tp=8).by_component["attention"]
    kv_head = 94 * 2 * 128 * 4096 * 2  # K and V projections of one head in every layer
    norms = 94 * 2 * 128 * 2
    assert 2 * (eight - kv_head - norms) == four - kv_head - norms


def test_bits_order_the_formats(hand_model: Hand) -> None:
    model = hand_model("llama-3.1-8b")
    sizes = [
        stage_weights(model, weights_format=name).stored_bytes for name in ("fp32", "bf16", "fp8", "nvfp4")
    ]
    assert sizes == sorted(sizes, reverse=True)


# Golden values: the checkpoints' own parameter counts


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-14b", 14_768_307_200),
        ("mixtral-8x7b", 46_702_792_704),
        ("qwen3-235b-a22b", 235_093_634_560),
        ("deepseek-v3", 671_026_419_200),
    ],
)
def test_parameters_are_the_published_ones(hand_model: Hand, name: str, published: int) -> None:
    assert parameter_count(hand_model(name)) == published


REGISTRY = {
    "llama-2-7b": 6_738_415_616, "llama-2-13b": 13_015_864_320, "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248, "llama-3.1-405b": 405_853_388_800, "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824, "llama-4-scout": 108_641_793_536, "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552, "mixtral-8x22b": 140_620_634_112, "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304, "qwen2.5-14b": 14_770_033_664, "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648, "qwen3-4b": 4_022_468_096, "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-coder-480b-a35b": 480_154_875_392, "qwen3-next-80b-a3b": 79_674_391_296, "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896, "gemma-2-9b": 9_241_705_984, "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b": 999_885_952, "phi-3-mini-4k": 3_821_079_552, "phi-4": 14_659_507_200,
    "falcon-7b": 6_921_720_704, "deepseek-v2-lite": 15_706_484_224, "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_419_200, "gpt-oss-20b": 20_914_757_184, "gpt-oss-120b": 116_829_156_672,
    "mamba-2.8b": 2_768_345_600, "falcon-mamba-7b": 7_272_665_088, "yi-34b": 34_388_917_248,
    "granite-3.1-8b": 8_170_848_256, "dbrx": 131_596_523_520, "internlm2.5-7b": 7_737_708_544,
    "mpt-7b": 6_649_286_656, "minimax-text-01": 456_089_655_296, "kimi-linear-48b-a3b": 49_122_681_728,
}  # fmt: skip
"""Parameter counts of the published checkpoints."""


@pytest.mark.parametrize("name", REGISTRY)
def test_parameters_of_the_registry_are_the_published_ones(name: str) -> None:
    assert parameter_count(load_model(name)) == REGISTRY[name]


@pytest.mark.parametrize(("name", "logged_gib"), [("gpt-oss-20b", 13.7164), ("gpt-oss-120b", 65.9651)])
def test_mxfp4_experts_are_padded_for_their_kernels(name: str, logged_gib: float) -> None:
    assert stage_weights(load_model(name)).total_bytes / GIB == pytest.approx(logged_gib, rel=0.002)


def test_every_bundled_model_has_weights() -> None:
    for entry in entries("model"):
        if entry.origin == "bundled":
            bill = stage_weights(load_entry(entry, ModelSpec))
            assert bill.total_bytes > 0
            assert bill.rounding_bytes < 0.02 * bill.stored_bytes + 4 * MIB, entry.name


@pytest.mark.parametrize(
    ("name", "billions"), [("mixtral-8x7b", 12.7), ("qwen3-235b-a22b", 21.5), ("deepseek-v3", 36.6)]
)
def test_active_parameters(hand_model: Hand, name: str, billions: float) -> None:
    assert active_parameters(hand_model(name)) / 1e9 == pytest.approx(billions, abs=0.1)


@pytest.mark.parametrize(
    ("name", "options", "logged_gib"),
    [
        ("llama-3.1-8b", {}, 14.9888),  # "Model loading took 14.9888 GiB"
        ("llama-3.1-8b", {"weights_format": "fp32"}, 29.98),
        ("llama-3.1-8b", {"weights_format": "fp8"}, 8.49),
        ("llama-3.1-8b", {"tp": 4}, 3.77),
        ("llama-3.1-8b", {"pp": 4}, 4.26),
        ("qwen2.5-7b", {}, 14.2487),
        ("qwen2.5-7b", {"tp": 2}, 7.12),
        ("qwen2.5-7b", {"weights_format": "awq"}, 5.29),
        ("qwen3-8b", {}, 15.27),
        ("qwen3-14b", {}, 27.52),
        ("qwen3-0.6b", {}, 1.12),
    ],
)
def test_weights_are_what_engines_log(
    hand_model: Hand, name: str, options: dict[str, int], logged_gib: float
) -> None:
    bill = stage_weights(hand_model(name), **options)  # type: ignore[arg-type]
    assert bill.total_bytes / GIB == pytest.approx(logged_gib, abs=0.0055)


def test_the_bill_names_its_parts(hand_model: Hand) -> None:
    bill = stage_weights(hand_model("deepseek-v3"), tp=8)
    assert bill.rotary_bytes == 163840 * 64 * 2
    assert bill.copies_bytes == 61 * 16 * 256 * 512 * 2  # W_UK and W_UV of a rank's 16 heads
    assert bill.total_bytes == bill.stored_bytes + bill.rotary_bytes + bill.copies_bytes + bill.rounding_bytes


# Bad input


def test_an_unknown_format_suggests_near_ones(hand_model: Hand) -> None:
    with pytest.raises(UnknownName, match="weight format 'fp9'") as caught:
        stage_weights(hand_model("llama-3.1-8b"), weights_format="fp9")
    assert caught.value.suggestions


def test_a_width_that_tp_does_not_divide_is_refused(hand_model: Hand) -> None:
    with pytest.raises(UsageError, match="tp 3 does not divide the MLP width 14336") as caught:
        stage_weights(hand_model("llama-3.1-8b"), tp=3)
    assert "1, 2, 4, 7, 8" in str(caught.value.hint)


# The logs


@pytest.mark.shared
def test_every_start_up_of_the_study(shared: Path, hand_model: Hand) -> None:
    names = {"meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b", "Qwen/Qwen2.5-7B-Instruct": "qwen2.5-7b"}
    with (shared / "data/latency/engine_startup_memory.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 24
    for row in rows:
        bill = stage_weights(
            hand_model(names[row["model"]]),
            weights_format="fp32" if row["dtype"] == "float32" else row["quantization"] or None,
            tp=int(row["tensor_parallel_size"]),
            pp=int(row["pipeline_parallel_size"]),
        )
        assert bill.total_bytes / GIB == pytest.approx(float(row["weight_memory_gib"]), rel=0.002), row
