"""The covering set of correctness cases.

The full product of formats, head groupings, head dimensions, block sizes, windows, splits and reductions is
some 10^5 cases. Instead five decode shapes, two of guessed tokens and three of prompts, which between them
hold every level of every factor, are crossed with every format; so every format meets every block size, every
grouping (MHA, GQA, MQA), both kinds of reduction, and windows shorter and longer than a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kvplan.errors import UsageError
from kvplan.kernels.cases import Case
from kvplan.kernels.formats import KVFormat, all_formats, get_format

DECODE_SHAPES = (
    Case("", (1, 15, 16, 17, 53), head_dim=64, block_size=16, kv_heads=2, group=1),
    Case("", (31, 33, 101, 0), head_dim=128, block_size=32, kv_heads=2, group=4, splits=2),
    Case("", (64, 197), head_dim=80, block_size=64, group=6, window=37, splits=2, fused=True),
    Case("", (127, 300), head_dim=96, block_size=128, group=17),
    Case("", (255, 257), head_dim=256, block_size=256, group=8, window=9, splits=2),
)
VERIFY_SHAPES = (
    Case("", (8, 33, 150, 61), block_size=64, group=4, splits=2, fused=True, queries=(8, 1, 6, 3)),
    Case(
        "",
        (50, 7, 90),
        head_dim=64,
        block_size=32,
        kv_heads=2,
        group=1,
        window=13,
        splits=3,
        queries=(2, 7, 8),
    ),
)
"""Guessed tokens, from one to eight of a sequence: up to 32 query columns, which decode tiles take."""
APPEND_SHAPES = (
    Case("", (35, 53), block_size=16, kv_heads=2, group=1, queries=(33, 7)),
    Case("", (70, 140), head_dim=64, block_size=64, group=5, window=21, splits=3, queries=(9, 3)),
    Case("", (9, 200), head_dim=64, block_size=32, window=100, splits=2, fused=True, queries=(1, 3)),
)
FOLDED = ("int8_per_head", "int8_per_token_head", "int4", "int4_g64", "kivi2")
"""One format for each way a folded bias is removed."""

MLA_CASES = (
    Case("", (1, 15, 33, 0), block_size=16, group=3, splits=2),
    Case("", (65, 130), block_size=64, group=16, splits=2, fused=True),
    Case("", (65, 130), block_size=64, group=16, splits=3),
    Case("", (257,), block_size=256, group=20, splits=1),
    Case("", (37, 5), block_size=32, group=12, queries=(3, 2)),
    Case("", (70, 9, 1), block_size=64, group=3, splits=2, fused=True, queries=(8, 3, 1)),
)


def fit(fmt: KVFormat, shape: Case) -> Case:
    """The shape with the nearest head dimension and block size that the format has."""
    case = replace(shape, format=fmt.name)
    for head_dim in (shape.head_dim, 128, 256):
        for block_size in (shape.block_size, 96):
            try:
                fmt.require(head_dim, block_size)
            except UsageError:
                continue
            return replace(case, head_dim=head_dim, block_size=block_size)
    raise AssertionError(f"no shape for {fmt.name}")


def paged_cases() -> Iterator[Case]:
    """Every case of keys and values."""
    for fmt in all_formats():
        if fmt.latent:
            continue
        for shape in (*DECODE_SHAPES, *VERIFY_SHAPES, *APPEND_SHAPES):
            case = fit(fmt, shape)
            if fmt.residual and case.splits > 1:
                # Long enough that coded pages, not only the ring, are read.
                case = replace(case, lengths=(*case.lengths[:-1], case.lengths[-1] + fmt.residual))
            yield case
    for name in FOLDED:
        yield replace(fit(get_format(name), DECODE_SHAPES[1]), fold=True)
    # Magnitudes far outside fp16 must survive, whatever the compute type.
    yield Case("int8", (40,), query_scale=3e5)
    yield Case("fp8_e4m3", (1000,), kv_heads=2, block_size=48, splits=7)


def mla_cases() -> Iterator[Case]:
    """Every case of the latent."""
    for name in ("mla_bf16", "mla_fp8"):
        for shape in MLA_CASES:
            yield replace(shape, format=name)
