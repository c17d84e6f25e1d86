"""Options of the engines, under their own names."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from kvplan.errors import UsageError
from kvplan.scenario.schema.cache import RadixEviction
from kvplan.scenario.schema.part import Natural, Number, Part, Positive, Tokens


def _as_written(value: object) -> object:
    """A version without quotes is a number to YAML, in which 0.10 and 0.1 are one."""
    if isinstance(value, (int, float)):
        raise ValueError(
            f"a version is text, and YAML reads this one as the number {value}: put it in quotes"
        )
    return value


def _is_one(version: str) -> str:
    """Refused here, as a run on a given pool would not look at it."""
    from kvplan.sizing.serving import parse_version

    try:
        parse_version(version)
    except UsageError as exc:
        raise ValueError(f"{exc.message}: {exc.hint}") from None
    return version


Version = Annotated[str, BeforeValidator(_as_written), AfterValidator(_is_one)]


class EnginePart(Part):
    """Options of the engine, under its own names; ``None`` is the engine's default on this GPU."""

    kind: Literal["vllm"] = "vllm"
    version: Version = "0.33"
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Tokens | None = None
    max_model_len: Tokens | None = None
    gpu_memory_utilization: Annotated[Number, Field(gt=0, le=1)] | None = None
    enforce_eager: bool = False
    enable_chunked_prefill: Annotated[bool, Field(alias="chunked_prefill")] = True
    policy: Literal["fcfs", "priority"] = "fcfs"
    preemption: Literal["recompute", "swap", "auto"] = "recompute"
    long_prefill_token_threshold: Natural = 0
    long_prefill_token_threshold_adaptive: bool = False
    watermark: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    scheduler_reserve_full_isl: bool = True
    prefill_schedule_interval: Positive = 1
    async_scheduling: bool = True
    prefix_cache_retention_interval: Natural | None = 0

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_version(cls, data: Any) -> Any:
        """What older versions did unless told otherwise; a version that is none is refused for itself."""
        version = data.get("version") if isinstance(data, dict) else None
        if not isinstance(version, str):
            return data
        from kvplan.sizing.serving import ASYNC, RESERVES_PROMPTS, parse_version

        try:
            parsed = parse_version(version)
        except UsageError:
            return data
        since = {"async_scheduling": ASYNC, "scheduler_reserve_full_isl": RESERVES_PROMPTS}
        return {**{name: False for name, first in since.items() if parsed < first}, **data}


class SglangPart(Part):
    """Options of SGLang, under its own names; ``None`` is the engine's default on this GPU."""

    kind: Literal["sglang"] = "sglang"
    version: Version = "0.5.23"
    page_size: Positive | None = None
    max_total_tokens: Tokens | None = None
    max_running_requests: Positive | None = None
    chunked_prefill_size: Annotated[int, Field(strict=True, ge=-1, le=1 << 40)] | None = None
    max_prefill_tokens: Tokens = 16_384
    prefill_max_requests: Positive | None = None
    prefill_decode_interval: Annotated[int, Field(strict=True, ge=0, le=1 << 20)] | None = None
    prefill_decode_interval_min_bs: Annotated[int, Field(strict=True, ge=0, le=1 << 20)] = 0
    context_length: Tokens | None = None
    mem_fraction_static: Annotated[Number, Field(gt=0, le=1)] | None = None
    disable_cuda_graph: bool = False
    schedule_policy: Literal["fcfs", "lpm"] = "fcfs"
    schedule_conservativeness: Annotated[Number, Field(gt=0, le=1e6)] = 1.0
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


def engine_kind(value: object) -> object:
    """Which engine an ``engine`` object, read or not yet read, is about."""
    return value.get("kind", "vllm") if isinstance(value, dict) else getattr(value, "kind", "vllm")


AnyEngine = Annotated[
    Annotated[EnginePart, Tag("vllm")] | Annotated[SglangPart, Tag("sglang")],
    Discriminator(
        engine_kind,
        custom_error_type="engine_kind",
        custom_error_message="engine.kind is vllm or sglang",
    ),
]
