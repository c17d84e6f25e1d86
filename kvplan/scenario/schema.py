"""A scenario: everything a simulation depends on, as a user writes it (``kvplan.scenario/1``).

``engine`` keys are the engine's own option names, so that a deployment's flags can be pasted. What kvplan
does not simulate is refused by name, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from kvplan.errors import UsageError
from kvplan.units import parse_bytes, parse_rate, parse_seconds, parse_tokens


def _by(parse: Any) -> BeforeValidator:
    def convert(value: object) -> object:
        if isinstance(value, str):
            try:
                return parse(value)
            except UsageError as exc:
                raise ValueError(exc.message) from exc
        return value

    return BeforeValidator(convert)


Tokens = Annotated[int, _by(parse_tokens), Field(strict=True, ge=1, le=1 << 40)]
Seconds = Annotated[float, _by(parse_seconds), Field(gt=0)]
Rate = Annotated[float, _by(parse_rate), Field(gt=0)]
Positive = Annotated[int, Field(strict=True, ge=1, le=1 << 40)]
Natural = Annotated[int, Field(strict=True, ge=0, le=1 << 40)]
Scale = Annotated[float, Field(gt=0, le=1e9)]


class Part(BaseModel):
    """Base of every part of a scenario: an unknown field is an error, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class ParallelPart(Part):
    """How one replica is spread over GPUs."""

    tp: Positive = 1
    pp: Positive = 1
    cp: Positive = 1
    replicas: Positive = 1

    @model_validator(mode="after")
    def _one_replica(self) -> Self:
        if self.replicas > 1:
            raise ValueError(
                "several replicas behind a router are not simulated yet; divide the trace's rate instead "
                f"(workload.rate_scale: {1 / self.replicas:g}) and simulate one"
            )
        return self


class GroupPart(Part):
    """One layer group of the pool; overrides what the model says."""

    kind: Literal["full", "sliding", "mamba"] = "full"
    block_size: Positive | None = None
    window: Tokens | None = None


class CachePart(Part):
    """The KV cache: number format, blocks, and how prefixes are shared."""

    dtype: str | None = None
    dtype_k: str | None = None
    dtype_v: str | None = None
    block_size: Positive = 16
    blocks: Annotated[int, Field(strict=True, ge=2, le=1 << 40)] | None = None
    prefix: Literal["hash", "none"] = "hash"
    eviction: Literal["lru"] = "lru"
    host_memory: Annotated[int, _by(parse_bytes), Field(strict=True, ge=0)] = 0
    retention: Literal["engine"] = "engine"
    groups: Annotated[tuple[GroupPart, ...], Field(min_length=1, max_length=16)] | None = None

    @model_validator(mode="after")
    def _no_host_tier(self) -> Self:
        if self.host_memory:
            raise ValueError("a host-memory tier is not simulated yet: leave host_memory at 0")
        return self


class EnginePart(Part):
    """Options of the engine, under its own names; ``None`` is the engine's default on this GPU."""

    kind: Literal["vllm"] = "vllm"
    version: str = "0.33"
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Tokens | None = None
    max_model_len: Tokens | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    enforce_eager: bool = False
    enable_chunked_prefill: Annotated[bool, Field(alias="chunked_prefill")] = True
    policy: Literal["fcfs", "priority"] = "fcfs"
    preemption: Literal["recompute"] = "recompute"
    long_prefill_token_threshold: Natural = 0
    long_prefill_token_threshold_adaptive: bool = False
    watermark: Annotated[float, Field(ge=0, lt=1)] = 0.0
    scheduler_reserve_full_isl: bool = True
    prefill_schedule_interval: Positive = 1
    async_scheduling: bool = True
    prefix_cache_retention_interval: Natural | None = 0


class LatencyPart(Part):
    """Which clock; the other keys are the model's own parameters."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    model: str = "roofline"

    def parameters(self) -> dict[str, Any]:
        """Everything but ``model``."""
        return dict(self.model_extra or {})


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


class Scenario(Part):
    """One simulation, resolved from a file, flags and defaults."""

    schema_: Literal["kvplan.scenario/1"] = Field("kvplan.scenario/1", alias="schema")
    model: str | None = None
    gpu: str | None = None
    weights_dtype: str | None = None
    parallel: ParallelPart = ParallelPart()
    cache: CachePart = CachePart()
    engine: EnginePart = EnginePart()
    latency: LatencyPart = LatencyPart()
    workload: WorkloadPart
    slo: SloPart = SloPart()
    seed: Natural = 0

    @model_validator(mode="after")
    def _enough_to_run(self) -> Self:
        if self.cache.blocks is None and (self.model is None or self.gpu is None):
            raise ValueError("give 'model' and 'gpu', or the number of blocks in 'cache.blocks'")
        if self.latency.model != "linear" and (self.model is None or self.gpu is None):
            raise ValueError(
                f"latency model {self.latency.model!r} needs 'model' and 'gpu'; only 'linear' does without"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, with the field names a scenario file uses."""
        return self.model_dump(mode="json", by_alias=True)
