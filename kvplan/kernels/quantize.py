"""Quantization rules, in plain torch: what ``cache_write`` stores, to the bit.

All arithmetic is fp32. Scales are rounded to their stored type *before* codes are computed, so that codes are
the nearest ones for the scale a reader will see; reciprocals are taken once per scale and multiplied.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kvplan.kernels.formats import LEVELS, Code, Scaling, TensorFormat
from kvplan.kernels.packing import E2M1_MAX, E4M3_MAX, encode_e2m1, encode_float8, pack

TINY = 2.0**-24
"""Smallest scale: the smallest positive fp16."""
FP16_MAX = 65504.0
MX_LARGEST_EXPONENT = 8
"""mxfp4 block scales stop at 2^8 (values beyond 1536 saturate), so that scaled codes stay in fp16 range."""


class Coded(NamedTuple):
    """Codes packed along the last dimension; scales and minima (``None`` where the format has none)."""

    codes: Tensor
    scale: Tensor | None
    minimum: Tensor | None


def quantize(x: Tensor, side: TensorFormat, static: Tensor) -> Coded:
    """Code [..., H, D] values token by token.

    Args:
        x: bf16, fp16 or fp32.
        static: fp32 [1] or [H]: the scale that was set beforehand (TENSOR, HEAD, and the tensor-wide part of
            nvfp4); 1 elsewhere.

    Returns:
        codes [..., H, D*bits/8]; scale and minimum [..., H, scales_per_token].
    """
    if side.code is Code.FLOAT16:
        return Coded(x, None, None)
    x = x.float()
    if side.scaling in (Scaling.TENSOR, Scaling.HEAD):
        y = x * (1.0 / static)[..., :, None]
        return Coded(_encode(y, side), None, None)
    groups = x.shape[-1] if side.scaling is Scaling.TOKEN_HEAD else side.group
    grouped = x.unflatten(-1, (-1, groups))
    scale, minimum = _scales(grouped.amin(-1), grouped.amax(-1), side, static)
    y = _normalise(grouped, scale[..., None], None if minimum is None else minimum[..., None], side, static)
    return Coded(_encode(y.flatten(-2), side), scale, minimum)


def quantize_channels(x: Tensor, side: TensorFormat) -> Coded:
    """Code [..., g, H, D] keys per channel over their g tokens (KIVI).

    Returns:
        codes [..., g, H, D*bits/8]; scale and minimum [..., H, D].
    """
    x = x.float()
    scale, minimum = _scales(x.amin(-3), x.amax(-3), side, torch.ones(1, device=x.device))
    y = _normalise(x, scale.unsqueeze(-3), None if minimum is None else minimum.unsqueeze(-3), side, None)
    return Coded(_encode(y, side), scale, minimum)


def _scales(low: Tensor, high: Tensor, side: TensorFormat, static: Tensor) -> tuple[Tensor, Tensor | None]:
    if side.asymmetric:
        scale = ((high - low) * (1.0 / LEVELS[side.code])).clamp(TINY, FP16_MAX).half()
        return scale, low.clamp(-FP16_MAX, FP16_MAX).half()
    largest = torch.maximum(high.abs(), low.abs())
    if side.code is Code.E2M1 and side.group == 32:
        # floor(log2(amax)) - 2, read off the exponent bits; e8m0 stores it with bias 127.
        exponent = ((largest.view(torch.int32) >> 23) & 0xFF) - 2
        return exponent.clamp(1, 127 + MX_LARGEST_EXPONENT).to(torch.uint8), None
    if side.code is Code.E2M1:
        per_group = largest * (1.0 / E2M1_MAX) * (1.0 / static)[..., :, None]
        coded = encode_float8(per_group.clamp(2.0**-9, E4M3_MAX), Code.E4M3)
        return coded, None
    return (largest * (1.0 / LEVELS[side.code])).clamp(TINY, FP16_MAX).half(), None


def _normalise(
    x: Tensor, scale: Tensor, minimum: Tensor | None, side: TensorFormat, static: Tensor | None
) -> Tensor:
    if side.code is Code.E2M1 and side.group == 32:
        return x * ((254 - scale.int()) << 23).view(torch.float32)
    if side.code is Code.E2M1:
        assert static is not None
        step = scale.view(torch.float8_e4m3fn).float() * static[..., :, None, None]
        return x * (1.0 / step)
    if minimum is not None:
        x = x - minimum.float()
    return x * (1.0 / scale.float())


def _encode(y: Tensor, side: TensorFormat) -> Tensor:
    if side.code in (Code.E4M3, Code.E5M2):
        return encode_float8(y, side.code)
    if side.code is Code.E2M1:
        return pack(encode_e2m1(y), side)
    if side.code is Code.INT8:
        return y.round().clamp(-127, 127).to(torch.int8).view(torch.uint8)
    return pack(y.round().clamp(0, LEVELS[side.code]).to(torch.uint8), side)
