"""What a decode server was started with beside the options of any SGLang engine."""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.engine.sglang.config import SglangConfig
from kvplan.errors import UsageError

RESERVED_DECODE_TOKENS = 512
"""Default of ``--num-reserved-decode-tokens``."""

SMALL_BATCH = 32
"""Up to so many running requests a decode server has extra slots by default."""

METADATA_BUFFERS = 2
"""Buffers for what goes along with a cache, a request that may run (``init_disaggregation``)."""


def default_extra_slots(max_running_requests: int | None) -> int:
    """``disaggregation_decode_extra_slots`` where it is not given: twice the batch where that was given and
    is small, else none."""
    small = max_running_requests is not None and max_running_requests <= SMALL_BATCH
    return 2 * max_running_requests if max_running_requests is not None and small else 0


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Options of a decode server, under its own names.

    Args:
        num_reserved_decode_tokens: kept free for every request that runs or will.
        extra_slots: requests that may have room beside those that may run
            (``disaggregation_decode_extra_slots``).
        enable_radix_cache: whether it keeps prefixes, which are not sent to it again
            (``disaggregation_decode_enable_radix_cache``).
    """

    num_reserved_decode_tokens: int = RESERVED_DECODE_TOKENS
    extra_slots: int = 0
    enable_radix_cache: bool = False

    def __post_init__(self) -> None:
        for name in ("num_reserved_decode_tokens", "extra_slots"):
            if getattr(self, name) < 0:
                raise UsageError(f"decode option {name} is {getattr(self, name)}; it must not be negative")

    def never_fits(self, prompt_tokens: int, output_tokens: int, config: SglangConfig) -> bool:
        """Whether not even an empty pool has what is asked for before a prompt's KV is reserved."""
        page = config.page_size
        reserve = -(-prompt_tokens // page) * page + self.num_reserved_decode_tokens
        answer = prompt_tokens + min(output_tokens, config.clip_max_new_tokens)
        return max(reserve, answer) > config.pool_tokens
