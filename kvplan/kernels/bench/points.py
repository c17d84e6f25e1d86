"""The measurement points: the calibration grid, its hold-out, and the side grids.

The hold-out is a list in this file, drawn at random off the grid before anything was measured: whoever fits a
model must not look at points whose stage is ``holdout``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from kvplan.kernels.formats import get_format

GRID_FORMATS = ("bf16", "fp8_e4m3", "int8_per_token_head", "int4", "int4_g64", "kivi2")
HEADS = ((32, 8, 128), (8, 1, 128), (32, 32, 128), (64, 8, 128), (16, 2, 256))
BATCHES = (1, 4, 16, 64, 256)
CONTEXTS = (512, 2048, 8192, 32768, 131072)
MOST_BYTES = 6e9
PREFILLS = (
    (128, 128), (512, 512), (2048, 2048), (8192, 8192), (128, 2048), (128, 32768), (512, 8192), (512, 32768),
    (2048, 8192), (2048, 32768), (8192, 16384),
)  # fmt: skip
"""(new tokens, cached tokens with them): whole prompts, and chunks of longer ones."""
LARGE_BYTES, SMALL_BYTES = 1e9, 4 << 20
HOLDOUT = (
    ("decode", "bf16", 16, 2, 256, 3, 2252, 1),
    ("decode", "bf16", 16, 2, 256, 2, 406, 1),
    ("decode", "bf16", 8, 1, 128, 2, 2279, 1),
    ("decode", "bf16", 8, 1, 128, 29, 2984, 1),
    ("decode", "bf16", 32, 32, 128, 31, 526, 1),
    ("decode", "bf16", 64, 8, 128, 185, 4770, 1),
    ("decode", "fp8_e4m3", 32, 32, 128, 2, 1078, 1),
    ("decode", "fp8_e4m3", 8, 1, 128, 8, 74630, 1),
    ("decode", "fp8_e4m3", 16, 2, 256, 71, 72290, 1),
    ("decode", "fp8_e4m3", 16, 2, 256, 3, 1320, 1),
    ("decode", "fp8_e4m3", 16, 2, 256, 8, 2635, 1),
    ("decode", "fp8_e4m3", 64, 8, 128, 12, 6523, 1),
    ("decode", "int8_per_token_head", 8, 1, 128, 30, 121112, 1),
    ("decode", "int8_per_token_head", 64, 8, 128, 57, 4880, 1),
    ("decode", "int8_per_token_head", 64, 8, 128, 14, 54211, 1),
    ("decode", "int8_per_token_head", 64, 8, 128, 28, 2453, 1),
    ("decode", "int4", 32, 8, 128, 9, 4551, 1),
    ("decode", "int4", 32, 32, 128, 275, 466, 1),
    ("decode", "int4", 32, 32, 128, 191, 1335, 1),
    ("decode", "int4", 16, 2, 256, 9, 5054, 1),
    ("decode", "int4", 32, 32, 128, 6, 4989, 1),
    ("decode", "int4_g64", 16, 2, 256, 2, 30005, 1),
    ("decode", "int4_g64", 16, 2, 256, 55, 568, 1),
    ("decode", "int4_g64", 16, 2, 256, 19, 1020, 1),
    ("decode", "int4_g64", 64, 8, 128, 2, 29444, 1),
    ("decode", "kivi2", 32, 8, 128, 9, 1193, 1),
    ("decode", "kivi2", 32, 8, 128, 287, 1106, 1),
    ("decode", "kivi2", 16, 2, 256, 206, 24138, 1),
    ("mla", "mla_bf16", 128, 1, 576, 231, 6716, 1),
    ("mla", "mla_fp8", 64, 1, 576, 23, 964, 1),
    ("mla", "mla_bf16", 32, 1, 576, 29, 26540, 1),
    ("mla", "mla_fp8", 64, 1, 576, 5, 19384, 1),
    ("mla", "mla_bf16", 32, 1, 576, 2, 33947, 1),
    ("mla", "mla_fp8", 16, 1, 576, 48, 17500, 1),
    ("mla", "mla_bf16", 16, 1, 576, 1, 9665, 1),
    ("mla", "mla_fp8", 16, 1, 576, 1, 4416, 1),
    ("append", "bf16", 32, 8, 128, 1, 184, 184),
    ("append", "fp8_e4m3", 32, 8, 128, 1, 1480, 1480),
    ("append", "bf16", 32, 8, 128, 1, 5666, 751),
    ("append", "fp8_e4m3", 32, 8, 128, 1, 21889, 142),
)
"""(op, format, hq, hkv, d, batch, context, new_tokens): 28 decodes, 8 of MLA, 4 prefills."""


@dataclass(frozen=True, slots=True)
class Point:
    """One thing to time.

    Attributes:
        stage: grid, holdout, page, window, ragged, staged, formats, mla, write, prefill,
            verify (a few tokens each, as after speculation), warm, drift, tune.
        op: decode, append, mla, write or mla_write.
        format: cache format. hq, hkv, d: query heads, KV heads, head dimension (MLA: hkv 1, d 576).
        batch: sequences. context: cached tokens of each (mean, when ragged). block_size: tokens a page.
        window: sliding window, 0 for none. new_tokens: query tokens per sequence.
        ragged: seed of lognormal lengths with mean ``context``; 0 for equal lengths.
        fused: combine splits in the same launch.
        repeat: distinguishes repetitions of one point.
    """

    stage: str
    op: str
    format: str
    hq: int
    hkv: int
    d: int
    batch: int
    context: int
    block_size: int = 64
    window: int = 0
    new_tokens: int = 1
    ragged: int = 0
    fused: bool = True
    repeat: int = 0

    @property
    def key(self) -> str:
        """Identity of a measurement, for resuming."""
        return "/".join(str(v) for v in asdict(self).values())

    def lengths(self) -> list[int]:
        """Cached tokens of each sequence, new ones included."""
        if not self.ragged:
            return [self.context] * self.batch
        rng = random.Random(self.ragged)
        # sigma 0.6, mean 1: mu = -sigma^2/2.
        return [max(1, round(self.context * rng.lognormvariate(-0.18, 0.6))) for _ in range(self.batch)]

    def kv_bytes(self) -> int:
        """Bytes of cache that one call must read (decode, append, MLA) or write."""
        fmt = get_format(self.format)
        per_token = fmt.bytes_per_token(self.hkv, self.d)
        if self.op in ("write", "mla_write"):
            return round(per_token * self.batch * self.new_tokens)
        visible = [min(n, self.window) if self.window else n for n in self.lengths()]
        return round(per_token * sum(visible))

    def io_bytes(self) -> int:
        """Bytes of 16-bit input and output that one call moves besides the cache."""
        tokens = self.batch * self.new_tokens
        if self.op in ("write", "mla_write"):
            return 2 * tokens * (576 if self.op == "mla_write" else 2 * self.hkv * self.d)
        return 2 * tokens * self.hq * (576 + 512 if self.op == "mla" else 2 * self.d)

    def flops(self) -> int:
        """Multiply-adds times two of one call; 0 for writes."""
        if self.op in ("write", "mla_write"):
            return 0
        seen = 0
        for n in self.lengths():
            for_each = min(n, self.window) if self.window else n
            seen += self.new_tokens * for_each - self.new_tokens * (self.new_tokens - 1) // 2
        return 2 * self.hq * seen * (576 + 512 if self.op == "mla" else 2 * self.d)

    def row(self) -> dict[str, Any]:
        """The point as it is recorded."""
        return asdict(self) | {
            "key": self.key, "kv_bytes": self.kv_bytes(), "io_bytes": self.io_bytes(), "flops": self.flops()
        }  # fmt: skip


def grid() -> Iterator[Point]:
    """The calibration grid: formats x heads x batches x contexts, up to 6 GB of cache."""
    for name in GRID_FORMATS:
        for hq, hkv, d in HEADS:
            for batch in BATCHES:
                for context in CONTEXTS:
                    point = Point("grid", "decode", name, hq, hkv, d, batch, context)
                    if point.kv_bytes() <= MOST_BYTES:
                        yield point


def headline(point: Point) -> bool:
    """Whether the summary is about this point: GQA of 128, its KV large or small, and MLA of 16 heads."""
    if point.stage == "mla":
        return point.hq == 16
    if point.stage != "grid":
        return False
    grouped = point.d == 128 and 2 <= point.hq // point.hkv <= 8
    return grouped and (point.kv_bytes() >= LARGE_BYTES or point.kv_bytes() < SMALL_BYTES)


def holdout() -> list[Point]:
    """The registered points."""
    return [
        Point("holdout", op, name, hq, hkv, d, batch, context, new_tokens=new)
        for op, name, hq, hkv, d, batch, context, new in HOLDOUT
    ]


def side() -> Iterator[Point]:
    """Page sizes, ragged lengths, windows, the other formats, MLA, writers, prefill, guessed tokens."""
    usual = Point("page", "decode", "bf16", 32, 8, 128, 16, 8192)
    for name in ("bf16", "fp8_e4m3", "int4"):
        for size in (16, 64, 256):
            for batch, context in ((1, 8192), (4, 32768), (16, 2048), (64, 2048), (64, 8192)):
                yield replace(usual, format=name, block_size=size, batch=batch, context=context)
        for window in (128, 1024, 4096):
            yield replace(usual, stage="window", format=name, window=window, context=32768)
        for seed in range(1, 8):
            yield replace(usual, stage="ragged", format=name, ragged=seed, batch=8 * seed, context=4096)
    for name in ("bf16", "fp8_e4m3"):
        for batch, context in ((1, 2048), (1, 32768), (4, 2048), (4, 8192), (16, 2048)):
            yield replace(usual, stage="staged", format=name, batch=batch, context=context, fused=False)
    for name in ("fp16", "fp8_e5m2", "int8", "int8_per_head", "int4_g32", "kivi4", "nvfp4", "mxfp4"):
        for batch, context in ((1, 2048), (64, 8192), (64, 32768)):
            yield replace(usual, stage="formats", format=name, batch=batch, context=context)
    for name in ("mla_bf16", "mla_fp8"):
        for heads in (16, 128):
            for batch, context in ((1, 4096), (1, 65536), (16, 8192), (64, 8192), (64, 32768), (256, 2048)):
                yield Point("mla", "mla", name, heads, 1, 576, batch, context)
        for tokens in (1, 64, 4096):
            yield Point("write", "mla_write", name, 16, 1, 576, 1, tokens, new_tokens=tokens)
    for name in (*GRID_FORMATS, "nvfp4", "kivi4"):
        for tokens in (1, 64, 4096):
            yield Point("write", "write", name, 32, 8, 128, 1, tokens, new_tokens=tokens)
    for name in ("bf16", "fp8_e4m3", "int4"):
        for tokens, context in PREFILLS:
            yield Point("prefill", "append", name, 32, 8, 128, 1, context, new_tokens=tokens)
        for hq, hkv, d in HEADS[2:]:
            for tokens, context in ((2048, 2048), (512, 8192)):
                yield Point("prefill", "append", name, hq, hkv, d, 1, context, new_tokens=tokens)
        for batch, tokens, context in ((4, 512, 2048), (16, 128, 4096)):
            yield Point("prefill", "append", name, 32, 8, 128, batch, context, new_tokens=tokens)
    for name in GRID_FORMATS:
        for batch, context in ((1, 512), (1, 2048), (4, 2048), (16, 512)):
            yield replace(usual, stage="warm", format=name, batch=batch, context=context)
    yield from guessed()


def guessed() -> Iterator[Point]:
    """A few tokens of each sequence, as speculation has them verified: 8 to 64 query columns of a KV head,
    32 to 128 of a latent."""
    for batch, context in ((1, 32768), (8, 8192), (64, 4096)):
        for tokens in (2, 4, 8):
            for name, hq in (("bf16", 32), ("fp8_e4m3", 32), ("int4", 32), ("bf16", 64), ("fp8_e4m3", 64)):
                yield Point("verify", "append", name, hq, 8, 128, batch, context, new_tokens=tokens)
            for name in ("mla_bf16", "mla_fp8"):
                yield Point("verify", "mla", name, 16, 1, 576, batch, context, new_tokens=tokens)


def drift(repeat: int) -> Iterator[Point]:
    """Ten points measured at the start and at the end."""
    for name in ("bf16", "fp8_e4m3"):
        for batch, context in ((1, 2048), (16, 2048), (16, 32768), (64, 8192), (256, 2048)):
            yield Point("drift", "decode", name, 32, 8, 128, batch, context, repeat=repeat)


def tiny() -> list[Point]:
    """A few points small enough for the interpreter: the dry run."""
    small = Point("grid", "decode", "int4", 4, 1, 64, 2, 40, block_size=32)
    return [
        small,
        replace(small, stage="holdout", format="bf16", context=33),
        replace(small, stage="window", window=9),
        replace(small, stage="ragged", ragged=3),
        replace(small, stage="formats", format="kivi2", d=128, context=170),
        replace(small, stage="prefill", op="append", batch=1, new_tokens=6),
        replace(small, stage="verify", op="append", new_tokens=3),
        Point("mla", "mla", "mla_fp8", 4, 1, 576, 1, 20, block_size=16),
        Point("write", "write", "int8", 4, 1, 64, 1, 8, new_tokens=8),
        Point("write", "write", "kivi4", 4, 1, 64, 1, 8, new_tokens=8, block_size=32),
        Point("write", "mla_write", "mla_bf16", 4, 1, 576, 1, 8, new_tokens=8),
    ]
