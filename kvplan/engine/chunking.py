"""Where a prefill chunk must end so that the recurrent state there can be kept."""

from __future__ import annotations

from typing import Protocol

from kvplan.engine.config import EngineConfig


class Progress(Protocol):
    """A request's known tokens, those of its prompt, and where a prefix it shares was found to end."""

    num_tokens: int
    prompt_tokens: int
    shared_prefix_boundary: int


def boundary_aligned(state: Progress, new_tokens: int, start: int, config: EngineConfig) -> int:
    """How many of ``new_tokens`` to compute now, after ``start``; all of them without a cached state group.

    State is written where a chunk ends, and kept only at block boundaries. A chunk therefore ends at one,
    unless it finishes the prefill; the last boundary of the prompt (the last but one where hits lose their
    last block) and the end of a shared prefix are not run past. A block wider than a chunk may be is crossed
    in pieces. 0: not enough room to reach a boundary
    (``_mamba_block_aligned_split``).
    """
    block = config.state_block_size
    prefill_end = max(state.prompt_tokens, state.num_tokens - 1)
    if block is None or start >= prefill_end:
        return new_tokens
    end = start + new_tokens
    if end < prefill_end:
        widest = config.max_num_batched_tokens
        if config.long_prefill_token_threshold:
            widest = min(widest, config.long_prefill_token_threshold)
        aligned = end // block * block
        if aligned > start or block <= widest:
            end = aligned
    dropped = config.drops_blocks
    stops = [max((state.num_tokens - (not dropped)) // block - dropped, 0) * block]
    if start % block:
        stops.append((start // block + 1) * block)
    if start < state.shared_prefix_boundary < end:
        stops.append(start + (state.shared_prefix_boundary - start) // block * block)
    end = min((stop for stop in stops if start < stop < end), default=end)
    return max(end - start, 0)
