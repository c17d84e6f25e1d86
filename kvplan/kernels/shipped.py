"""The compiled variants that represent what is shipped: every kernel in every format, at the usual shapes.

Head dimension 128, pages of 64 tokens, 4 query heads per KV head, no window; plus the shapes that change the
generated code most (256-wide heads, padded heads, pages smaller than a tile, 16 query heads, a window). MLA
at its one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kvplan.kernels import variants, variants_mla
from kvplan.kernels.formats import Code, KVFormat, all_formats, get_format
from kvplan.kernels.variants import DIRECT, FUSED, PARTIAL, Target, Variant

FLOATS = {"float16": "*fp16", "float32": "*fp32", "uint8": "*u8"}


@dataclass(frozen=True, slots=True)
class Shipped:
    """A variant with a name, the kernel's function, pointer types, and the elements one tile covers.

    Elements are 0 without a loop. They count once for every eight query columns, which is what a decode tile
    has at least.
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
    module = {"write_groups": "write", "write_ring": "write", "write_mla": "mla"}

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


def shipped(capability: int, triton: str = "3.9.0") -> Iterator[Shipped]:
    """Every variant to compile for one architecture with one version of the compiler."""
    target = Target(capability, triton=variants.release(triton))
    for fmt in all_formats():
        if fmt.latent:
            yield from _latent(fmt, target)
            continue
        dtype = "float16" if fmt.name == "fp16" else "bfloat16"
        shape = {"head_dim": 128, "block_size": 64, "windowed": False, "dtype": dtype, "target": target}
        decode = variants.attend_variant(fmt, columns=4, one=True, mode=PARTIAL, **shape)
        yield _ship(f"decode/{fmt.name}", fmt, decode, elements_of(decode))
        append = variants.attend_variant(fmt, columns=2048, one=False, mode=DIRECT, **shape)
        yield _ship(f"append/{fmt.name}", fmt, append, elements_of(append))
        if fmt.residual:
            groups = variants.write_groups_variant(fmt, head_dim=128, block_size=64)
            yield _ship(f"write_groups/{fmt.name}", fmt, groups)
        else:
            write = variants.write_variant(fmt, head_dim=128, block_size=64)
            yield _ship(f"write/{fmt.name}", fmt, write, raw=fmt.key.code is Code.FLOAT16)
    yield from _shapes(target)


def elements_of(variant: Variant) -> int:
    """Elements of keys and values in a tile, once for every eight query columns."""
    c = variant.constants
    return 2 * int(c["D"]) * int(c["BN"]) * (int(c["BH"]) // 8)


def _latent(fmt: KVFormat, target: Target) -> Iterator[Shipped]:
    shapes = (("", 16, True), ("/heads128", 128, True), ("/tokens4", 64, False))
    for name, columns, one in shapes:
        mla = variants_mla.mla_variant(
            fmt, block_size=64, columns=columns, mode=PARTIAL, one=one, target=target
        )
        yield _ship(f"mla/{fmt.name}{name}", fmt, mla, 576 * mla.constants["BN"] * (mla.constants["BH"] // 8))
    raw = fmt.key.code is Code.FLOAT16
    yield _ship(f"write_mla/{fmt.name}", fmt, variants_mla.write_mla_variant(fmt), raw=raw)


def _shapes(target: Target) -> Iterator[Shipped]:
    usual = {"head_dim": 128, "block_size": 64, "columns": 4, "one": True, "windowed": False, "mode": PARTIAL}
    prompt = usual | {"columns": 2048, "one": False, "mode": DIRECT}
    few, guessed = usual | {"columns": 16, "one": False}, usual | {"columns": 32, "one": False}
    split = prompt | {"columns": 64, "mode": PARTIAL}
    shapes: dict[str, tuple[str, dict[str, Any]]] = {
        "decode/bf16/d256": ("bf16", usual | {"head_dim": 256}),
        "decode/bf16/d256/heads16": ("bf16", usual | {"head_dim": 256, "columns": 16}),
        "decode/fp8_e4m3/d80": ("fp8_e4m3", usual | {"head_dim": 80}),
        "decode/int4/d256": ("int4", usual | {"head_dim": 256}),
        "decode/bf16/page16": ("bf16", usual | {"block_size": 16}),
        "decode/int4/page16": ("int4", usual | {"block_size": 16}),
        "decode/fp8_e4m3/heads16": ("fp8_e4m3", usual | {"columns": 16}),
        "decode/int4/page128/heads16": ("int4", usual | {"block_size": 128, "columns": 16}),
        "decode/bf16/window": ("bf16", usual | {"windowed": True}),
        "decode/fp8_e4m3/fused": ("fp8_e4m3", usual | {"mode": FUSED}),
        "decode/int4/direct": ("int4", usual | {"mode": DIRECT}),
        "decode/bf16/tokens4": ("bf16", few),
        "decode/fp8_e4m3/tokens4": ("fp8_e4m3", few),
        "decode/int4/tokens4": ("int4", few),
        **{
            f"decode/{name}/tokens8": (name, guessed)
            for name in ("bf16", "fp8_e4m3", "int8_per_token_head", "int4", "kivi4", "nvfp4")
        },
        "append/bf16/columns64": ("bf16", split),
        "append/fp8_e4m3/columns64": ("fp8_e4m3", split),
        "append/int4_g64/columns64": ("int4_g64", split),
        "append/bf16/splits": ("bf16", prompt | {"mode": PARTIAL}),
        "append/bf16/d256": ("bf16", prompt | {"head_dim": 256}),
        "append/int4/d256": ("int4", prompt | {"head_dim": 256}),
        "append/fp8_e4m3/d256": ("fp8_e4m3", prompt | {"head_dim": 256}),
        "append/bf16/d64": ("bf16", prompt | {"head_dim": 64}),
        "append/bf16/page16": ("bf16", prompt | {"block_size": 16}),
        "append/bf16/window": ("bf16", prompt | {"windowed": True}),
        "append/fp8_e4m3/window": ("fp8_e4m3", prompt | {"windowed": True}),
    }
    for name, (format_name, shape) in shapes.items():
        variant = variants.attend_variant(get_format(format_name), dtype="bfloat16", target=target, **shape)
        yield _ship(name, get_format(format_name), variant, elements_of(variant))
    bf16 = get_format("bf16")
    yield _ship("reduce", bf16, variants.reduce_variant(128))
    yield _ship(
        "write_ring",
        get_format("kivi2"),
        variants.write_ring_variant(get_format("kivi2"), head_dim=128),
        raw=True,
    )
