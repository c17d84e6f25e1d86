"""Options of the engines, under their own names; SGLang's are in a file of their own."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from kvplan.errors import UsageError
from kvplan.scenario.schema.part import Natural, Number, Part, Positive, Tokens, folded
from kvplan.scenario.schema.sglang import SglangPart
from kvplan.scenario.schema.version import Version


class EnginePart(Part):
    """Options of the engine, under its own names; ``None`` is the engine's default on this GPU."""

    kind: Annotated[Literal["vllm"], BeforeValidator(folded)] = "vllm"
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
        from kvplan.sizing.ahead import ASYNC
        from kvplan.sizing.serving import RESERVES_PROMPTS, parse_version

        try:
            parsed = parse_version(version)
        except UsageError:
            return data
        since = {"async_scheduling": ASYNC, "scheduler_reserve_full_isl": RESERVES_PROMPTS}
        return {**{name: False for name, first in since.items() if parsed < first}, **data}


def engine_kind(value: object) -> object:
    """Which engine an ``engine`` object, read or not yet read, is about."""
    return folded(value.get("kind", "vllm")) if isinstance(value, dict) else getattr(value, "kind", "vllm")


AnyEngine = Annotated[
    Annotated[EnginePart, Tag("vllm")] | Annotated[SglangPart, Tag("sglang")],
    Discriminator(
        engine_kind,
        custom_error_type="engine_kind",
        custom_error_message="engine.kind is vllm or sglang",
    ),
]
