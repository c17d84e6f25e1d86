"""A scenario: everything a simulation depends on, as a user writes it (``kvplan.scenario/1``).

``engine`` keys are the engine's own option names, so that a deployment's flags can be pasted. What kvplan
does not simulate is refused by name, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

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


BlockEviction = Literal[
    "lru", "lfu", "fifo", "size-aware", "slru", "s3-fifo", "w-tinylfu", "priority", "tail-first", "belady"
]
"""Policies of the cache of hashed blocks; vLLM itself has the first."""

RadixEviction = Literal["lru", "lfu", "fifo", "mru", "filo", "priority", "slru"]
"""SGLang's own policies."""


class Part(BaseModel):
    """Base of every part of a scenario: an unknown field is an error, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class ParallelPart(Part):
    """How one replica is spread over GPUs, and how many replicas there are."""

    tp: Positive = 1
    pp: Positive = 1
    cp: Positive = 1
    replicas: Positive = 1


class RoutingPart(Part):
    """How requests are dealt to the replicas."""

    policy: str = "round-robin"


class GroupPart(Part):
    """One layer group of the pool; overrides what the model says."""

    kind: Literal["full", "sliding", "chunked", "mamba"] = "full"
    block_size: Positive | None = None
    window: Tokens | None = None


class CachePart(Part):
    """The KV cache: number format, blocks, and how prefixes are shared."""

    dtype: str | None = None
    dtype_k: str | None = None
    dtype_v: str | None = None
    block_size: Positive = 16
    blocks: Annotated[int, Field(strict=True, ge=2, le=1 << 40)] | None = None
    prefix: Literal["hash", "radix", "none"] = "hash"
    eviction: BlockEviction | RadixEviction = "lru"
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


class SglangPart(Part):
    """Options of SGLang, under its own names; ``None`` is the engine's default on this GPU."""

    kind: Literal["sglang"] = "sglang"
    version: str = "0.5"
    page_size: Positive = 1
    max_total_tokens: Tokens | None = None
    max_running_requests: Positive | None = None
    chunked_prefill_size: Annotated[int, Field(strict=True, ge=-1, le=1 << 40)] | None = None
    max_prefill_tokens: Tokens = 16_384
    context_length: Tokens | None = None
    mem_fraction_static: Annotated[float, Field(gt=0, le=1)] | None = None
    disable_cuda_graph: bool = False
    schedule_policy: Literal["fcfs", "lpm"] = "fcfs"
    schedule_conservativeness: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    radix_eviction_policy: RadixEviction = "lru"
    disable_radix_cache: bool = False
    enable_mixed_chunk: bool = False
    disable_overlap_schedule: bool = False

    # What sizing asks of any engine.

    @property
    def gpu_memory_utilization(self) -> float | None:
        """Share of memory for weights and pool."""
        return self.mem_fraction_static

    @property
    def max_num_batched_tokens(self) -> int | None:
        """Prompt tokens of a step; None is the default, also without chunking."""
        size = self.chunked_prefill_size
        return None if size is None or size < 1 else size

    @property
    def max_num_seqs(self) -> int | None:
        """Requests at a time."""
        return self.max_running_requests

    @property
    def max_model_len(self) -> int | None:
        """Prompt and answer together."""
        return self.context_length

    @property
    def enforce_eager(self) -> bool:
        """Whether no CUDA graphs are captured."""
        return self.disable_cuda_graph

    @property
    def async_scheduling(self) -> bool:
        """Whether scheduling runs ahead; decides memory only."""
        return not self.disable_overlap_schedule


def _engine_kind(value: object) -> object:
    return value.get("kind", "vllm") if isinstance(value, dict) else getattr(value, "kind", "vllm")


AnyEngine = Annotated[
    Annotated[EnginePart, Tag("vllm")] | Annotated[SglangPart, Tag("sglang")],
    Discriminator(
        _engine_kind,
        custom_error_type="engine_kind",
        custom_error_message="engine.kind is vllm or sglang",
    ),
]


class LatencyPart(Part):
    """Which clock; the other keys are the model's own parameters."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    model: str = "roofline"

    def parameters(self) -> dict[str, Any]:
        """Everything but ``model``."""
        return dict(self.model_extra or {})


class AccuracyPart(Part):
    """How the intervals around predicted times are made.

    ``ensemble``: simulations with a perturbed clock; 0 is none, and unset is 8 for workloads that take
    seconds to simulate again.
    """

    ensemble: Annotated[int, Field(strict=True, ge=0, le=64)] | None = None

    @model_validator(mode="after")
    def _no_ensemble_of_one(self) -> Self:
        if self.ensemble == 1:
            raise ValueError("one member says nothing about a spread: ensemble is 0, or 2 to 64")
        return self


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
    routing: RoutingPart = RoutingPart()
    cache: CachePart = CachePart()
    engine: AnyEngine = EnginePart()
    latency: LatencyPart = LatencyPart()
    accuracy: AccuracyPart = AccuracyPart()
    workload: WorkloadPart
    slo: SloPart = SloPart()
    seed: Natural = 0

    @model_validator(mode="before")
    @classmethod
    def _sglang_says_it_twice(cls, data: Any) -> Any:
        """What SGLang's options and ``cache`` both say needs to be given in one of the two places only."""
        if isinstance(data, dict) and _engine_kind(data.get("engine")) == "sglang":
            cache = data.get("cache") or {}
            if isinstance(cache, dict):
                engine = dict(data["engine"])
                cache = dict(cache)
                for ours, theirs, default in (
                    ("block_size", "page_size", 1),
                    ("eviction", "radix_eviction_policy", "lru"),
                ):
                    given = cache.get(ours, engine.get(theirs, default))
                    cache.setdefault(ours, given)
                    engine.setdefault(theirs, given)
                if "prefix" not in cache:
                    cache["prefix"] = "none" if engine.get("disable_radix_cache") else "radix"
                engine.setdefault("disable_radix_cache", cache["prefix"] == "none")
                return {**data, "cache": cache, "engine": engine}
        return data

    @model_validator(mode="after")
    def _one_cache(self) -> Self:
        engine, cache = self.engine, self.cache
        if isinstance(engine, EnginePart):
            if cache.prefix == "radix":
                raise ValueError("vLLM has no radix cache: cache.prefix is hash or none")
            if cache.eviction not in get_args(BlockEviction):
                known = ", ".join(get_args(BlockEviction))
                raise ValueError(f"cache.eviction {cache.eviction} is SGLang's; blocks have {known}")
            if cache.prefix == "none" and cache.eviction != "lru":
                raise ValueError("cache.prefix: none caches nothing to evict: leave cache.eviction at lru")
            return self
        if cache.prefix == "hash":
            raise ValueError("SGLang's cache is a radix tree: cache.prefix is radix or none")
        if cache.groups is not None:
            raise ValueError("cache.groups are vLLM's; SGLang's pool has one")
        for ours, mine, theirs, other in (
            ("block_size", cache.block_size, "page_size", engine.page_size),
            ("eviction", cache.eviction, "radix_eviction_policy", engine.radix_eviction_policy),
            ("prefix: none", cache.prefix == "none", "disable_radix_cache", engine.disable_radix_cache),
        ):
            if mine != other:
                raise ValueError(f"cache.{ours} and engine.{theirs} contradict each other ({mine}, {other})")
        if cache.blocks is not None and engine.max_total_tokens is not None:
            raise ValueError("cache.blocks and engine.max_total_tokens both give the pool; give one")
        return self

    @model_validator(mode="after")
    def _enough_to_run(self) -> Self:
        pool = self.cache.blocks
        if isinstance(self.engine, SglangPart):
            pool = pool or self.engine.max_total_tokens
        if pool is None and (self.model is None or self.gpu is None):
            raise ValueError("give 'model' and 'gpu', or the number of blocks in 'cache.blocks'")
        if self.latency.model != "linear" and (self.model is None or self.gpu is None):
            raise ValueError(
                f"latency model {self.latency.model!r} needs 'model' and 'gpu'; only 'linear' does without"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, with the field names a scenario file uses."""
        return self.model_dump(mode="json", by_alias=True)
