"""What an SGLang engine was started with: the options that decide scheduling, under its own names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from kvplan.engine.sglang.eviction import (
    DEFAULTS,
    EvictionParameters,
    EvictionPolicy,
    eviction_policy,
)
from kvplan.engine.sglang.radix_tree import TREE_KINDS, TreeKind
from kvplan.errors import UsageError

SchedulePolicy: TypeAlias = Literal["fcfs", "lpm", "dfs-weight", "lof", "hrrn", "shortest-prefill-first"]
RetractionPolicy: TypeAlias = Literal["length", "priority"]

CACHE_AWARE = ("lpm", "dfs-weight", "hrrn", "shortest-prefill-first")
"""Orders that look at what the cache has of a request (``CacheAwarePolicy``)."""

INIT_NEW_TOKEN_RATIO = 0.7
MIN_NEW_TOKEN_RATIO_FACTOR = 0.14
NEW_TOKEN_RATIO_DECAY_STEPS = 600
RETRACT_DECODE_STEPS = 20
"""Defaults of the environment variables ``SGLANG_INIT_NEW_TOKEN_RATIO`` and so on."""

LPM_QUEUE_LIMIT = 128
"""With more waiting requests than this, ``lpm`` and ``hrrn`` keep the queue as it is; as many prefixes are
refreshed."""

WAITING_REFRESH_PASSES = 32
"""Where the order does not look at the cache, and that evicts by ``lru``: every so many times the queue is
looked at, the cached prefixes of its first requests become recently used, the head's last."""

IN_BATCH_PREFIX_TOKENS = 32
"""Orders that ask the cache look for a prefix shared within the queue where it has at most this many tokens
of a request, and put a request back that shares at least as many with one before it."""


@dataclass(frozen=True, slots=True)
class SglangConfig:
    """Options of one SGLang engine instance; defaults are SGLang's where it has fixed ones.

    ``pool_tokens`` is ``max_total_num_tokens``, cut to whole pages. ``chunked_prefill_size`` -1 turns
    chunking off, as in SGLang. ``tree`` chooses between SGLang's two radix caches. Admission reserves no more
    than ``clip_max_new_tokens`` for an answer (``SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION``). After a prefill
    ``prefill_decode_interval`` rounds let nobody in while at least ``prefill_decode_interval_min_bs`` run.

    With the overlap schedule, SGLang's default, a batch is made when the one before it starts on the device,
    before its outputs are known: a prefix is visible one step later. Who will have finished with the batch in
    flight takes no part in the next one. ``disable_overlap_schedule`` waits for each result.

    With ``enable_priority_scheduling`` the highest number goes first (``schedule_low_priority_values_first``:
    the lowest), and where as many run as may, requests that are more than
    ``priority_scheduling_preemption_threshold`` behind the first of the queue go back into it, unless
    ``disable_priority_preemption``. Who comes to a queue of ``max_queued_requests`` is turned away, and so is
    who comes back to it. Nobody is let in beside others before ``min_free_slots_delay`` more may run.
    """

    pool_tokens: int
    page_size: int = 1
    context_length: int = 131_072
    max_running_requests: int = 2048
    chunked_prefill_size: int = 8192
    max_prefill_tokens: int = 16_384
    schedule_policy: SchedulePolicy = "fcfs"
    schedule_conservativeness: float = 1.0
    radix_eviction_policy: str = "lru"
    radix_eviction_policy_config: EvictionParameters = DEFAULTS
    disable_radix_cache: bool = False
    enable_mixed_chunk: bool = False
    disable_overlap_schedule: bool = False
    prefill_decode_interval: int = 0
    prefill_decode_interval_min_bs: int = 0
    prefill_max_requests: int | None = None
    clip_max_new_tokens: int = 4096
    tree: TreeKind = "unified"
    enable_priority_scheduling: bool = False
    schedule_low_priority_values_first: bool = False
    disable_priority_preemption: bool = False
    priority_scheduling_preemption_threshold: int = 10
    retraction_policy: RetractionPolicy = "length"
    max_queued_requests: int | None = None
    min_free_slots_delay: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "page_size",
            "context_length",
            "max_running_requests",
            "max_prefill_tokens",
            "clip_max_new_tokens",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"engine option {name} is {getattr(self, name)}; it must be at least 1")
        for name in ("prefill_decode_interval", "prefill_decode_interval_min_bs"):
            if getattr(self, name) < 0:
                raise UsageError(f"engine option {name} is {getattr(self, name)}; it must not be negative")
        for name in ("prefill_max_requests", "max_queued_requests", "min_free_slots_delay"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(
                    f"engine option {name} is {value}; it must be at least 1",
                    hint="leave it out for no limit",
                )
        if self.pool_tokens < self.page_size:
            raise UsageError(
                f"a pool of {self.pool_tokens} tokens holds no page of {self.page_size}",
                hint="give the pool more tokens or lower page_size",
            )
        object.__setattr__(self, "pool_tokens", self.pool_tokens - self.pool_tokens % self.page_size)
        size = self.chunked_prefill_size
        if size != -1 and (size < 1 or size % self.page_size):
            raise UsageError(
                f"engine option chunked_prefill_size is {size}; it must be a multiple of page_size "
                f"({self.page_size}), or -1 for no chunking"
            )
        if self.schedule_policy not in get_args(SchedulePolicy):
            raise UsageError(
                f"unknown schedule_policy {self.schedule_policy!r}",
                hint=f"use one of {', '.join(get_args(SchedulePolicy))}",
            )
        self._check_priorities()
        if not 0.0 < self.schedule_conservativeness <= 1e6:
            raise UsageError(
                f"engine option schedule_conservativeness is {self.schedule_conservativeness}; "
                "it must be positive"
            )
        if self.tree not in TREE_KINDS:
            raise UsageError(f"unknown radix cache {self.tree!r}", hint="use unified or radix")
        self._check_eviction()
        if self.enable_mixed_chunk and not self.max_running_requests + self.page_size <= size:
            raise UsageError(
                f"enable_mixed_chunk leaves no room for prefill: chunked_prefill_size is {size}, and "
                f"max_running_requests is {self.max_running_requests}",
                hint="lower max_running_requests or raise chunked_prefill_size",
            )

    def _check_eviction(self) -> None:
        """Policies and parameters with which SGLang does not start (``kv_cache_hook.py``, ``registry.py``).

        Raises:
            UnknownName: no such policy.
            UsageError: these are some.
        """
        name, parameters = self.radix_eviction_policy, self.radix_eviction_policy_config
        eviction_policy(name)
        if name == "tlru" and parameters.threshold <= parameters.next_prompt_estimate:
            raise UsageError(
                f"the eviction policy tlru spares nothing: its threshold is {parameters.threshold} and the "
                f"next prompt is expected to add {parameters.next_prompt_estimate}; SGLang does not start so",
                where="engine.radix_eviction_policy_config.threshold",
                hint="say how many tokens may be computed again in time, or take lru",
            )
        if name == "tlru" and self.tree != "unified":
            raise UsageError(
                "the classic radix cache does not know tlru: it needs the unified one",
                hint="leave the tree at unified",
            )

    @property
    def leaf_key(self) -> EvictionPolicy:
        """Which leaf of the tree goes first."""
        return eviction_policy(self.radix_eviction_policy, self.radix_eviction_policy_config)

    def _check_priorities(self) -> None:
        """Combinations that SGLang refuses when it starts (``validation_hook.py``, ``SchedulePolicy``).

        Raises:
            UsageError: this is one.
        """
        if self.enable_priority_scheduling and self.schedule_policy not in ("fcfs", "lof"):
            raise UsageError(
                f"SGLang does not start with priorities and schedule_policy {self.schedule_policy}",
                where="engine.enable_priority_scheduling", hint="use schedule_policy fcfs or lof",
            )  # fmt: skip
        if self.retraction_policy == "priority" and not self.enable_priority_scheduling:
            raise UsageError(
                "SGLang retracts by priority only where it schedules by priority",
                where="engine.retraction_policy",
                hint="set enable_priority_scheduling, or leave it at length",
            )  # fmt: skip
        if self.schedule_policy == "shortest-prefill-first" and self.disable_radix_cache:
            raise UsageError(
                "SGLang's shortest-prefill-first needs the prefix cache",
                where="engine.schedule_policy", hint="use fcfs, or leave the radix cache on",
            )  # fmt: skip

    @property
    def order(self) -> SchedulePolicy:
        """The policy that decides: one that asks the cache is ``fcfs`` without one."""
        aware = self.schedule_policy in CACHE_AWARE
        return "fcfs" if aware and self.disable_radix_cache else self.schedule_policy

    @property
    def preempts(self) -> bool:
        """Whether requests that run make room for more important ones."""
        return self.enable_priority_scheduling and not self.disable_priority_preemption

    def rank(self, priority: int) -> int:
        """A request's priority, so that the smallest goes first."""
        return priority if self.schedule_low_priority_values_first else -priority

    @property
    def least_free(self) -> int:
        """How many more must be able to run before anybody is let in beside others; 0: no such rule
        (``resolve_min_free_slots``)."""
        least = min(self.min_free_slots_delay or 0, self.max_running_requests)
        return least if least > 1 else 0

    @property
    def chunk_tokens(self) -> int | None:
        """Prompt tokens a step computes at most; None without chunking."""
        return None if self.chunked_prefill_size == -1 else self.chunked_prefill_size

    @property
    def initial_ratio(self) -> float:
        """``new_token_ratio`` of an idle engine."""
        return min(INIT_NEW_TOKEN_RATIO * self.schedule_conservativeness, 1.0)

    @property
    def least_ratio(self) -> float:
        """Where ``new_token_ratio`` stops falling."""
        return min(self.initial_ratio * MIN_NEW_TOKEN_RATIO_FACTOR, 1.0)

    @property
    def ratio_decay(self) -> float:
        """How much it falls with each decode step."""
        return (self.initial_ratio - self.least_ratio) / NEW_TOKEN_RATIO_DECAY_STEPS

    # The words in which results speak of any engine's pool.

    @property
    def block_size(self) -> int:
        """Tokens per page."""
        return self.page_size

    @property
    def usable_blocks(self) -> int:
        """Pages that can hold tokens."""
        return self.pool_tokens // self.page_size

    @property
    def num_blocks(self) -> int:
        """The same: SGLang's padding page is not part of its pool's size."""
        return self.usable_blocks

    @property
    def max_model_len(self) -> int:
        """Prompt and answer together, at most."""
        return self.context_length


OUT_OF_MEMORY = "aborted: its next tokens do not fit, even alone"
"""Why a request is not served to its end that was let in (``retract_decode``)."""


def sglang_rejection(prompt_tokens: int, output_tokens: int, config: SglangConfig) -> str | None:
    """Why this request is not served as it stands, or None if it is.

    A prompt that is too long is turned away by SGLang itself (``validate_input_length``); an answer that is
    too long for the context or the pool would be cut short (``init_req_max_new_tokens``), which here counts
    as a rejection, so that no simulated answer is silently shorter than the trace says.
    """
    if prompt_tokens < 1 or output_tokens < 1:
        return "empty prompt or output"
    page = config.page_size
    longest = min(config.context_length - 1, config.pool_tokens - 1)
    if prompt_tokens >= longest - 5:
        return "prompt longer than the context or the pool"
    padded = -(-prompt_tokens // page) * page
    answer = min(longest - prompt_tokens - 1, config.pool_tokens - padded - page - 1)
    if output_tokens > answer:
        return "answer would be cut short by the context or the pool"
    return None
