"""Number formats as kernel tables call them: how wide they are, what computes in them, which models use them.

Names are those of NVIDIA aiconfigurator's collectors; scales are counted with the weights as
``kvplan.sizing.weight_formats`` has them.
"""

from __future__ import annotations

from dataclasses import dataclass

_SAME = {
    "auto": "bfloat16", "float16": "bfloat16", "half": "bfloat16", "fp16": "bfloat16", "bf16": "bfloat16",
    "fp8_e4m3": "fp8", "fp8_e4m3fn": "fp8", "float8_e4m3fn": "fp8", "fp8_e5m2": "fp8", "float8_e5m2": "fp8",
}  # fmt: skip
ELEMENT_BYTES = {"bfloat16": 2.0, "fp8": 1.0, "nvfp4": 0.5625, "int8": 1.0, "float32": 4.0}
"""Bytes of an element of a cache or a message."""


@dataclass(frozen=True, slots=True)
class Multiplication:
    """A matrix multiplication in one format.

    Args:
        weight_bytes: of one weight, its share of the scales included.
        input_bytes: of one activation as it is multiplied.
        peak: which peak of the GPU bounds it.
        formats: weight formats of models that run it.
    """

    weight_bytes: float
    input_bytes: float
    peak: str
    formats: tuple[str, ...] = ()


_INT4 = ("int4", "int4_group128", "int4_group64", "int4_channel")
MULTIPLICATIONS = {
    "bfloat16": Multiplication(2.0, 2.0, "bf16", ("bf16", "fp16")),
    "fp8": Multiplication(1.0, 1.0, "fp8", ("fp8", "fp8_channel")),
    "fp8_block": Multiplication(1.0, 1.0, "fp8", ("fp8_block128",)),
    "nvfp4": Multiplication(0.5625, 0.5625, "fp4", ("nvfp4",)),
    "sq": Multiplication(1.0, 1.0, "int8", ("int8",)),
    "int8_wo": Multiplication(1.0, 2.0, "bf16", ("int8_group128",)),
    "int4_wo": Multiplication(0.515625, 2.0, "bf16", _INT4),
    "w4afp8": Multiplication(0.515625, 1.0, "fp8"),
    "w4a16_mxfp4": Multiplication(0.53125, 2.0, "bf16", ("mxfp4",)),
    "w4a8_mxfp4_mxfp8": Multiplication(0.53125, 1.03125, "fp8", ("mxfp4",)),
}
"""By the name tables give the format; ``sq``: SmoothQuant's integers, ``wo``: only weights are narrow."""


def canonical(name: str) -> str:
    """One name for formats whose kernels take the same time: 16-bit floats, 8-bit floats."""
    plain = name.strip().lower().removeprefix("torch.")
    return _SAME.get(plain, plain)


def multiplication(name: str) -> Multiplication | None:
    """The format that a table calls ``name``; variants of fp8 are fp8. None where nobody knows it."""
    plain = canonical(name)
    found = _named(plain)
    if found is None and plain.startswith("fp8"):
        found = Multiplication(1.0, 1.0, "fp8")
    return found


def runs(name: str, weight_format: str) -> bool:
    """Whether models with weights in ``weight_format`` run what a table calls ``name``."""
    found = _named(canonical(name))
    return found is not None and weight_format in found.formats


def _named(plain: str) -> Multiplication | None:
    """A format, or the longest whose name begins this one: ``w4a16_mxfp4_cutlass`` says a kernel behind it.

    Not fp8, behind which names say how it is scaled.
    """
    found = MULTIPLICATIONS.get(plain)
    if found is None and not plain.startswith("fp8"):
        known = [name for name in MULTIPLICATIONS if plain.startswith(f"{name}_")]
        found = MULTIPLICATIONS[max(known, key=len)] if known else None
    return found
