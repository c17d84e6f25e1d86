"""KV number formats: how many bytes K or V of some tokens take, every scale, zero point and pad counted.

A format describes one *side* (K or V) of a cache. A row is what one token leaves in one head: ``dim``
elements. Codes of ``bits`` each are packed per row; metadata lies beside them at one of these granularities:

========== ===========================================================================================
tensor     one static scale per layer and side; part of the model, nothing per token
head       one static scale per head; part of the model, nothing per token
row        per token and head (engines say *per-token-head*): ``meta_bits`` per row
group      per ``group`` neighbouring elements of a row: ``meta_bits`` per group
channel    per channel and ``group`` neighbouring tokens (KIVI keys): ``meta_bits`` per channel and group
========== ===========================================================================================

Sources: page sizes published by vLLM 0.33 (``fp8``, ``*_per_token_head``, ``nvfp4``, ``turboquant_*``,
``fp8_ds_mla``, ``nvfp4_ds_mla``); KIVI, arXiv:2402.02750; KVQuant, arXiv:2401.18079; OCP MX 1.0 (``mxfp4``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from kvplan.errors import UnknownName, UsageError
from kvplan.specs.attention import LatentAttention

Side = Literal["k", "v"]
Granularity = Literal["none", "tensor", "head", "row", "group", "channel"]

FULL_BITS = {"fp32": 32, "bf16": 16, "fp16": 16}
"""Bits of the unquantized dtypes, which are also what a residual window is kept in."""


@dataclass(frozen=True, slots=True)
class SideFormat:
    """How one side (K or V) is stored. Bits unless the name says bytes."""

    bits: int
    granularity: Granularity = "none"
    meta_bits: int = 0
    """Scale plus zero point of one row, group, or channel group."""
    group: int = 0
    residual: int = 0
    """Most recent tokens kept in full precision: a block of up to ``residual`` for channel grouping (it is
    flushed when full), a window of exactly ``residual`` otherwise."""
    residual_bits: int = 16
    outliers: Fraction = Fraction(0)
    """Fraction of elements kept besides the codes, 16-bit value plus 16-bit index each, and a 32-bit row
    pointer per token."""
    static_bits: int = 0
    """Scales that belong to the model: per layer (granularity tensor) or per head (granularity head)."""

    def row_bits(self, dim: int) -> Fraction:
        """Bits one further quantized token adds to one head of ``dim`` elements, without outliers."""
        codes = -(-dim * self.bits // 8) * 8
        if self.granularity == "row":
            return Fraction(codes + self.meta_bits)
        if self.granularity == "group":
            return Fraction(codes + -(-(-(-dim // self.group) * self.meta_bits) // 8) * 8)
        if self.granularity == "channel":
            return codes + Fraction(dim * self.meta_bits, self.group)
        return Fraction(codes)

    def outlier_bits(self, heads: int, dim: int) -> int:
        """Bits of one token's outliers over all heads."""
        if not self.outliers:
            return 0
        return -(-heads * dim * self.outliers.numerator // self.outliers.denominator) * 32 + 32

    def bytes_per_token(self, heads: int, dim: int) -> Fraction:
        """Bytes one further token adds at a very long context."""
        if dim == 0:
            return Fraction(0)
        return (heads * self.row_bits(dim) + self.outlier_bits(heads, dim)) / 8

    def bytes(self, tokens: int, heads: int, dim: int) -> int:
        """Exact bytes of ``tokens`` tokens."""
        if dim == 0:
            return 0
        if self.granularity == "channel":
            quantized = tokens - tokens % max(self.residual, self.group)
        else:
            quantized = max(tokens - self.residual, 0)
        bits = quantized * (heads * self.row_bits(dim) + self.outlier_bits(heads, dim))
        bits += (tokens - quantized) * heads * dim * self.residual_bits
        return -(-bits.numerator // (bits.denominator * 8))

    def static_bytes(self, heads: int) -> int:
        """Bytes of scales fixed with the model, for one layer."""
        return self.static_bits * (heads if self.granularity == "head" else 1) // 8

    def formula(self, dim: int) -> str:
        """What one row costs, in words of bytes: ``128 x 4/8 + 4``."""
        text = f"{dim}" if self.bits == 8 else f"{dim} x {self.bits}/8"
        if self.bits % 8 == 0 and self.bits != 8:
            text = f"{dim} x {self.bits // 8}"
        meta = f"{self.meta_bits // 8}"
        if self.granularity == "row":
            text += f" + {meta}"
        elif self.granularity == "group":
            text += f" + ceil({dim}/{self.group}) x {meta}"
        elif self.granularity == "channel":
            text += f" + {dim} x {meta}/{self.group}"
        if self.outliers:
            text += f" + {float(self.outliers):.3g} outliers x 4 + 4/heads"
        return text


@dataclass(frozen=True, slots=True)
class KvFormat:
    """A named format: its K side, its V side and, for packed latent formats, the bytes of one entry.

    ``packed`` formats store an MLA latent as a whole: quantized latent, its scales, rope dimensions apart.
    K and V of a head together are a multiple of ``row_multiple`` bytes. vLLM keeps ``plain_ends`` layers at
    either end of a model without recurrent layers in the model's dtype.
    """

    name: str
    k: SideFormat
    v: SideFormat
    summary: str
    packed: Literal["", "fp8_ds_mla", "nvfp4_ds_mla"] = ""
    source: str = "kvplan"
    row_multiple: int = 1
    plain_ends: int = 0

    @property
    def bits(self) -> int:
        """Code bits of the wider side."""
        return max(self.k.bits, self.v.bits)

    def latent_bytes(self, latent: int, rope: int) -> Fraction:
        """Bytes of one MLA entry of ``latent`` + ``rope`` elements."""
        if self.packed == "fp8_ds_mla":
            return Fraction(latent + -(-latent // 128) * 4 + rope * 2)
        if self.packed == "nvfp4_ds_mla":
            return Fraction(-(-latent // 2) + -(-latent // 16) + rope)
        if self.k.granularity == "row":
            # One scale for the latent and one for the rope part, as vLLM lays it out (576 + 8).
            return Fraction((latent + rope) * self.k.bits + (2 if rope else 1) * self.k.meta_bits, 8)
        return self.k.bytes_per_token(1, latent + rope)

    def latent_formula(self, latent: int, rope: int) -> str:
        """The same in words."""
        if self.packed == "fp8_ds_mla":
            return f"{latent} + ceil({latent}/128) x 4 + {rope} x 2"
        if self.packed == "nvfp4_ds_mla":
            return f"{latent}/2 + {latent}/16 + {rope}"
        if self.k.granularity == "row":
            return f"({latent} + {rope}) x {self.k.bits}/8 + {2 if rope else 1} x {self.k.meta_bits // 8}"
        return self.k.formula(latent + rope).replace(str(latent + rope), f"({latent} + {rope})", 1)


def _both(name: str, side: SideFormat, summary: str, source: str = "kvplan") -> KvFormat:
    return KvFormat(name, side, side, summary, source=source)


def _full(name: str, summary: str) -> KvFormat:
    return _both(name, SideFormat(FULL_BITS[name]), summary)


_VLLM = "vLLM 0.33 page sizes"
_MX = "OCP MX 1.0"
_KIVI = "KIVI, arXiv:2402.02750"


def _kivi(bits: int) -> KvFormat:
    key = SideFormat(bits, "channel", meta_bits=32, group=32, residual=128)
    value = SideFormat(bits, "group", meta_bits=32, group=32, residual=128)
    text = f"{bits}-bit, keys per channel in groups of 32 tokens, values per token in groups of 32 channels"
    return KvFormat(f"kivi{bits}", key, value, f"{text}, last 128 tokens in 16 bits", source=_KIVI)


def _kvquant(bits: int, percent: int) -> KvFormat:
    key = SideFormat(bits, outliers=Fraction(percent, 100))
    value = SideFormat(bits, "row", meta_bits=32, outliers=Fraction(percent, 100))
    return KvFormat(
        f"kvquant{bits}_{percent}p", key, value, source="KVQuant, arXiv:2401.18079",
        summary=f"{bits}-bit non-uniform codes, {percent} % outliers in 16 bits with 16-bit indices",
    )  # fmt: skip


def _turboquant(name: str, key_bits: int, value_bits: int) -> KvFormat:
    key = SideFormat(8) if key_bits == 8 else SideFormat(key_bits, "row", meta_bits=16)
    value = SideFormat(value_bits, "row", meta_bits=32)
    text = f"{key_bits}-bit keys, {value_bits}-bit values with scale and zero point per row"
    return KvFormat(name, key, value, text, source=_VLLM, row_multiple=2, plain_ends=2)


_FORMATS = [
    _full("fp32", "32-bit floating point"),
    _full("fp16", "16-bit floating point"),
    _full("bf16", "bfloat16"),
    _both("fp8_e4m3", SideFormat(8, "tensor", static_bits=32), "fp8, one static scale per layer", _VLLM),
    _both("fp8_e5m2", SideFormat(8), "fp8 with 5 exponent bits, unscaled", _VLLM),
    _both("fp8_per_head", SideFormat(8, "head", static_bits=32), "fp8, one static scale per head"),
    _both("fp8_per_token_head", SideFormat(8, "row", meta_bits=32), "fp8, an fp32 scale per row", _VLLM),
    _both("int8", SideFormat(8, "tensor", static_bits=32), "8-bit integers, one static scale per layer"),
    _both("int8_per_head", SideFormat(8, "head", static_bits=32), "8-bit, one static scale per head"),
    _both("int8_per_token_head", SideFormat(8, "row", meta_bits=32), "8-bit, an fp32 scale per row", _VLLM),
    _both("int4_per_token_head", SideFormat(4, "row", meta_bits=32), "4-bit, 4 B of scale per row", _VLLM),
    *(
        _both(
            f"int{bits}_g{group}",
            SideFormat(bits, "group", meta_bits=32, group=group),
            f"{bits}-bit, fp16 scale and zero point per {group} elements",
        )
        for bits in (4, 3, 2)
        for group in (32, 64, 128)
    ),
    _kivi(4),
    _kivi(2),
    *(_kvquant(bits, 1) for bits in (4, 3, 2)),
    _both("nvfp4", SideFormat(4, "group", meta_bits=8, group=16), "fp4, an fp8 scale per 16 elements", _VLLM),
    _both("mxfp4", SideFormat(4, "group", meta_bits=8, group=32), "fp4, an 8-bit exponent per 32", _MX),
    _both("mxfp8", SideFormat(8, "group", meta_bits=8, group=32), "fp8, an 8-bit exponent per 32", _MX),
    _turboquant("turboquant_k8v4", 8, 4),
    _turboquant("turboquant_4bit_nc", 4, 4),
    _turboquant("turboquant_k3v4_nc", 3, 4),
    _turboquant("turboquant_3bit_nc", 3, 3),
    KvFormat(
        "fp8_ds_mla", SideFormat(8), SideFormat(8), packed="fp8_ds_mla", source=_VLLM,
        summary="MLA only: fp8 latent with an fp32 scale per 128, rope in bf16 (656 B for 512 + 64)",
    ),
    KvFormat(
        "nvfp4_ds_mla", SideFormat(4), SideFormat(8), packed="nvfp4_ds_mla", source=_VLLM,
        summary="MLA only: nvfp4 latent, rope in fp8 (352 B for 512 + 64)",
    ),
]  # fmt: skip

ALIASES = {
    "fp8": "fp8_e4m3", "float8": "fp8_e4m3", "float16": "fp16", "half": "fp16", "bfloat16": "bf16",
    "float32": "fp32", "float": "fp32", "int4": "int4_g64", "int3": "int3_g64", "int2": "int2_g64",
    "kivi": "kivi2", "int8_per_tensor": "int8", "fp8_per_tensor": "fp8_e4m3", "fp8_e4m3fn": "fp8_e4m3",
    "kvquant4": "kvquant4_1p", "kvquant3": "kvquant3_1p", "kvquant2": "kvquant2_1p",
}  # fmt: skip

_BY_NAME = {item.name: item for item in _FORMATS}


def format_names() -> list[str]:
    """Every canonical name, in the order of the table."""
    return list(_BY_NAME)


def kv_format(name: str) -> KvFormat:
    """The format called ``name`` (or an alias, in any case).

    Raises:
        UnknownName: with near names.
    """
    folded = name.strip().casefold().replace("-", "_")
    folded = ALIASES.get(folded, folded)
    if folded in _BY_NAME:
        return _BY_NAME[folded]
    raise UnknownName("KV number format", name, [*_BY_NAME, *ALIASES])


def kv_pair(k: str, v: str) -> KvFormat:
    """One format for K and another for V.

    Raises:
        UnknownName: an unknown name; UsageError: a packed latent format has no separate V.
    """
    key, value = kv_format(k), kv_format(v)
    if key.name == value.name:
        return key
    if key.packed or value.packed:
        packed = key.name if key.packed else value.name
        raise UsageError(f"{packed} stores a latent as a whole and cannot be combined with another format")
    summary = f"K: {key.summary}; V: {value.summary}"
    return KvFormat(f"{key.name}/{value.name}", key.k, value.v, summary)


def with_residual_bits(form: KvFormat, bits: int) -> KvFormat:
    """The same format with its full-precision residual in ``bits`` (32 for an fp32 model)."""
    if bits == 16:
        return form
    return replace(form, k=replace(form.k, residual_bits=bits), v=replace(form.v, residual_bits=bits))


def check_fits(form: KvFormat, attention: object) -> None:
    """Refuse a latent-only format on attention that keeps heads.

    Raises:
        UsageError: naming the format.
    """
    if form.packed and not isinstance(attention, LatentAttention):
        raise UsageError(
            f"KV format {form.name} stores MLA latents; this model keeps K and V heads",
            hint="use fp8, nvfp4 or another per-head format",
        )
