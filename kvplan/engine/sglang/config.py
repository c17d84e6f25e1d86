"""What an SGLang engine was started with: the options that decide scheduling, under its own names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from kvplan.engine.sglang.eviction import EVICTION
from kvplan.engine.sglang.radix_tree import TREE_KINDS, TreeKind
from kvplan.errors import UsageError

SchedulePolicy: TypeAlias = Literal["fcfs", "lpm"]

INIT_NEW_TOKEN_RATIO = 0.7
MIN_NEW_TOKEN_RATIO_FACTOR = 0.14
NEW_TOKEN_RATIO_DECAY_STEPS = 600
RETRACT_DECODE_STEPS = 20
"""Defaults of the environment variables ``SGLANG_INIT_NEW_TOKEN_RATIO`` and so on."""

LPM_QUEUE_LIMIT = 128
"""With more waiting requests than this, ``lpm`` keeps the queue as it is; as many prefixes are refreshed."""

WAITING_REFRESH_PASSES = 32
"""Where the order does not look at the cache, and that evicts by ``lru``: every so many times the queue is
looked at, the cached prefixes of its first requests become recently used, the head's last."""

IN_BATCH_PREFIX_TOKENS = 32
"""``lpm`` looks for a prefix shared within the queue where the cache has at most this many tokens of a
request, and puts a request back that shares at least as many with one before it."""


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
    disable_radix_cache: bool = False
    enable_mixed_chunk: bool = False
    disable_overlap_schedule: bool = False
    prefill_decode_interval: int = 0
    prefill_decode_interval_min_bs: int = 0
    prefill_max_requests: int | None = None
    clip_max_new_tokens: int = 4096
    tree: TreeKind = "unified"

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
        if self.prefill_max_requests is not None and self.prefill_max_requests < 1:
            raise UsageError(
                f"engine option prefill_max_requests is {self.prefill_max_requests}; it must be at least 1",
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
        if self.schedule_policy not in ("fcfs", "lpm"):
            raise UsageError(f"unknown schedule_policy {self.schedule_policy!r}", hint="use fcfs or lpm")
        if not 0.0 < self.schedule_conservativeness <= 1e6:
            raise UsageError(
                f"engine option schedule_conservativeness is {self.schedule_conservativeness}; "
                "it must be positive"
            )
        if self.tree not in TREE_KINDS:
            raise UsageError(f"unknown radix cache {self.tree!r}", hint="use unified or radix")
        EVICTION.get(self.radix_eviction_policy)
        if self.enable_mixed_chunk and not self.max_running_requests + self.page_size <= size:
            raise UsageError(
                f"enable_mixed_chunk leaves no room for prefill: chunked_prefill_size is {size}, and "
                f"max_running_requests is {self.max_running_requests}",
                hint="lower max_running_requests or raise chunked_prefill_size",
            )

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
