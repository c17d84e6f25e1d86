"""What one weight matrix takes in each storage format: code bits, scales and zero points, to the byte.

A matrix has ``outputs`` rows and ``inputs`` columns (the layout of a checkpoint); groups run along the
inputs. Scales are counted as the engines store them once the weights are loaded.

======================  ============================================================================
``bf16 fp16 fp32``      2, 2, 4 bytes an element
``fp8``                 1 byte, one fp32 scale a matrix
``fp8_block128``        1 byte, one fp32 scale per 128 x 128 tile (DeepSeek-V3)
``fp8_channel``         1 byte, one fp32 scale a row
``int8``                1 byte, one fp32 scale a row (W8A8)
``int8_block128``       1 byte, one fp32 scale per 128 x 128 tile
``int8_group128``       1 byte, per group an fp16 scale (GPTQ of 8 bits)
``int4_group32|64|128`` 4 bits, per group an fp16 scale and a 4-bit zero point (AWQ, GPTQ); ``int4`` = 128
``int4_channel``        4 bits, an fp16 scale and a 4-bit zero point a row (group size -1)
``int2_group64`` ...    2 to 8 bits (``int3_channel``), with groups and zero points as those of 4 bits
``nf4 nf4_double``      4 bits, per 64 inputs an fp32 scale, or an 8-bit one (bitsandbytes)
``nvfp4``               4 bits, an fp8 scale per 16 inputs, two fp32 scales a matrix
``mxfp4 mxfp8``         4 or 8 bits, an 8-bit exponent per 32 inputs (OCP MX)
======================  ============================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kvplan.errors import UnknownName


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """Bits of the codes and granularity of the scales; ``group`` 0 means no grouped scales."""

    name: str
    bits: int
    group: int = 0
    scale_bits: int = 0
    zero_bits: int = 0
    tile: int = 0
    row_scale_bits: int = 0
    matrix_bytes: int = 0

    @property
    def quantized(self) -> bool:
        """True where the codes need scales to be read."""
        return bool(self.group or self.tile or self.row_scale_bits or self.matrix_bytes)

    def matrix(self, outputs: int, inputs: int) -> int:
        """Bytes of one ``outputs`` x ``inputs`` matrix with everything needed to read it."""
        total_bits = outputs * inputs * self.bits
        if self.group:
            groups = -(-inputs // self.group) * outputs
            total_bits += groups * (self.scale_bits + self.zero_bits)
        if self.tile:
            total_bits += -(-outputs // self.tile) * -(-inputs // self.tile) * self.scale_bits
        total_bits += outputs * self.row_scale_bits
        return -(-total_bits // 8) + self.matrix_bytes


def _int4(name: str, group: int) -> WeightFormat:
    return WeightFormat(name, bits=4, group=group, scale_bits=16, zero_bits=4)


_FORMATS = {
    fmt.name: fmt
    for fmt in (
        WeightFormat("fp32", bits=32),
        WeightFormat("bf16", bits=16),
        WeightFormat("fp16", bits=16),
        WeightFormat("fp8", bits=8, matrix_bytes=4),
        WeightFormat("fp8_channel", bits=8, row_scale_bits=32),
        WeightFormat("fp8_block128", bits=8, tile=128, scale_bits=32),
        WeightFormat("int8", bits=8, row_scale_bits=32),
        WeightFormat("int8_block128", bits=8, tile=128, scale_bits=32),
        WeightFormat("int8_group128", bits=8, group=128, scale_bits=16),
        _int4("int4", 128),
        WeightFormat("int4_channel", bits=4, row_scale_bits=20),
        WeightFormat("nf4", bits=4, group=64, scale_bits=32),
        WeightFormat("nf4_double", bits=4, group=64, scale_bits=8, matrix_bytes=4),
        _int4("int4_group32", 32),
        _int4("int4_group64", 64),
        _int4("int4_group128", 128),
        WeightFormat("nvfp4", bits=4, group=16, scale_bits=8, matrix_bytes=8),
        WeightFormat("mxfp4", bits=4, group=32, scale_bits=8),
        WeightFormat("mxfp8", bits=8, group=32, scale_bits=8),
    )
}

_ALIASES = {
    "float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "fp8_e4m3": "fp8",
    "w8a8": "int8", "w4a16": "int4_group128", "awq": "int4_group128", "gptq": "int4_group128",
    "w4a16_g32": "int4_group32", "w4a16_g64": "int4_group64", "w4a16_g128": "int4_group128",
}  # fmt: skip


_INTEGERS = re.compile(r"int([2-8])_(?:group(\d{1,4})|channel)")


def _integers(name: str) -> WeightFormat | None:
    """Integers of other widths and groups, as AutoRound and compressed-tensors store them (vLLM: Humming)."""
    match = _INTEGERS.fullmatch(name)
    if match is None or (match.group(2) is not None and not int(match.group(2))):
        return None
    bits = int(match.group(1))
    zero = bits if bits < 8 else 0
    if match.group(2) is None:
        return WeightFormat(name, bits=bits, row_scale_bits=16 + zero)
    return WeightFormat(name, bits=bits, group=int(match.group(2)), scale_bits=16, zero_bits=zero)


def weight_format(name: str) -> WeightFormat:
    """The format called ``name`` (aliases such as ``awq`` and ``w4a16`` resolve).

    Raises:
        UnknownName: no such format.
    """
    key = name.strip().lower().replace("-", "_")
    key = _ALIASES.get(key, key)
    found = _FORMATS.get(key) or _integers(key)
    if found is None:
        raise UnknownName("weight format", name, [*_FORMATS, *_ALIASES])
    return found


def weight_format_names() -> list[str]:
    """Canonical names, in the order of the table above."""
    return list(_FORMATS)
