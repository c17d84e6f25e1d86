"""Element codes in plain torch: pack and unpack, fp8 and fp4, on any device.

The oracle of the kernels: nothing here is fast, everything here is exact.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from kvplan.kernels.formats import Code, TensorFormat

E4M3_MAX, E5M2_MAX, E2M1_MAX = 448.0, 57344.0, 6.0
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP8 = {Code.E4M3: (torch.float8_e4m3fn, E4M3_MAX), Code.E5M2: (torch.float8_e5m2, E5M2_MAX)}


def pack(codes: Tensor, side: TensorFormat) -> Tensor:
    """[..., D] uint8 codes below 2^bits to [..., D*bits/8] bytes: slice j of D/pack elements in bits j*bits
    up."""
    if side.pack == 1:
        return codes
    slices = codes.chunk(side.pack, dim=-1)
    packed = slices[0].clone()
    for j in range(1, side.pack):
        packed |= slices[j] << (j * side.bits)
    return packed


def unpack(packed: Tensor, side: TensorFormat) -> Tensor:
    """The inverse of ``pack``."""
    if side.pack == 1:
        return packed
    mask = (1 << side.bits) - 1
    return torch.cat([(packed >> (j * side.bits)) & mask for j in range(side.pack)], dim=-1)


def decode(codes: Tensor, code: Code, dtype: torch.dtype) -> Tensor:
    """Unpacked codes as numbers, before scale and minimum."""
    if code is Code.FLOAT16:
        return codes.to(dtype)
    if code in FP8:
        return codes.view(FP8[code][0]).to(dtype)
    if code is Code.INT8:
        return codes.view(torch.int8).to(dtype)
    if code is Code.E2M1:
        table = torch.tensor(E2M1_VALUES, dtype=dtype, device=codes.device)
        sign = 1 - 2 * (codes >> 3).to(dtype)
        return table[(codes & 7).long()] * sign
    return codes.to(dtype)


def encode_float8(x: Tensor, code: Code) -> Tensor:
    """fp32 to fp8 bytes: round half to even, saturating. Zero is always +0, as the write kernel stores it."""
    dtype, largest = FP8[code]
    raw = x.clamp(-largest, largest).to(dtype).view(torch.uint8)
    return torch.where((raw & 0x7F) == 0, torch.zeros_like(raw), raw)


def encode_e2m1(x: Tensor) -> Tensor:
    """fp32 to e2m1 codes: nearest value, ties to the even code, saturating; zero is +0."""
    a = x.abs()
    # Midpoints between neighbours; a tie goes to the neighbour whose last bit is 0.
    code = torch.zeros(x.shape, dtype=torch.uint8, device=x.device)
    for i, (low, high) in enumerate(pairwise(E2M1_VALUES)):
        middle = (low + high) / 2
        above = a > middle if i % 2 == 0 else a >= middle
        code += above.to(torch.uint8)
    return torch.where((x < 0) & (code > 0), code | 8, code)


def decode_scale(stored: Tensor, side: TensorFormat, dtype: torch.dtype) -> Tensor:
    """Stored scales as numbers: floats as they are, e4m3 bytes, or power-of-two bytes (group 32)."""
    if side.scale_dtype != "uint8":
        return stored.to(dtype)
    if side.group == 32:
        return torch.where(stored == 0, 0.0, torch.exp2(stored.to(dtype) - 127)).to(dtype)
    return stored.view(torch.float8_e4m3fn).to(dtype)
