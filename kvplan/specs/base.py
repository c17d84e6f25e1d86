"""What every spec shares: frozen values, strict numbers, a source.

Specs are *frozen pydantic models* both at the border and inside. One definition gives the validation of
users' YAML (all errors at once, a discriminated union, a JSON schema for editors) and an immutable,
hashable value that the sizing functions read; a second set of dataclasses would have to be kept equal by
hand. The engine never sees them: it receives integers.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from kvplan.errors import UsageError
from kvplan.units import parse_bytes


class Frozen(BaseModel):
    """Base of every spec: immutable, and an unknown field is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True, revalidate_instances="always"
    )


MAX_COUNT = 1 << 40
"""Upper bound of any size in a spec: larger ones are typing errors, not machines."""

Count = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
"""A whole number of at least one; ``true`` and ``1.0`` are refused."""

Natural = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
"""A whole number of at least zero."""

SpecName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]
"""A canonical name: lower case, digits, dot, dash, underscore."""


def _bytes(value: object) -> object:
    if isinstance(value, str):
        try:
            return parse_bytes(value)
        except UsageError as exc:
            raise ValueError(exc.message) from exc
    return value


ByteCount = Annotated[int, BeforeValidator(_bytes), Field(strict=True, ge=1, le=1 << 60)]
"""Bytes: an integer, or text such as ``80GiB`` (2**30) or ``80GB`` (10**9)."""

PositiveFloat = Annotated[float, Field(gt=0)]


class Source(Frozen):
    """Where the facts of a spec come from.

    ``grade`` says how good the source is: ``config`` = the published configuration file itself,
    ``published`` = the documented shape of the release; hardware facts are ``datasheet``, ``measured`` or
    ``estimated``.
    """

    url: str
    revision: str | None = None
    note: str | None = None
    grade: Literal["config", "published", "default-class", "datasheet", "measured", "estimated"] = "config"
