"""Every kernel in every format against float64, in Triton's interpreter."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: kernels cannot run")
pytest.importorskip("triton", reason="triton is not installed: kernels cannot be interpreted")

from kvplan.kernels import cases, launch, matrix, mla_cache, reference, variants_mla  # noqa: E402
from kvplan.kernels.batch import PagedBatch  # noqa: E402
from kvplan.kernels.cache import PagedKVCache  # noqa: E402
from kvplan.kernels.cases import Case  # noqa: E402
from kvplan.kernels.formats import all_formats  # noqa: E402
from kvplan.kernels.gpu import reduce  # noqa: E402
from kvplan.kernels.variants import Target  # noqa: E402
from tests.kernels.interpreted import one_lot  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("interpreter")]

PAGED = list(matrix.paged_cases())


@pytest.fixture
def combined(case: Case, monkeypatch) -> None:
    """Parts of splits are fp32 whatever the format. For a GPU as many are loaded at once as its registers hold,
    most of them masked here, which is what the interpreter takes longest for: it does so for one format, and
    eight at a time for the others."""
    if case.format not in ("bf16", "mla_bf16"):
        monkeypatch.setattr(reduce, "lots_at_once", one_lot)


@pytest.mark.usefixtures("combined")
@pytest.mark.parametrize("case", [*PAGED, *matrix.mla_cases()], ids=lambda case: case.name)
def test_kernel_agrees_with_float64(case: Case):
    built = cases.build(case)
    out, lse = cases.run(case, built)
    error, lse_error = cases.errors(built, out, lse)
    assert error <= case.bound(interpreted=True)
    assert lse_error <= (cases.LSE_BOUND if case.fold else 2e-4)


ROUNDED = [
    case
    for case in PAGED
    if ((case.splits > 1 and case.group == 4 and not case.queries) or max(case.queries or (0,)) > 32)
    and not case.fold
    and case.format not in ("bf16", "fp16")
]


@pytest.mark.usefixtures("combined")
@pytest.mark.parametrize(
    "case", [*ROUNDED, replace(matrix.MLA_CASES[1], format="mla_fp8")], ids=lambda case: case.name
)
def test_rounding_operands_to_fp16_as_a_gpu_does_stays_within_its_bound(case: Case, monkeypatch):
    # The interpreter's products are exact to fp32; what a GPU adds is the rounding of both operands.
    monkeypatch.setattr(Target, "compute_type", lambda self, fmt, dtype: "float16")
    case = replace(case, fold=True)
    built = cases.build(case)
    error, lse_error = cases.errors(built, *cases.run(case, built))
    assert cases.INTERPRETER_BOUND < error <= case.bound(interpreted=False)
    assert lse_error <= cases.LSE_BOUND


def test_many_heads_share_a_latent_tile(monkeypatch):
    # As on Hopper: 64 query columns to a program, and two programs for 80 heads.
    monkeypatch.setattr(variants_mla, "mla_columns", lambda columns, target: 64)
    monkeypatch.setattr(reduce, "lots_at_once", one_lot)
    case = Case("mla_bf16", (70,), block_size=64, group=80, splits=2)
    built = cases.build(case)
    for fused in (False, True):
        error, lse_error = cases.errors(built, *cases.run(replace(case, fused=fused), built))
        assert error <= case.bound(interpreted=True)
        assert lse_error <= 2e-4


def test_small_latents_keep_their_precision_in_fp8(monkeypatch):
    # Their scales, and the scaled values, would be subnormal in fp16.
    monkeypatch.setattr(Target, "compute_type", lambda self, fmt, dtype: "float16")
    case = Case("mla_fp8", (40,), group=16)
    built = cases.build(case)
    built.cache.scale *= 2.0**-9
    built.expected, built.expected_lse = mla_cache.attention(
        built.query, built.cache, built.batch, scale=192**-0.5, compute=torch.float64
    )
    error, _ = cases.errors(built, *cases.run(case, built))
    assert error <= case.bound(interpreted=False)


def test_the_matrix_covers_every_level_for_every_format():
    for fmt in all_formats():
        if fmt.latent:
            continue
        mine = [case for case in PAGED if case.format == fmt.name]
        sizes = {case.block_size for case in mine}
        assert {64, 128, 256} <= sizes
        assert sizes & {16, 96}
        assert {1, 4, 8, 17} <= {case.group for case in mine}
        assert any(0 < case.window < case.block_size for case in mine)
        assert {True, False} == {case.fused for case in mine if case.splits > 1}
        guessed = [case.queries for case in mine if case.queries and max(case.queries) <= 8]
        assert {1, 8} <= {count for queries in guessed for count in queries}
        assert any(max(case.queries) > 32 for case in mine if case.queries)


def test_an_answer_does_not_depend_on_its_neighbours_in_the_batch():
    case = Case("int4_g64", (70, 33, 5), kv_heads=2, splits=2)
    built = cases.build(case)
    together, _ = cases.run(case, built)
    alone = replace(built.batch, block_table=built.batch.block_table[1:2], lengths=built.batch.lengths[1:2])
    single, _ = cases.run(case, replace(built, batch=alone, query=built.query[1:2]))
    assert torch.equal(single[0], together[1])


@pytest.mark.parametrize("name", ["int4", "mla_fp8"])
def test_one_launch_serves_any_numbers_of_guessed_tokens(name: str):
    # A captured graph has the grid of the most tokens; how many each sequence has is read on the device.
    case = Case(name, (60, 33, 9), block_size=64, group=4, splits=2, queries=(8, 1, 3))
    built = cases.build(case)
    for counts in ((8, 1, 3), (2, 7, 3), (0, 8, 4)):
        built.batch.query_starts.copy_(torch.tensor([0, *counts]).cumsum(0))
        oracle, scale = (mla_cache, 192**-0.5) if name == "mla_fp8" else (reference, None)
        built.expected, built.expected_lse = oracle.attention(
            built.query, built.cache, built.batch, scale=scale, compute=torch.float64
        )
        error, lse_error = cases.errors(built, *cases.run(case, built))
        assert error <= case.bound(interpreted=True)
        assert lse_error <= 2e-4


def test_few_tokens_of_few_sequences_share_a_long_context_between_programs():
    # On a GPU with an H100's multiprocessors: verification fills them as decoding does.
    built = cases.build(Case("fp8_e4m3", (40,), group=4, queries=(8,)))
    table = built.batch.block_table.new_zeros(1, 32768 // 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "multiprocessors", lambda _: 132)
        for queries in (1, 2, 8):
            starts = None if queries == 1 else torch.tensor([0, queries], dtype=torch.int32)
            batch = PagedBatch(table, built.batch.lengths, starts, queries)
            splits = launch.splits_for(built.query[:queries], built.cache, batch, 0)
            assert splits >= 120


def test_fused_and_two_stage_reductions_agree_to_the_bit():
    case = Case("fp8_e4m3", (150, 20), splits=3)
    built = cases.build(case)
    staged, staged_lse = cases.run(case, built)
    fused, fused_lse = cases.run(replace(case, fused=True), built)
    assert torch.equal(staged, fused)
    assert torch.equal(staged_lse, fused_lse)
    assert int(built.cache.counters.abs().max()) == 0


def test_the_comparison_notices_an_unwritten_output():
    case = Case("bf16", (20,))
    built = cases.build(case)
    out, lse = cases.run(case, built)
    out[0, 1, 3] = math.nan
    assert math.isnan(cases.errors(built, out, lse)[0])


def test_the_comparison_notices_a_wrong_page():
    case = Case("bf16", (40, 40))
    built = cases.build(case)
    swapped = replace(built.batch, block_table=built.batch.block_table.flip(0).contiguous())
    out, lse = cases.run(case, replace(built, batch=swapped))
    assert not cases.errors(built, out, lse)[0] <= cases.BF16_BOUND


@pytest.mark.parametrize("fmt", all_formats(), ids=lambda fmt: fmt.name)
def test_products_are_never_bf16_under_the_interpreter(fmt):
    # Its bf16 dot product multiplies raw bit patterns.
    assert Target(None).compute_type(fmt, "bfloat16") == "float32"
    assert launch.target().interpreted


def test_a_long_context_with_a_common_offset_keeps_the_folded_bias_small():
    # Keys and queries with a large mean make the folded correction large compared with the scores.
    case = Case("int4", (1500,), block_size=64, splits=4, fold=True)
    built = cases.build(case)
    built.query += 3.0
    from kvplan.kernels import reference

    built.expected, built.expected_lse = reference.attention(
        built.query, built.cache, built.batch, compute=torch.float64
    )
    error, lse_error = cases.errors(built, *cases.run(case, built))
    assert error <= 1e-3
    assert lse_error <= cases.LSE_BOUND


@pytest.mark.parametrize("name", ["int8_per_token_head", "int4", "int4_g64", "fp8_e4m3"])
def test_what_a_sink_leaves_over_is_not_lost_in_fp16(name: str, monkeypatch):
    # One token takes nearly all of the weight and has no value; the others share the rest, and their weights
    # times the scales of small values are near the smallest numbers of fp16.
    monkeypatch.setattr(Target, "compute_type", lambda self, fmt, dtype: "float16")
    count, dim = 6000, 128
    g = torch.Generator().manual_seed(5)
    query = torch.randn(1, 4, dim, generator=g).bfloat16()
    query[:] = query[:, :1]
    key = torch.randn(count, 1, dim, generator=g) * 0.01
    direction = query[0, 0].float()
    key[0, 0] = direction * (math.log(30 * count) * math.sqrt(dim) / float(direction @ direction))
    value = torch.randn(count, 1, dim, generator=g) * 0.1 + 0.1
    value[0] = 0.0
    cache = PagedKVCache.allocate(name, num_blocks=94, block_size=64, kv_heads=1, head_dim=dim)
    cache.calibrate(key.bfloat16(), value.bfloat16())
    batch = PagedBatch.build(
        torch.arange(94, dtype=torch.int32)[None], torch.tensor([count], dtype=torch.int32)
    )
    fill = PagedBatch.build(batch.block_table, batch.lengths, [count])
    reference.append(cache, key.bfloat16(), value.bfloat16(), fill)
    expected, _ = reference.attention(query, cache, batch, compute=torch.float64)
    out = torch.full_like(query, math.nan, dtype=torch.float32)
    out, _ = launch.attend(
        query, cache, batch, scale=dim**-0.5, window=0, splits=1, on=Target(None, True), out=out
    )
    error = float((out.double() - expected).norm() / expected.norm())
    assert error <= cases.FP16_BOUND
