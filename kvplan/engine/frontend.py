"""What an engine's front end turns away before the scheduler sees it."""

from __future__ import annotations

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.traces.request import Request

TOO_MANY_BLOCKS = "needs more blocks than the pool has"


def rejection(request: Request, config: EngineConfig) -> str | None:
    """Why this request can never be served by this engine, or ``None`` if it can.

    The scheduler itself would wait for ever: a request longer than the model allows, or one that needs
    more blocks than the pool has, would block the head of the queue or preempt itself endlessly.
    """
    if request.prompt_tokens < 1 or request.output_tokens < 1:
        return "empty prompt or output"
    length = request.prompt_tokens + request.output_tokens
    if length > config.max_model_len:
        return "longer than max_model_len"
    if not config.enable_chunked_prefill and length - 1 > config.max_num_batched_tokens:
        return "longer than max_num_batched_tokens without chunked prefill"
    # The last sampled token never gets KV: a request holds at most prompt + output - 1 tokens.
    if blocks_alone(length - 1, config) >= config.num_blocks:
        return TOO_MANY_BLOCKS
    return None


def blocks_alone(tokens: int, config: EngineConfig) -> int:
    """Blocks that a request of so many tokens may hold at once, of all groups, when it runs alone."""
    blocks = 0
    for group in config.groups:
        whole = -(-tokens // group.block_size)
        blocks += whole if group.kind == "full" else _most_blocks(group, whole, config)
    return blocks


def _most_blocks(group: CacheGroup, whole: int, config: EngineConfig) -> int:
    """Blocks of one group that a request of ``whole`` blocks may hold at once when it runs alone."""
    if group.kind == "mamba":
        if not config.enable_prefix_caching:
            return 1
        # The state a step starts from, the one it writes, and one more while another step is in flight.
        return min(whole, 3 if config.async_scheduling else 2)
    cap = group.admission_cap(config.max_in_flight_tokens, config.max_model_len)
    if cap is None:
        return whole
    # A chunk that begins inside a block keeps the whole block.
    return min(whole, cap + (1 if group.window % group.block_size and group.kind == "chunked" else 0))
