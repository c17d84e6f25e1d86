"""What an engine's front end turns away before the scheduler sees it."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.traces.request import Request


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
    blocks = 0
    for group in config.groups:
        whole = -(-(length - 1) // group.block_size)
        if group.kind == "sliding":
            reach = group.window - 1 + config.max_in_flight_tokens
            whole = min(whole, -(-min(reach, config.max_model_len) // group.block_size) + 1)
        blocks += 1 if group.kind == "mamba" else whole
    if blocks > config.usable_blocks:
        return "needs more blocks than the pool has"
    return None
