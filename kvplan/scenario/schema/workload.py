"""What is asked for, and how fast it should be served."""

from typing import Literal, Self

from pydantic import model_validator

from kvplan.scenario.schema.part import Part, Positive, Rate, Scale, Seconds, Tokens


class WorkloadPart(Part):
    """Requests: a trace file or a named synthetic workload, never both."""

    trace: str | None = None
    format: str = "auto"
    limit: Positive | None = None
    time_scale: Scale = 1.0
    rate_scale: Scale = 1.0
    block_size: Positive | None = None
    smooth: bool = False
    sort: Literal["window", "full"] = "window"
    clamp_outputs: bool = False
    synthesize: str | None = None
    requests: Positive | None = None
    rate: Rate | None = None
    prompt_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    max_in_flight: Positive | None = None
    turns: Literal["timed", "answered"] = "timed"

    @property
    def reads_once(self) -> bool:
        """Whether the trace comes through a pipe, so that nothing can read it a second time."""
        from kvplan.traces.source import read_once

        return self.trace is not None and read_once(self.trace)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.trace is None) == (self.synthesize is None):
            raise ValueError("a workload needs either 'trace' or 'synthesize'")
        synthetic = [name for name in ("requests", "prompt_tokens", "output_tokens") if getattr(self, name)]
        if self.trace is not None and synthetic:
            raise ValueError(f"{synthetic[0]!r} belongs to 'synthesize', not to a trace (use 'limit')")
        return self


class SloPart(Part):
    """Limits; missing one makes ``kvplan simulate`` exit with 3."""

    ttft_p50_s: Seconds | None = None
    ttft_p90_s: Seconds | None = None
    ttft_p99_s: Seconds | None = None
    tpot_p50_s: Seconds | None = None
    tpot_p90_s: Seconds | None = None
    tpot_p99_s: Seconds | None = None
    e2e_p50_s: Seconds | None = None
    e2e_p90_s: Seconds | None = None
    e2e_p99_s: Seconds | None = None
