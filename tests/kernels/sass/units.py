"""Which unit of an H100's multiprocessor an instruction keeps busy, and for how long.

Throughputs are those of the CUDA Programming Guide's table for compute capability 9.0 (results a cycle of one
multiprocessor: 128 fp32, 64 integer and logic, 64 conversions of 8 and 16 bits, 16 of special functions and of other
conversions). Warps' own matrix products take twice the cycles that the datasheet's rate would: below full rate is what
Hopper gives them (Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture", 2024, measured 62 %).
Latencies are from the same paper, in cycles.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WAVE = 128
"""Bytes of shared memory that a multiprocessor serves in one cycle."""
SHARED_LATENCY, GLOBAL_LATENCY, BARRIER = 30, 800, 20
"""Of memory: 480 cycles idle; loaded by every multiprocessor, more."""


@dataclass(frozen=True, slots=True)
class Use:
    """What an instruction of one warp needs.

    Attributes:
        unit: one of a scheduler's own (``alu``, ``fma``, ``special``, ``tensor``, ``none``), or ``shared``, which its
            whole multiprocessor has once. cycles: how long that unit is busy. latency: until the result is there,
            where a counter says so.
        bytes: of memory, read by it.
    """

    unit: str
    cycles: int
    latency: int = 18
    bytes: int = 0


INTEGER = ("LOP3", "IADD3", "SHF", "PRMT", "SEL", "ISETP", "LEA", "FSETP", "FMNMX", "FSEL", "VIADD", "IMNMX", "VIMNMX",
           "PLOP3", "MOV", "SGXT", "P2R", "R2P", "F2FP", "I2FP", "IABS", "BMSK", "LOP", "SHL", "SHR", "VOTE", "HSETP2")  # fmt: skip
FLOAT = ("FFMA", "FMUL", "FADD", "HFMA2", "HMUL2", "HADD2")
SPECIAL = ("MUFU", "F2F", "I2F", "F2I", "POPC", "FLO", "S2R", "S2UR", "R2UR")
SHARED = ("LDS", "STS", "LDSM", "STSM", "SHFL", "ATOMS", "MOVM")
GLOBAL = ("LDG", "STG", "ATOMG", "RED", "LD", "ST", "LDL", "STL")


def use(text: str, conflicts: float = 1.0) -> Use:
    """What one instruction needs.

    Args:
        conflicts: accesses to shared memory over those there would be if no threads met in a bank.
    """
    name = text.split()[0]
    kind = name.split(".")[0]
    if kind == "HGMMA":
        rows, columns, depth = (int(n) for n in re.search(r"(\d+)x(\d+)x(\d+)", name).groups())
        # Four warps issue it together: each unit does its quarter, and reads both operands from shared memory.
        from_shared = (
            2 * depth * (columns + (rows if "gdesc" in text.split(",")[1] + text.split(",")[0] else 0))
        )
        return Use("tensor", max(rows * columns * depth // 2048, from_shared // WAVE), 60)
    if kind.endswith("MMA"):
        return Use("tensor", 8, 34)
    if kind == "LDGSTS":
        return Use("shared", round(_width(name) // 4 * conflicts), GLOBAL_LATENCY, 32 * _width(name))
    if kind in SHARED:
        waves = 1 if kind == "SHFL" else _matrices(name) if "SM" in kind else _width(name) // 4
        return Use(
            "shared", max(1, round(max(1, waves) * (1 if kind == "SHFL" else conflicts))), SHARED_LATENCY
        )
    if kind in GLOBAL:
        return Use("shared", max(1, _width(name) // 4), GLOBAL_LATENCY)
    if kind in SPECIAL:
        return Use("special", 8, 24)
    if kind in INTEGER:
        return Use("alu", 2)
    if kind == "IMAD":
        return Use("fma", 2)
    return Use("fma" if kind in FLOAT else "none", 1)


def _width(name: str) -> int:
    """Bytes of a thread."""
    found = re.search(r"\.(128|64|U16|S16|16|U8|S8)\b", name)
    return {"128": 16, "64": 8, "U16": 2, "S16": 2, "16": 2, "U8": 1, "S8": 1}[found[1]] if found else 4


def _matrices(name: str) -> int:
    found = re.search(r"\.(2|4)$", name)
    return int(found[1]) if found else 1
