"""What the time of steps was spent on, and what bound it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from kvplan.reporting.schema.part import Amount, Count, Part, Seconds

Share = Annotated[float, Field(ge=0, le=1)]

ROUNDING = 1e-6


class StepTimeParts(Part):
    """Shares of busy time by what engines and GPUs do; they add up to 1.

    ``weights``: matrices, experts and small kernels; ``drafts``: making them, where decoding is speculative;
    ``launches``: the GPU waits for the host.
    """

    weights: Share
    decode_attention: Share
    prefill_attention: Share
    state: Share
    logits: Share
    exchanges: Share
    drafts: Share
    launches: Share
    engine: Share


class StepTimeBound(Part):
    """Shares of busy time by what a faster one of which would shorten; they add up to 1.

    ``kernels``: those that use little of either peak: small ones, which more requests would fill, or padded.
    """

    bandwidth: Share
    compute: Share
    kernels: Share
    links: Share
    host: Share


class StepTime(Part):
    """Where a clock knows what its steps are made of.

    ``busy_s`` is the length of all steps, of all ``instances`` together; the shares come from
    ``sampled_steps`` of them. ``peak_compute`` and ``peak_bandwidth``: the datasheet's seconds for the work
    that was asked for, at the peak of its number formats and at the memory's bandwidth, over those taken,
    of every GPU of a replica on average.
    """

    busy_s: Seconds
    instances: Annotated[int, Field(ge=1)]
    sampled_steps: Count
    parts: StepTimeParts
    bound: StepTimeBound
    peak_compute: Amount
    peak_bandwidth: Amount

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        for name in ("parts", "bound"):
            whole = sum(getattr(self, name).model_dump().values())
            if abs(whole - 1.0) > ROUNDING:
                raise ValueError(f"{name} add up to {whole}, not to 1")
        return self
