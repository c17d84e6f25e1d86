"""Options of SGLang, under their own names."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from kvplan.scenario.schema.cache import RadixOption
from kvplan.scenario.schema.part import Number, Part, Positive, Tokens, by, folded
from kvplan.scenario.schema.version import Version
from kvplan.units import parse_tokens

NO_ORDER = {
    "priority": "SGLang's command line takes it and its scheduler does not know it; say "
    "enable_priority_scheduling: true",
    "random": "SGLang shuffles its queue for every batch, in no order that could be foretold; of the others "
    "fcfs treats requests most alike",
    "routing-key": "it is about keys that a router sends along, and no trace says them",
}
"""Orders of SGLang's queue that are not simulated, and what to do."""


def _foretold(value: object) -> object:
    """Refused for its own reason."""
    if isinstance(value, str) and value in NO_ORDER:
        raise ValueError(f"{value} is not simulated: {NO_ORDER[value]}")
    return value


Order = Annotated[
    Literal["fcfs", "lpm", "dfs-weight", "lof", "hrrn", "shortest-prefill-first"], BeforeValidator(_foretold)
]


def _an_option(value: object) -> object:
    """What only the tree knows is refused for that reason."""
    if isinstance(value, str) and value in ("fifo", "mru", "filo"):
        raise ValueError(
            f"SGLang's radix tree knows {value}, but no version takes it on its command line: for a study of "
            f"policies say cache.eviction: {value}"
        )
    return value


Option = Annotated[RadixOption, BeforeValidator(_an_option)]


class EvictionPart(Part):
    """Parameters of an eviction policy, under SGLang's names; ``None`` is SGLang's default."""

    protected_threshold: Annotated[int, Field(strict=True, ge=0, le=1 << 31)] | None = None
    threshold: Tokens | None = None
    next_prompt_estimate: Annotated[int, by(parse_tokens), Field(strict=True, ge=0, le=1 << 40)] | None = None


OF_PRIORITIES = (
    "schedule_low_priority_values_first", "disable_priority_preemption",
    "priority_scheduling_preemption_threshold",
)  # fmt: skip


class SglangPart(Part):
    """Options of SGLang, under its own names; ``None`` is the engine's default on this GPU."""

    kind: Annotated[Literal["sglang"], BeforeValidator(folded)] = "sglang"
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
    schedule_policy: Order = "fcfs"
    enable_priority_scheduling: bool = False
    schedule_low_priority_values_first: bool = False
    disable_priority_preemption: bool = False
    priority_scheduling_preemption_threshold: Annotated[
        int, Field(strict=True, ge=-(1 << 31), le=1 << 31)
    ] = 10
    retraction_policy: Literal["length", "priority"] = "length"
    max_queued_requests: Positive | None = None
    min_free_slots_delay: Positive | None = None
    schedule_conservativeness: Annotated[Number, Field(gt=0, le=1e6)] = 1.0
    radix_eviction_policy: Option | None = None
    radix_eviction_policy_config: EvictionPart | None = None
    disable_radix_cache: bool = False
    enable_mixed_chunk: bool = False
    disable_overlap_schedule: bool = False

    @model_validator(mode="after")
    def _priorities_count(self) -> Self:
        """Options about priorities that would change nothing are mistakes."""
        for name in OF_PRIORITIES:
            if not self.enable_priority_scheduling and getattr(self, name) != _default(name):
                raise ValueError(f"{name!r} changes nothing without 'enable_priority_scheduling'")
        if self.disable_priority_preemption:
            name = "priority_scheduling_preemption_threshold"
            if getattr(self, name) != _default(name):
                raise ValueError(f"{name!r} changes nothing where 'disable_priority_preemption' is set")
        return self

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


def _default(name: str) -> Any:
    return SglangPart.model_fields[name].default
