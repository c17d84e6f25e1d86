"""What is asked for, and how fast it should be served."""

from typing import Literal, Self

from pydantic import model_validator

from kvplan.scenario.schema.part import Part, Positive, Rate, Scale, Seconds, Tokens

_OF_SYNTHETIC = ("requests", "prompt_tokens", "output_tokens")
_OF_TRACES = ("limit", "format", "time_scale", "block_size", "smooth", "sort", "clamp_outputs")


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
    max_sessions: Positive | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.trace is None) == (self.synthesize is None):
            raise ValueError("a workload needs either 'trace' or 'synthesize'")
        if self.max_sessions is not None and self.turns != "answered":
            raise ValueError("'max_sessions' needs 'turns: answered': timed turns do not wait for a session")
        if self.trace is not None:
            synthetic = [name for name in _OF_SYNTHETIC if self._chosen(name)]
            if synthetic:
                raise ValueError(f"{synthetic[0]!r} belongs to 'synthesize', not to a trace (use 'limit')")
        else:
            read = [name for name in _OF_TRACES if self._chosen(name)]
            if read:
                instead = " (use 'requests')" if read[0] == "limit" else ""
                raise ValueError(f"{read[0]!r} belongs to a trace, not to 'synthesize'{instead}")
        return self

    def _chosen(self, name: str) -> bool:
        """Whether a field is not what it would be anyway."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)


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
