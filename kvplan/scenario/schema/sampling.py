"""How many answers a request gets."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvplan.scenario.schema.part import Part


class SamplingPart(Part):
    """Several samples of every request, all as long as its answer.

    ``fork``: ``copy-on-write`` computes the prompt once and lets samples hold its blocks together;
    ``requests`` makes every sample a request of its own that finds the prompt in the prefix cache, as vLLM
    v1 does. ``trunk_lag``: beams differ in so many last tokens (default ``2 (n - 1)``).
    """

    n: Annotated[int, Field(strict=True, ge=1, le=1024)] = 1
    mode: Literal["parallel", "beam"] = "parallel"
    fork: Literal["copy-on-write", "requests"] = "copy-on-write"
    trunk_lag: Annotated[int, Field(strict=True, ge=0, le=1 << 40)] | None = None

    @model_validator(mode="after")
    def _beams_fork(self) -> Self:
        if self.mode == "beam" and self.fork == "requests":
            raise ValueError("beams share what they have computed: fork is copy-on-write")
        if self.mode == "parallel" and self.trunk_lag is not None:
            raise ValueError("trunk_lag is of beams: parallel samples share their prompt only")
        return self
