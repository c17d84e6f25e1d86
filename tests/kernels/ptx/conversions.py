"""``cvt``: from one type to another, with the rounding the instruction names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from tests.kernels.ptx.arithmetic import UNSIGNED, Bits, bits_of, seen, width

EIGHT = {"e4m3x2": torch.float8_e4m3fn, "e5m2x2": torch.float8_e5m2}


def conversion(name: str) -> tuple[Callable[..., Bits], tuple[int, ...]] | None:
    """The function of a conversion and the widths of what it takes; ``None`` for another instruction."""
    base, *suffixes = name.split(".")
    if base != "cvt":
        return None
    to, source = suffixes[-2:]
    modes = set(suffixes[:-2])
    if to in ("f16x2", "bf16x2") and source == "f32":
        one = to.removesuffix("x2")
        # The first operand is the upper half.
        return lambda a, b: _narrow(a, one).astype(np.uint32) << np.uint32(16) | _narrow(b, one), (32, 32)
    if source in EIGHT:
        return lambda a: _from_eight(a, EIGHT[source]), (16,)
    if to == "bf16":
        return lambda a: _narrow(a, "bf16"), (width(source),)
    if to[0] in "us" and source[0] == "f":
        return lambda a: _whole(seen(a, source), to, modes), (width(source),)
    if to[0] in "us" or source[0] in "us" or source[0] in "bf":
        return lambda a: _plain(a, to, source), (width(source),)
    return None


def _plain(a: Bits, to: str, source: str) -> Bits:
    numbers = seen(a, source)
    if to[0] == "f":
        with np.errstate(over="ignore"):
            return bits_of(numbers, to)
    # Integers: extended by their own sign, then cut.
    return numbers.astype(np.int64 if source[0] == "s" else np.uint64).astype(UNSIGNED[width(to)])


def _narrow(bits: Bits, to: str) -> Bits:
    with np.errstate(over="ignore"):
        return bits_of(bits.view(np.float32), to)


def _whole(numbers: np.ndarray, to: str, modes: set[str]) -> Bits:
    wide = numbers.astype(np.float64)
    whole = np.trunc(wide) if "rzi" in modes else np.rint(wide)
    bits, signed = width(to), to[0] == "s"
    low = -(2.0 ** (bits - 1)) if signed else 0.0
    high = 2.0 ** (bits - 1 if signed else bits) - 1
    held = np.clip(np.where(np.isnan(whole), 0, whole), low, high)
    return held.astype(np.int64).astype(UNSIGNED[bits])


def _from_eight(pairs: Bits, dtype: torch.dtype) -> Bits:
    codes = torch.from_numpy(np.ascontiguousarray(pairs).view(np.uint8).copy())
    return codes.view(dtype).to(torch.float16).numpy().view(np.uint32)
