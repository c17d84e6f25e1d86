"""What every part of a scenario is made of: strict fields, and texts with units."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from kvplan.errors import UsageError
from kvplan.units import parse_bytes, parse_rate, parse_seconds, parse_tokens

_EXPONENT = re.compile(r"[-+]?[0-9]+\.?[0-9]*[eE][-+]?[0-9]+")


def number(value: object) -> float | None:
    """The number in a text like 2e-05: JSON and every language write it so, and YAML 1.1 reads it as text."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else None


def by(parse: Any) -> BeforeValidator:
    """Texts are read with ``parse`` ("8GiB", "128k") or as a number; anything else is left to pydantic."""

    def convert(value: object) -> object:
        if isinstance(value, str):
            try:
                return parse(value)
            except UsageError as exc:
                plain = number(value)
                if plain is not None:
                    return plain
                raise ValueError(exc.message) from exc
        return value

    return BeforeValidator(convert)


def folded(value: object) -> object:
    """The name of a product as it is known here, however it is written: ``SGLang`` is ``sglang``."""
    return value.strip().casefold() if isinstance(value, str) else value


def _no_flag(value: object) -> object:
    """YAML reads ``yes`` and ``on`` as true, and pydantic true as 1.0."""
    if isinstance(value, bool):
        raise ValueError("input should be a number")
    return value


Number = Annotated[float, BeforeValidator(_no_flag)]
"""A real number; true and false are none."""


def _bandwidth(text: str) -> float:
    """``46GB/s`` -> bytes per second."""
    size, slash, second = text.partition("/")
    if slash and second.strip() != "s":
        raise UsageError(f"{text!r} is no bandwidth: write it like 46GB/s")
    return float(parse_bytes(size))


Tokens = Annotated[int, by(parse_tokens), Field(strict=True, ge=1, le=1 << 40)]
Seconds = Annotated[Number, by(parse_seconds), Field(gt=0, le=1e9)]
Rate = Annotated[Number, by(parse_rate), Field(gt=0), Field(ge=1e-9, le=1e9)]
Positive = Annotated[int, Field(strict=True, ge=1, le=1 << 40)]
Ranks = Annotated[int, Field(strict=True, ge=1, le=1 << 16)]
"""GPUs that share a model, as many as are sized (``kvplan.sizing.parallel``)."""
Natural = Annotated[int, Field(strict=True, ge=0, le=1 << 40)]
Bytes = Annotated[int, by(parse_bytes), Field(strict=True, ge=0, le=1 << 60)]
Scale = Annotated[Number, Field(gt=0), Field(ge=1e-9, le=1e9)]
Bandwidth = Annotated[Number, by(_bandwidth), Field(gt=0, le=1e18)]
Latency = Annotated[Number, by(parse_seconds), Field(ge=0, le=60)]
Lanes = Annotated[int, Field(strict=True, ge=1, le=64)]
"""Equal links side by side."""


class Part(BaseModel):
    """Base of every part of a scenario: an unknown field is an error, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)
