"""The compiled variants that represent what is shipped: every kernel in every format, at the usual shapes.

Head dimension 128, pages of 64 tokens, 4 query heads per KV head, no window; plus the shapes that change the
generated code most (256-wide heads, padded heads, pages smaller than a tile, 16 query heads, a window). MLA
at its one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kvplan.kernels import variants
from kvplan.kernels.formats import Code, KVFormat, all_formats, get_format
from kvplan.kernels.variants import DIRECT, FUSED, PARTIAL, Target, Variant

FLOATS = {"float16": "*fp16", "float32": "*fp32", "uint8": "*u8"}


@dataclass(frozen=True, slots=True)
class Shipped:
    """A variant with a name, the kernel's function, pointer types, and the elements one tile covers.

    Elements are 0 without a loop. Those of a prompt's or a latent tile count once for every eight query
    columns, which is what a decode tile has.
    """

    name: str
    variant: Variant
    function: Callable[[], Any]
    pointers: dict[str, str]
    elements: int


def pointers_of(fmt: KVFormat) -> dict[str, str]:
    """Triton pointer types of every argument any kernel takes, for caches in this format."""
    sixteen = "*fp16" if fmt.name == "fp16" else "*bf16"
    codes = sixteen if fmt.key.code is Code.FLOAT16 else "*u8"
    integers = dict.fromkeys(("ROWS", "TABLE", "LENGTHS", "STARTS", "COUNT"), "*i32")
    singles = dict.fromkeys(("KT", "VT", "LSE", "PM", "PL", "PO"), "*fp32")
    halves = dict.fromkeys(("Q", "OUT", "RK", "RV", "XK", "XV", "XC", "R"), sixteen)
    scales = FLOATS[fmt.key.scale_dtype]
    return {
        **integers, **singles, **halves, "SLOTS": "*i64", "K": codes, "V": codes, "C": codes,
        "KS": scales, "VS": scales, "KM": "*fp16", "VM": "*fp16", "S": "*fp32",
    }  # fmt: skip


def _function(kernel: str) -> Callable[[], Any]:
    module = {"reduce": "decode", "write_groups": "write", "write_ring": "write", "write_mla": "mla"}

    def load() -> Any:
        from importlib import import_module

        return getattr(import_module(f"kvplan.kernels.gpu.{module.get(kernel, kernel)}"), kernel)

    return load


def _ship(name: str, fmt: KVFormat, variant: Variant, elements: int = 0, raw: bool = False) -> Shipped:
    pointers = pointers_of(fmt)
    if raw:
        pointers |= dict.fromkeys(("XK", "XV", "K", "V", "RK", "RV", "XC", "C", "R", "XR"), "*i16")
    if variant.kernel == "write_mla":
        pointers |= dict.fromkeys(("XR", "R"), "*i16")
    return Shipped(name, variant, _function(variant.kernel), pointers, elements)


def shipped(capability: int) -> Iterator[Shipped]:
    """Every variant to compile for one architecture."""
    target = Target(capability)
    for fmt in all_formats():
        if fmt.latent:
            yield from _latent(fmt, target)
            continue
        dtype = "float16" if fmt.name == "fp16" else "bfloat16"
        shape = {"head_dim": 128, "block_size": 64, "windowed": False, "dtype": dtype, "target": target}
        decode = variants.decode_variant(fmt, group=4, mode=PARTIAL, **shape)
        yield _ship(f"decode/{fmt.name}", fmt, decode, 2 * 128 * decode.constants["BN"])
        append = variants.append_variant(fmt, columns=2048, **shape)
        yield _ship(f"append/{fmt.name}", fmt, append, append_elements(append))
        if fmt.residual:
            groups = variants.write_groups_variant(fmt, head_dim=128, block_size=64)
            yield _ship(f"write_groups/{fmt.name}", fmt, groups)
        else:
            write = variants.write_variant(fmt, head_dim=128, block_size=64, target=target)
            yield _ship(f"write/{fmt.name}", fmt, write, raw=fmt.key.code is Code.FLOAT16)
    yield from _shapes(target)


def append_elements(variant: Variant) -> int:
    """Elements of keys and values in a prompt's tile, times eighths of its query columns."""
    c = variant.constants
    return 2 * int(c["D"]) * int(c["BN"]) * (int(c["BM"]) // 8)


def _latent(fmt: KVFormat, target: Target) -> Iterator[Shipped]:
    for name, heads in ((f"mla/{fmt.name}", 16), (f"mla/{fmt.name}/heads128", 128)):
        mla = variants.mla_variant(fmt, block_size=64, columns=heads, mode=PARTIAL, one=True, target=target)
        yield _ship(name, fmt, mla, 576 * mla.constants["BN"] * (mla.constants["BH"] // 8))
    raw = fmt.key.code is Code.FLOAT16
    yield _ship(f"write_mla/{fmt.name}", fmt, variants.write_mla_variant(fmt), raw=raw)


def _shapes(target: Target) -> Iterator[Shipped]:
    usual = {"head_dim": 128, "block_size": 64, "group": 4, "windowed": False, "mode": PARTIAL}
    others: dict[str, tuple[str, dict[str, Any]]] = {
        "decode/bf16/d256": ("bf16", {"head_dim": 256}),
        "decode/fp8_e4m3/d80": ("fp8_e4m3", {"head_dim": 80}),
        "decode/int4/d256": ("int4", {"head_dim": 256}),
        "decode/bf16/page16": ("bf16", {"block_size": 16}),
        "decode/int4/page16": ("int4", {"block_size": 16}),
        "decode/fp8_e4m3/heads16": ("fp8_e4m3", {"group": 16}),
        "decode/bf16/window": ("bf16", {"windowed": True}),
        "decode/fp8_e4m3/fused": ("fp8_e4m3", {"mode": FUSED}),
        "decode/int4/direct": ("int4", {"mode": DIRECT}),
    }
    appends: dict[str, tuple[str, dict[str, Any]]] = {
        "append/bf16/few": ("bf16", {"columns": 16}),
        "append/fp8_e4m3/few": ("fp8_e4m3", {"columns": 16}),
        "append/int4/few": ("int4", {"columns": 16}),
        "append/bf16/c64": ("bf16", {"columns": 64}),
        "append/bf16/d256": ("bf16", {"head_dim": 256}),
        "append/int4/d256": ("int4", {"head_dim": 256}),
        "append/bf16/d64": ("bf16", {"head_dim": 64}),
        "append/bf16/page16": ("bf16", {"block_size": 16}),
        "append/bf16/window": ("bf16", {"windowed": True}),
        "append/fp8_e4m3/window": ("fp8_e4m3", {"windowed": True}),
    }
    for name, (format_name, change) in appends.items():
        fmt = get_format(format_name)
        shape = {"head_dim": 128, "block_size": 64, "columns": 2048, "windowed": False} | change
        variant = variants.append_variant(fmt, dtype="bfloat16", target=target, **shape)
        yield _ship(name, fmt, variant, append_elements(variant))
    for name, (format_name, change) in others.items():
        fmt = get_format(format_name)
        shape = usual | change
        variant = variants.decode_variant(fmt, dtype="bfloat16", target=target, **shape)
        yield _ship(name, fmt, variant, 2 * shape["head_dim"] * variant.constants["BN"])
    bf16 = get_format("bf16")
    yield _ship("reduce", bf16, variants.reduce_variant(128))
    yield _ship(
        "write_ring",
        get_format("kivi2"),
        variants.write_ring_variant(get_format("kivi2"), head_dim=128),
        raw=True,
    )
