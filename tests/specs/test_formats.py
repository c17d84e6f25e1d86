"""KV number formats: exact bytes, against page sizes that engines publish and against the papers' arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import UnknownName, UsageError
from kvplan.sizing.weight_formats import weight_format
from kvplan.specs.formats import ALIASES, format_names, kv_format, kv_pair

NAMES = st.sampled_from(format_names())
DIMS = st.sampled_from([32, 64, 80, 96, 128, 192, 256, 512])


@pytest.mark.parametrize(
    ("name", "dim", "expected"),
    [
        ("fp32", 128, 512),
        ("bf16", 128, 256),
        ("fp8", 128, 128),
        ("int8_per_token_head", 128, 132),
        ("int4_per_token_head", 128, 68),
        ("nvfp4", 128, 72),
        ("nvfp4", 64, 36),
        ("mxfp4", 128, 68),
        ("turboquant_3bit_nc", 128, None),
        ("int4_g32", 128, 64 + 4 * 4),
        ("int4_g128", 64, 32 + 4),
    ],
)
def test_bytes_of_one_key_row(name: str, dim: int, expected: int | None) -> None:
    form = kv_format(name)
    if expected is None:
        assert form.k.bytes_per_token(1, dim) == 48 + 2
        assert form.v.bytes_per_token(1, dim) == 48 + 4
    else:
        assert form.k.bytes_per_token(1, dim) == form.v.bytes_per_token(1, dim) == expected


def test_latents_in_packed_formats() -> None:
    assert kv_format("fp8_ds_mla").latent_bytes(512, 64) == 656
    assert kv_format("nvfp4_ds_mla").latent_bytes(512, 64) == 352
    assert kv_format("int8_per_token_head").latent_bytes(512, 64) == 584
    assert kv_format("bf16").latent_bytes(512, 64) == 1152


def test_kivi_keys_flush_in_blocks_and_values_slide() -> None:
    kivi = kv_format("kivi2")
    heads, dim = 8, 128
    row_codes, row_full = heads * dim * 2 // 8, heads * dim * 2
    assert kivi.k.bytes(127, heads, dim) == 127 * row_full
    group_meta = 4 * heads * dim  # fp16 scale and zero point of every channel, for one group of 32 tokens
    assert kivi.k.bytes(128, heads, dim) == 128 * row_codes + 4 * group_meta
    assert kivi.v.bytes(128, heads, dim) == 128 * row_full
    assert kivi.v.bytes(228, heads, dim) == 100 * (row_codes + heads * 4 * 4) + 128 * row_full


def test_kvquant_counts_values_indices_and_row_pointers_of_outliers() -> None:
    form = kv_format("kvquant3")
    heads, dim = 8, 128
    outliers = -(-heads * dim // 100)
    assert form.k.bytes(10, heads, dim) == 10 * (heads * dim * 3 // 8 + outliers * 4 + 4)
    assert form.v.bytes(10, heads, dim) == 10 * (heads * (dim * 3 // 8 + 4) + outliers * 4 + 4)


def test_static_scales_belong_to_the_model() -> None:
    assert kv_format("fp8").k.static_bytes(8) == 4
    assert kv_format("fp8_per_head").k.static_bytes(8) == 32
    assert kv_format("bf16").k.static_bytes(8) == 0


def test_k_and_v_may_differ() -> None:
    pair = kv_pair("fp8", "nvfp4")
    assert pair.name == "fp8_e4m3/nvfp4"
    assert pair.k.bytes_per_token(1, 128) == 128
    assert pair.v.bytes_per_token(1, 128) == 72
    assert kv_pair("int4", "int4_g64") is kv_format("int4")


def test_a_latent_format_has_no_separate_v() -> None:
    with pytest.raises(UsageError, match="as a whole"):
        kv_pair("fp8_ds_mla", "bf16")


def test_unknown_formats_suggest_near_ones() -> None:
    with pytest.raises(UnknownName) as error:
        kv_format("nvfp5")
    assert "nvfp4" in (error.value.hint or "")


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_aliases_lead_to_formats(alias: str) -> None:
    assert kv_format(alias.upper()).name == ALIASES[alias]


@given(NAMES, DIMS, st.integers(1, 64), st.integers(0, 5000))
def test_bytes_never_fall_as_values_grow_and_match_the_asymptote(
    name: str, dim: int, heads: int, tokens: int
) -> None:
    side = kv_format(name).v
    assert side.bytes(tokens + 1, heads, dim) >= side.bytes(tokens, heads, dim)
    far = 1_000_000
    step = side.bytes(far + 320, heads, dim) - side.bytes(far, heads, dim)
    assert abs(Fraction(step) - 320 * side.bytes_per_token(heads, dim)) <= 1


@given(NAMES, DIMS, st.integers(1, 64))
def test_no_format_beats_its_code_bits_and_none_exceeds_fp32(name: str, dim: int, heads: int) -> None:
    form = kv_format(name)
    for side in (form.k, form.v):
        per_token = side.bytes_per_token(heads, dim)
        assert per_token >= Fraction(heads * dim * side.bits, 8)
        assert per_token <= 4 * heads * dim


@pytest.mark.parametrize("look_up", [kv_format, weight_format])
def test_an_unknown_format_far_from_all_lists_them(look_up: Callable[[str], object]) -> None:
    with pytest.raises(UnknownName) as caught:
        look_up("zzzzzz")
    assert "known: " in str(caught.value.hint)
    assert "fp8" in str(caught.value.hint)
