"""Which compiled variant attends over a latent (MLA), and which writes it: see ``variants``."""

from __future__ import annotations

from kvplan.kernels.formats import Code, KVFormat
from kvplan.kernels.variants import REGISTERS, Target, Variant, tile_tokens

MLA_SHARE = 64
"""Cached tokens that a split of a latent has at least: two tiles."""


def mla_columns(columns: int, target: Target) -> int:
    """Query columns of an MLA program, of ``columns`` (tokens x heads) that a sequence has.

    With 64, a latent that was loaded and unpacked serves four times as many at half the instructions each.
    They fit the registers on Hopper.
    """
    return 64 if columns > 32 and target.capability == 90 else 16


def mla_beside(fmt: KVFormat, block: int, target: Target) -> bool:
    """Whether scores are taken as queries times latents, so that a warp has eight tokens of its own.

    The other way a warp has sixteen, and of a tile's 32 two warps do the same: twice the products, and twice
    the reads of shared memory. Queries are then read again for every tile; where unpacked latents, too, go
    through shared memory (fp8 on Hopper), or registers are short (16 bits before it), that is no gain.
    """
    wide = fmt.key.code is Code.FLOAT16
    return block == 16 and (target.capability in (90, None) if wide else (target.capability or 100) < 90)


def mla_programs(fmt: KVFormat, block: int, target: Target) -> int:
    """Programs of four warps that one multiprocessor is to hold at once, or one of eight."""
    if block > 16:
        return 1
    return 3 if target.capability == 90 and mla_beside(fmt, block, target) else 2


def mla_variant(fmt: KVFormat, *, block_size: int, columns: int, mode: int, one: bool,
                target: Target) -> Variant:  # fmt: skip
    """MLA decode and append: tiles of 32 tokens; tiles of 64 spill."""
    tokens, block = tile_tokens(block_size, 32), mla_columns(columns, target)
    constants = {
        "BS": block_size, "BN": tokens, "BH": block, "PAGED": block_size % tokens == 0, "MODE": mode,
        "ONE": one, "CODE": int(fmt.key.code), "CT": target.compute_type(fmt, "bfloat16"),
        "DEFER": block == 16, "BESIDE": mla_beside(fmt, block, target),
        **{k: v for k, v in target.switches().items() if k != "FOLD"},
    }  # fmt: skip
    each = mla_programs(fmt, block, target)
    registers = REGISTERS // (each * 128) // 8 * 8 if each > 2 else None
    return Variant("mla", constants, 4 if block == 16 else 8, 2, registers)


def write_mla_variant(fmt: KVFormat) -> Variant:
    """The latent writer."""
    return Variant("write_mla", {"TB": 16, "CODE": int(fmt.key.code)}, 4, 1)
