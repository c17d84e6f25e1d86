"""The quantization rules in torch: error bounds per element, round trips, damage bands."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from kvplan.kernels import reference  # noqa: E402
from kvplan.kernels.batch import PagedBatch  # noqa: E402
from kvplan.kernels.cache import PagedKVCache  # noqa: E402
from kvplan.kernels.formats import Code, Scaling, TensorFormat, all_formats, get_format  # noqa: E402
from kvplan.kernels.packing import decode, decode_scale, encode_e2m1, encode_float8, pack, unpack  # noqa: E402
from kvplan.kernels.quantize import quantize  # noqa: E402

ONE = torch.ones(1)


def dequantized(x, side: TensorFormat):
    coded = quantize(x, side, ONE)
    y = decode(unpack(coded.codes, side), side.code, torch.float64)
    scale = decode_scale(coded.scale, side, torch.float64)
    group = x.shape[-1] // scale.shape[-1]
    y = y * scale.repeat_interleave(group, -1)
    if coded.minimum is not None:
        y = y + coded.minimum.double().repeat_interleave(group, -1)
    return y, scale.repeat_interleave(group, -1)


@given(st.integers(0, 2**31), st.floats(-8, 8), st.floats(-3, 3))
@settings(max_examples=40)
@pytest.mark.parametrize(
    "side",
    [get_format(n).value for n in ("int8_per_token_head", "int4", "int4_g64", "int4_g32", "kivi2")],
    ids=lambda side: f"{side.code.name}-{side.scaling.name}-{side.group}",
)
def test_integer_codes_are_within_half_a_step(side: TensorFormat, seed: int, log_size: float, offset: float):
    x = (torch.randn(6, 2, 128, generator=torch.Generator().manual_seed(seed)) + offset) * 2.0**log_size
    y, scale = dequantized(x, side)
    # The minimum is fp16: it may be off by half a unit in its last place.
    slack = x.abs().amax() * 2.0**-11 + 2.0**-25 if side.asymmetric else 0.0
    ends = scale * (15 if side.code is Code.INT4 else 3 if side.code is Code.INT2 else 127) * 2.0**-10
    assert bool(((y - x.double()).abs() <= scale / 2 * 1.001 + slack + ends).all())


@pytest.mark.parametrize(("code", "relative"), [(Code.E4M3, 2**-4), (Code.E5M2, 2**-3)])
def test_fp8_keeps_its_relative_precision_and_saturates(code: Code, relative: float):
    x = torch.randn(4096) * 8
    y = decode(encode_float8(x, code), code, torch.float64)
    normal = x.abs() >= 2**-6
    assert bool(((y - x.double()).abs() <= relative * x.abs() + 1e-12)[normal].all())
    top = 448.0 if code is Code.E4M3 else 57344.0
    assert decode(encode_float8(torch.tensor([1e9, -1e9]), code), code, torch.float64).tolist() == [top, -top]


def test_e2m1_rounds_to_nearest_with_ties_to_even():
    x = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 100.0, -0.3, 0.2])
    y = decode(encode_e2m1(x), Code.E2M1, torch.float64)
    assert y.tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0, -0.5, 0.0]


@given(st.integers(0, 2**31))
@settings(max_examples=20)
@pytest.mark.parametrize("code", [Code.INT4, Code.INT2, Code.E2M1])
def test_packing_round_trips(code: Code, seed: int):
    side = TensorFormat(code, Scaling.TOKEN_HEAD)
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << side.bits, (3, 64), generator=g, dtype=torch.uint8)
    packed = pack(codes, side)
    assert packed.shape[-1] == 64 // side.pack
    assert torch.equal(unpack(packed, side), codes)


BANDS = {
    "bf16": 0.003, "fp16": 0.003, "int8_per_token_head": 0.009, "int8": 0.016, "int8_per_head": 0.016,
    "fp8_e4m3": 0.035, "fp8_e5m2": 0.07, "int4_g32": 0.1, "int4_g64": 0.11, "int4": 0.125, "kivi4": 0.1,
    "nvfp4": 0.13, "mxfp4": 0.15, "kivi2": 0.48,
}  # fmt: skip


@pytest.mark.parametrize("name", BANDS)
def test_damage_to_random_keys_and_values_stays_in_its_band(name: str):
    g = torch.Generator().manual_seed(0)
    tokens = 512
    fmt = get_format(name)
    cache = PagedKVCache.allocate(fmt, num_blocks=8, block_size=64, kv_heads=1, head_dim=128, max_sequences=1)
    dtype = torch.float16 if name == "fp16" else torch.bfloat16
    exact = torch.randn(tokens, 1, 128, generator=g)
    x = exact.to(dtype)
    cache.calibrate(x, x)
    batch = PagedBatch.build(
        torch.arange(8, dtype=torch.int32)[None], torch.tensor([tokens], dtype=torch.int32), [tokens]
    )
    reference.append(cache, x, x, batch)
    for stored in reference.gather(cache, batch, 0, torch.float64):
        damage = float((stored - exact.double()).norm() / exact.double().norm())
        assert BANDS[name] / 4 < damage or name in ("bf16", "fp16", "kivi2")
        assert damage < BANDS[name]


def test_bands_cover_every_format():
    assert set(BANDS) == {fmt.name for fmt in all_formats() if not fmt.latent}


def test_the_cache_weighs_what_the_format_says():
    for fmt in all_formats():
        if fmt.latent:
            continue
        cache = PagedKVCache.allocate(
            fmt, num_blocks=4, block_size=64, kv_heads=2, head_dim=128, max_sequences=1
        )
        ring = cache.key_ring.nbytes + cache.value_ring.nbytes if fmt.residual else 0
        pages = cache.nbytes() - ring - cache.key_static.nbytes - cache.value_static.nbytes
        assert pages == 4 * 64 * fmt.bytes_per_token(2, 128)
