"""What arithmetic instructions do to bits: each is a function of unsigned arrays, one element a thread.

``operation(name)`` gives the function and the widths in bits of what it takes; the result has the width of the
register it goes to. Approximate instructions give the exact result, rounded: their error is not modelled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
FLOATS = {16: np.float16, 32: np.float32, 64: np.float64}
NAMED = {"f16x2": 32, "bf16x2": 32, "bf16": 16, "e4m3x2": 16, "e5m2x2": 16, "pred": 1}
Bits = np.ndarray
Function = Callable[..., Bits]


@functools.cache
def width(kind: str) -> int:
    """Bits of a type such as ``f32`` or ``b16``; a pair of 16 bits is 32."""
    return NAMED.get(kind) or int(kind.lstrip("bufs"))


def seen(bits: Bits, kind: str) -> np.ndarray:
    """Bits as numbers of a type: [n, 2] for pairs; float32 for bf16, which numpy does not have."""
    if kind == "f16x2":
        return np.ascontiguousarray(bits).view(np.float16).reshape(-1, 2)
    if kind == "bf16x2":
        return seen(np.ascontiguousarray(bits).view(np.uint16), "bf16").reshape(-1, 2)
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    table = {"f": FLOATS, "s": SIGNED}.get(kind[0], UNSIGNED)
    return bits.view(table[width(kind)])


def bits_of(values: np.ndarray, kind: str) -> Bits:
    """Numbers of a type as bits."""
    if kind == "f16x2":
        return np.ascontiguousarray(values.astype(np.float16)).view(np.uint32)[:, 0]
    if kind == "bf16":
        return rounded_to_bf16(values)
    if kind == "bf16x2":
        return np.ascontiguousarray(rounded_to_bf16(values)).view(np.uint32)[:, 0]
    table = {"f": FLOATS, "s": SIGNED}.get(kind[0], UNSIGNED)
    return np.ascontiguousarray(values.astype(table[width(kind)])).view(UNSIGNED[width(kind)])


def rounded_to_bf16(values: np.ndarray) -> Bits:
    """Numbers to the nearest bf16, ties to even; what is no number to the canonical one."""
    # Odd rounding to float32 first, so that numbers of float64 are rounded once.
    single = values.astype(np.float32)
    bits = np.ascontiguousarray(single).view(np.uint32)
    if values.dtype == np.float64:
        inexact = (single.astype(np.float64) != values) & np.isfinite(values)
        away = np.abs(single.astype(np.float64)) > np.abs(values)
        bits = np.where(inexact, (bits - away.astype(np.uint32)) | np.uint32(1), bits)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits.astype(np.uint64) + np.uint64(0x7FFF) + odd) >> np.uint64(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def operation(name: str) -> tuple[Function, tuple[int, ...]] | None:
    """The function of an instruction and the widths of its operands; ``None`` where it is none of these."""
    base, *suffixes = name.split(".")
    kind = suffixes[-1] if suffixes else ""
    if base in ("mul", "mad") and ("wide" in suffixes or "hi" in suffixes):
        return _wide(base, kind, "hi" in suffixes)
    if base in SPECIAL:
        return SPECIAL[base](kind)
    if base == "setp":
        return _compare(suffixes[0], kind), (width(kind),) * 2
    if base == "selp":
        return lambda a, b, p: np.where(p, a, b), (width(kind), width(kind), 1)
    if base in LOGIC and kind != "pred":
        return LOGIC[base], (width(kind),) * (1 if base == "not" else 2)
    if base in LOGIC:
        return PREDICATES[base], (1,) * (1 if base == "not" else 2)
    if base in NUMERIC:
        return _numeric(base, kind, suffixes)
    return None


def _numeric(base: str, kind: str, suffixes: list[str]) -> tuple[Function, tuple[int, ...]]:
    function, count = NUMERIC[base]
    if base == "min" and "relu" in suffixes:
        function = _min_relu
    flushes, wider = "ftz" in suffixes, base in ("fma", "mad") and kind[0] in "fb"
    if base == "div" and kind[0] in "us":
        function = _divided_whole

    def apply(*operands: Bits) -> Bits:
        numbers = [seen(o, kind) for o in operands]
        if wider:
            # One rounding: products of these types are exact in float64.
            numbers = [n.astype(np.float64) for n in numbers]
        with np.errstate(all="ignore"):
            found = bits_of(function(*numbers), kind)
        return _flushed(found) if flushes and kind == "f32" else found

    return apply, (width(kind),) * count


def _min_relu(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(np.minimum(a, b), 0)


def _divided_whole(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Towards zero, as the hardware; a quotient of 32-bit numbers is never rounded up to a whole one in float64.
    assert a.dtype.itemsize <= 4, "division of 64-bit numbers"
    return np.trunc(a.astype(np.float64) / b)


def _flushed(bits: Bits) -> Bits:
    tiny = (bits & np.uint32(0x7F800000)) == 0
    return np.where(tiny, bits & np.uint32(0x80000000), bits)


def _compare(how: str, kind: str) -> Function:
    compare = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
               "ge": np.greater_equal}  # fmt: skip
    # A trailing u also holds where either is not a number (ltu ...); nan and num ask just that.
    if how in compare:
        if kind[0] == "f" and how == "ne":
            return lambda a, b: (seen(a, kind) != seen(b, kind)) & ~_unordered(a, b, kind)
        return lambda a, b: compare[how](seen(a, kind), seen(b, kind))
    if how in ("nan", "num"):
        return lambda a, b: _unordered(a, b, kind) == (how == "nan")
    return lambda a, b: compare[how[:-1]](seen(a, kind), seen(b, kind)) | _unordered(a, b, kind)


def _unordered(a: Bits, b: Bits, kind: str) -> np.ndarray:
    return np.isnan(seen(a, kind)) | np.isnan(seen(b, kind))


def _wide(base: str, kind: str, high: bool) -> tuple[Function, tuple[int, ...]]:
    bits = width(kind)
    both = SIGNED if kind[0] == "s" else UNSIGNED

    def product(a: Bits, b: Bits) -> Bits:
        full = a.view(both[bits]).astype(both[2 * bits]) * b.view(both[bits]).astype(both[2 * bits])
        full = full.view(UNSIGNED[2 * bits])
        return (full >> np.uint64(bits)).astype(UNSIGNED[bits]) if high else full

    if base == "mul":
        return product, (bits, bits)
    return lambda a, b, c: product(a, b) + c, (bits, bits, bits if high else 2 * bits)


def _shift(left: bool) -> Callable[[str], tuple[Function, tuple[int, ...]]]:
    def made(kind: str) -> tuple[Function, tuple[int, ...]]:
        bits = width(kind)

        def shifted(a: Bits, by: Bits) -> Bits:
            numbers = seen(a, kind)
            over = by >= bits
            amount = np.minimum(by, bits - 1).astype(numbers.dtype)
            if left:
                return np.where(over, 0, a << amount.astype(a.dtype)).astype(a.dtype)
            found = (numbers >> amount).view(a.dtype)
            filled = (numbers >> (bits - 1)).view(a.dtype) if kind[0] == "s" else np.zeros_like(a)
            return np.where(over, filled, found)

        return shifted, (bits, 32)

    return made


def _field(kind: str) -> tuple[Function, tuple[int, ...]]:
    """``bfe``: bits from ``start``, ``count`` of them, with the sign of the last where signed."""
    bits = width(kind)

    def extract(a: Bits, start: Bits, count: Bits) -> Bits:
        at = np.minimum(start & np.uint32(255), bits).astype(np.uint64)
        length = np.minimum(count & np.uint32(255), bits).astype(np.uint64)
        value = a.astype(np.uint64)
        found = np.where(at >= 64, 0, value >> np.minimum(at, 63)) & _ones_below(length)
        if kind[0] == "s":
            last = np.minimum(bits - 1, at + length - (length > 0))
            negative = ((value >> last) & np.uint64(1)).astype(bool) & (length > 0)
            found = np.where(negative, found | ~_ones_below(np.minimum(length, bits - at)), found)
        return found.astype(UNSIGNED[bits])

    return extract, (bits, 32, 32)


def _ones_below(n: np.ndarray) -> np.ndarray:
    one = np.uint64(1)
    return np.where(n >= 64, ~np.uint64(0), (one << np.minimum(n, 63).astype(np.uint64)) - one)


def _permute(kind: str) -> tuple[Function, tuple[int, ...]]:
    """``prmt``: each nibble of the selector picks one of eight bytes; its high bit repeats the byte's sign."""

    def permuted(a: Bits, b: Bits, selector: Bits) -> Bits:
        both = np.stack([a, b], axis=1).view(np.uint8)
        nibbles = (selector[:, None] >> np.arange(0, 16, 4, dtype=np.uint32)) & np.uint32(15)
        byte = np.take_along_axis(both, (nibbles & np.uint32(7)).astype(np.intp), axis=1)
        signs = np.where(byte & 128, np.uint8(255), np.uint8(0))
        return np.ascontiguousarray(np.where(nibbles & 8, signs, byte)).view(np.uint32)[:, 0]

    return permuted, (32, 32, 32)


def _logic3(kind: str) -> tuple[Function, tuple[int, ...]]:
    def three(a: Bits, b: Bits, c: Bits, table: Bits) -> Bits:
        found = np.zeros_like(a)
        # The truth table is part of the instruction: the same for all threads.
        for i in range(8):
            if int(table[0]) >> i & 1:
                found |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
        return found

    return three, (32, 32, 32, 32)


def _ones(kind: str) -> tuple[Function, tuple[int, ...]]:
    return lambda a: np.bitwise_count(a).astype(np.uint32), (width(kind),)


SPECIAL = {
    "shl": _shift(True), "shr": _shift(False), "bfe": _field, "prmt": _permute, "lop3": _logic3, "popc": _ones,
}  # fmt: skip
LOGIC: dict[str, Function] = {
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.bitwise_not,
}  # fmt: skip
PREDICATES: dict[str, Function] = {
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, "not": np.logical_not,
}  # fmt: skip
NUMERIC: dict[str, tuple[Function, int]] = {
    "add": (np.add, 2), "sub": (np.subtract, 2), "mul": (np.multiply, 2), "div": (np.divide, 2),
    "fma": (lambda a, b, c: a * b + c, 3), "mad": (lambda a, b, c: a * b + c, 3),
    # Of a number and what is none, the number.
    "min": (np.fmin, 2), "max": (np.fmax, 2), "abs": (np.abs, 1), "neg": (np.negative, 1),
    "ex2": (np.exp2, 1), "lg2": (np.log2, 1), "rcp": (lambda a: 1 / a, 1), "sqrt": (np.sqrt, 1),
    "rem": (np.fmod, 2),
}  # fmt: skip
