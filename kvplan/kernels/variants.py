"""Which compiled variant serves a call: tile sizes, warps, pipeline depth, and the compile-time constants.

A variant is decided by the format, the head dimension, the block size, the query heads per KV head and the
target; everything else (batch, lengths, number of KV heads, window width) is a run-time argument. The choices
come from compiled code (registers, spills, instructions per element: ``aot``); none was tuned on a GPU yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kvplan.kernels.formats import Code, KVFormat, Scaling, TensorFormat

DIRECT, PARTIAL, FUSED = 0, 1, 2
"""How splits become one output (see ``gpu.attend``)."""

REGISTERS = 65536
"""Registers of a multiprocessor, on every architecture so far; given out in eights to a thread."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One kernel specialisation.

    Attributes:
        kernel: name of the Triton function.
        constants: its compile-time constants; ``CT`` as a name (``float16``), resolved by the launcher.
        warps, stages: launch options.
        registers: what a thread may have at most; ``None`` leaves it to the compiler.
    """

    kernel: str
    constants: dict[str, Any] = field(hash=False)
    warps: int
    stages: int
    registers: int | None = None

    def options(self) -> dict[str, Any]:
        """Triton's launch options."""
        # Quantizing rounds as the reference does, products and sums one after the other; scales and minima of
        # prompts round once, or they would cost half the accuracy (and defaults differ between versions).
        fused = not self.kernel.startswith("write")
        options = {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": fused}
        return options if self.registers is None else options | {"maxnreg": self.registers}


def release(version: str) -> tuple[int, int]:
    """Major and minor of a version such as ``3.9.0``."""
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


@dataclass(frozen=True, slots=True)
class Target:
    """What the code is generated for.

    Attributes:
        capability: compute capability as 80, 90, 100; ``None`` for Triton's interpreter.
        fold: carry the keys' exponent-trick biases through the dot products (faster) instead of removing them
            at once.
        triton: major and minor version of the compiler (``release``).
    """

    capability: int | None
    fold: bool = True
    triton: tuple[int, int] = (3, 9)

    @property
    def interpreted(self) -> bool:
        """Whether the kernels run in Triton's interpreter."""
        return self.capability is None

    @property
    def by_warpgroup(self) -> bool:
        """Whether four warps issue matrix products together, with operands in shared memory of over 200 KiB
        (Hopper, data-centre Blackwell)."""
        return self.capability is not None and 90 <= self.capability < 120

    def compute_type(self, fmt: KVFormat, dtype: str) -> str:
        """Type of the dot products. Never bf16 under the interpreter, whose bf16 products are wrong."""
        if self.interpreted:
            return "float32"
        if fmt.key.code is Code.FLOAT16:
            return dtype
        return "float16"

    def switches(self) -> dict[str, Any]:
        """Constants that depend on the target alone."""
        native = self.interpreted or (self.capability or 0) >= 89
        # Before 3.9 the pipeliner of data-centre Blackwell's matrix products stops at what may not be moved.
        movable = (self.capability or 0) in range(100, 120) and self.triton < (3, 9)
        asm = 0 if self.interpreted else 2 if movable else 1
        return {"FOLD": self.fold, "ASM": asm, "NATIVE": native}


@dataclass(frozen=True, slots=True)
class Choice:
    """What could be chosen otherwise; ``None`` is what this module chooses. For tuning (``bench.tune``).

    Attributes:
        tokens: cached tokens of a tile. columns: query columns of a tile. warps, stages: launch options.
        each: programs that share one multiprocessor; share: least tokens of a split. Both for their number.
    """

    tokens: int | None = None
    columns: int | None = None
    warps: int | None = None
    stages: int | None = None
    each: int | None = None
    share: int | None = None

    def splitting(self) -> dict[str, int]:
        """What was chosen about splits, as ``splits_for`` takes it."""
        chosen = {"each": self.each, "share": self.share}
        return {name: value for name, value in chosen.items() if value is not None}

    def applied(self, variant: Variant, block_size: int) -> Variant:
        """The variant with these choices."""
        constants = dict(variant.constants)
        if self.tokens is not None:
            constants |= {"BN": self.tokens, "PAGED": block_size % self.tokens == 0}
        if self.columns is not None:
            constants["BH"] = self.columns
        # What is tried has the registers that it takes.
        warps, stages = self.warps or variant.warps, self.stages or variant.stages
        return Variant(variant.kernel, constants, warps, stages)


def scale_kind(side: TensorFormat) -> int:
    """How the kernels read a stored scale: 0 float, 1 e4m3 byte, 2 power-of-two byte."""
    if side.scale_dtype != "uint8":
        return 0
    return 2 if side.group == 32 else 1


def side_constants(prefix: str, side: TensorFormat, head_dim: int) -> dict[str, Any]:
    """Compile-time constants of the keys (prefix K) or values (prefix V)."""
    scaling = side.scaling
    # A group as wide as the head is a scale per token and head.
    if scaling is Scaling.GROUP and side.group >= head_dim:
        scaling = Scaling.TOKEN_HEAD
    return {
        f"{prefix}CODE": int(side.code),
        f"{prefix}SCALING": int(scaling),
        f"{prefix}GROUP": max(side.group, 1),
        f"{prefix}KIND": scale_kind(side),
    }


def tile_tokens(block_size: int, most: int) -> int:
    """Tokens per tile: the largest power of two up to ``most`` that divides a page, or ``most`` by gather.

    A tile inside one page needs one table lookup and reads consecutive rows. Pages below 32 tokens, and sizes
    that no power of two from 32 divides, are gathered token by token.
    """
    n = most
    while n >= 32:
        if block_size % n == 0:
            return n
        n //= 2
    return most


def columns_of_a_program(fmt: KVFormat, *, head_dim: int, columns: int, one: bool, target: Target) -> int:
    """Query columns (new tokens x query heads per KV head) that one program attends for.

    Args:
        columns: those that a sequence has at most, for each KV head.
        one: one new token per sequence.
    """
    if is_decode(fmt, head_dim, columns, one):
        return next((n for n in (8, 16) if columns <= n), most_decode_columns(fmt, head_dim))
    if target.interpreted:
        return 32
    if head_dim > 128:
        return 64 if target.by_warpgroup else 32
    # Every row more uses what was loaded and unpacked once more.
    return 64 if columns <= 64 or head_dim <= 64 else 128


def is_decode(fmt: KVFormat, head_dim: int, columns: int, one: bool) -> bool:
    """Whether queries stand on the N side of the matrix unit: those of one token, or of a few."""
    return one or columns <= most_decode_columns(fmt, head_dim)


def most_decode_columns(fmt: KVFormat, head_dim: int) -> int:
    """Query columns that a decode tile's registers hold.

    For 32 columns it takes a fifth to a half fewer instructions than a prompt's 64 rows on an A100, and as
    many on an H100, at half the matrix products. Wider heads and the scores of int4 by group would spill.
    """
    return 16 if head_dim > 128 or _int4_by_group(fmt, head_dim) else 32


def _int4_by_group(fmt: KVFormat, head_dim: int) -> bool:
    return fmt.key.code is Code.INT4 and fmt.key.scaling is Scaling.GROUP and fmt.key.group < head_dim


def programs_per_multiprocessor(
    fmt: KVFormat, *, head_dim: int, block_size: int, columns: int, one: bool, target: Target
) -> int:
    """Programs that one multiprocessor is to hold at once: by registers (``REGISTERS``).

    Decoding, programs have 128 threads. Codes of a byte, and of half a byte with a scale per token, do with
    128 registers each in tiles of 64 tokens; 16-bit ones also need the shared memory, and scales by group,
    more than eight columns, KIVI's two kinds of tiles, wide heads and tiles of 128 more registers; wide heads
    of KIVI and more than sixteen columns need nearly all. A prompt's programs have eight warps and nearly all
    registers, or four and half of them.
    """
    if not is_decode(fmt, head_dim, columns, one):
        small = head_dim <= 128 and (columns <= 64 or head_dim <= 64)
        return 2 if small and not _wide_small_prompts(fmt, head_dim, target) else 1
    bits, many = max(fmt.key.bits, fmt.value.bits), columns > 8
    if min(columns, most_decode_columns(fmt, head_dim)) > 16 or (fmt.residual and head_dim > 128):
        return 2
    if head_dim > 128:
        return 2 if many and bits < 16 else 3
    if fmt.residual or bits == 16 or many or _int4_by_group(fmt, head_dim):
        return 3
    return 4 if tile_tokens(block_size, _decode_tokens(fmt, head_dim, columns)) <= 64 else 3


def programs_enough(fmt: KVFormat, *, head_dim: int, columns: int, one: bool, each: int) -> int:
    """Programs that keep a multiprocessor, or its share of memory, busy, of ``each`` that it holds.

    A prompt's single one does. Decoding, memory is asked for enough ahead by one of 16-bit codes, or two of
    a byte; narrower ones are bound by what they do (``tests.kernels.sass.bounds``).
    """
    if not is_decode(fmt, head_dim, columns, one):
        return 1
    bits = max(fmt.key.bits, fmt.value.bits)
    return min(each, 1 if bits == 16 else 2 if bits == 8 else each)


def _wide_small_prompts(fmt: KVFormat, head_dim: int, target: Target) -> bool:
    """Whether 64 rows of a prompt, too, need eight warps: of 8-bit codes, where warps multiply alone."""
    return fmt.key.bits == 8 and 64 < head_dim <= 128 and not target.by_warpgroup


def crowded(fmt: KVFormat, target: Target) -> bool:
    """Whether codes that run ahead do not fit the registers: integers, on sm_100."""
    return (target.capability or 0) >= 100 and fmt.key.code in (Code.INT8, Code.INT4, Code.INT2)


@dataclass(frozen=True, slots=True)
class _Tile:
    """Cached tokens of a tile at most, warps of a program, pipeline depth."""

    tokens: int
    warps: int
    stages: int


def _decode_tokens(fmt: KVFormat, head_dim: int, columns: int) -> int:
    """Cached tokens of a decode tile at most: those whose codes and products fit the registers."""
    if max(fmt.key.bits, fmt.value.bits) == 16:
        return 64 if head_dim <= 128 else 32
    padded = head_dim & (head_dim - 1) != 0
    scaled = fmt.key.scaling is Scaling.CHANNEL or fmt.value.scaling is Scaling.GROUP
    return 64 if head_dim > 128 or columns > 8 or padded or scaled else 128


def _decode_tile(fmt: KVFormat, head_dim: int, columns: int, target: Target) -> _Tile:
    bits = max(fmt.key.bits, fmt.value.bits)
    # Loads run ahead through shared memory: one tile of wide codes or two of narrow ones keep as many bytes
    # on their way. Deeper costs programs a multiprocessor can hold.
    stages = 2 if bits >= 8 else 3
    if crowded(fmt, target):
        stages = 1
    return _Tile(_decode_tokens(fmt, head_dim, columns), 4, stages)


def _prompt_tile(fmt: KVFormat, head_dim: int, block: int, windowed: bool, target: Target) -> _Tile:
    # Sixteen rows a warp, or two warps' registers for 256-wide outputs (where what is unpacked is that wide
    # too, or many rows stand on it) and on sm_100, but for 64 rows of wide codes: with a thread's 128
    # registers those spill where they are split.
    few = target.by_warpgroup and block == 64 and 64 < head_dim <= 128 and fmt.key.bits >= 8
    wide = head_dim > 128 and (target.by_warpgroup or fmt.key.bits == 8)
    twice = wide or ((target.capability or 0) >= 100 and not few)
    warps = 8 if block == 128 or twice else 4
    if block == 64 and _wide_small_prompts(fmt, head_dim, target):
        return _Tile(64, 8, 2)
    if not target.by_warpgroup:
        # Rows' scales are loaded ahead by themselves and leave no registers for codes.
        scaled = fmt.key.scaling in (Scaling.GROUP, Scaling.TOKEN_HEAD)
        # A window's second loop spills in Triton 3.6, but not where tiles run further ahead.
        deeper = windowed and fmt.key.bits == 16
        return _Tile(32, warps, 1 if scaled else 3 if deeper else 2)
    # Scales by element are as many as codes: on sm_100 half a tile of them fits.
    tokens = 32 if fmt.residual and crowded(fmt, target) else 64
    if head_dim <= 128:
        deeper = fmt.key.bits == 16
    else:
        # These spill in Triton 3.6, but not where tiles run further ahead.
        deeper = target.capability == 90 and (fmt.key.bits == 8 or fmt.residual > 0)
    return _Tile(tokens, warps, 3 if deeper else 2)


def attend_variant(fmt: KVFormat, *, head_dim: int, block_size: int, columns: int, one: bool, windowed: bool,
                   mode: int, dtype: str, target: Target) -> Variant:  # fmt: skip
    """The attention kernel for up to ``columns`` query columns of a sequence and KV head.

    Args:
        one: one new token per sequence.
    """
    decode = is_decode(fmt, head_dim, columns, one)
    block = columns_of_a_program(fmt, head_dim=head_dim, columns=columns, one=one, target=target)
    if decode:
        tile = _decode_tile(fmt, head_dim, columns, target)
    else:
        tile = _prompt_tile(fmt, head_dim, block, windowed, target)
    if target.interpreted:
        tile = _Tile(64, 4, 1)
    tokens = tile_tokens(block_size, tile.tokens)
    switches = target.switches()
    if not decode:
        # Unpacking is shared by many columns: biases come off at once and cost no statistics.
        switches |= {"FOLD": False}
    constants = {
        "D": head_dim, "BS": block_size, "BN": tokens, "BH": block, "ONE": one,
        "PAGED": block_size % tokens == 0, "WINDOWED": windowed, "MODE": mode, "RING": fmt.residual,
        **side_constants("K", fmt.key, head_dim), **side_constants("V", fmt.value, head_dim),
        "CT": target.compute_type(fmt, dtype), **switches, "DEFER": decode, "SWAP": decode,
    }  # fmt: skip
    registers = None
    if decode and not target.interpreted:
        each = programs_per_multiprocessor(
            fmt, head_dim=head_dim, block_size=block_size, columns=columns, one=one, target=target
        )
        registers = REGISTERS // (each * tile.warps * 32) // 8 * 8
    return Variant("attend", constants, tile.warps, tile.stages, registers)


def least_share(
    fmt: KVFormat, *, head_dim: int, block_size: int, columns: int, one: bool, target: Target
) -> int:
    """Cached tokens that a split has at least: a tile's, or two small ones'. A prompt's many columns leave
    more to combine: four tiles'."""
    if is_decode(fmt, head_dim, columns, one):
        return max(64, tile_tokens(block_size, _decode_tokens(fmt, head_dim, columns)))
    return 256


def reduce_variant(head_dim: int) -> Variant:
    """The second stage: outputs of 256 and more in pieces, so that few rows are many programs."""
    width = 128 if head_dim % 128 == 0 else head_dim
    return Variant("reduce", {"D": head_dim, "WIDTH": width}, 4, 1)


def write_variant(fmt: KVFormat, *, head_dim: int, block_size: int) -> Variant:
    """The cache writer of formats that code tokens alone."""
    constants = {
        "D": head_dim, "BS": block_size, "TB": 32,
        **side_constants("K", fmt.key, head_dim), **side_constants("V", fmt.value, head_dim),
    }  # fmt: skip
    return Variant("write", constants, 4, 1)


def write_groups_variant(fmt: KVFormat, *, head_dim: int, block_size: int) -> Variant:
    """KIVI: the groups that leave the ring."""
    value = side_constants("V", fmt.value, head_dim)
    constants = {
        "D": head_dim, "BS": block_size, "RING": fmt.residual, "KCODE": int(fmt.key.code),
        "KGROUP": fmt.key.group, **value,
    }  # fmt: skip
    return Variant("write_groups", constants, 4, 1)


def write_ring_variant(fmt: KVFormat, *, head_dim: int) -> Variant:
    """KIVI: the tokens that stay in 16 bits."""
    constants = {"D": head_dim, "RING": fmt.residual, "KGROUP": fmt.key.group, "TB": 32}
    return Variant("write_ring", constants, 4, 1)
