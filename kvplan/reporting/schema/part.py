"""What every part of a result is made of: strict, closed objects and bounded numbers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MOST = 1e30
"""Larger than any time, size or number of a run, and small enough to be scaled, squared and drawn."""

Count = Annotated[int, Field(ge=0, le=10**30)]
Seconds = Annotated[float, Field(ge=0, le=MOST)]
Amount = Annotated[float, Field(ge=0, le=MOST)]
SignedCount = Annotated[int, Field(ge=-(10**30), le=10**30)]
SignedAmount = Annotated[float, Field(ge=-MOST, le=MOST)]
Scalar = str | int | float | bool | None


class Part(BaseModel):
    """Strict, closed and without NaN: a typing error in a producer is an error, not a missing chart."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )
