"""Looped models: layers that run several times with the same weights, each pass with a cache of its own.

The stack is brought to one block per *pass* of a layer, bottom to top; ``Block.passes`` says over how many of
them the weights of one layer are spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvplan.specs.attention import FullAttention, SlidingAttention
from kvplan.specs.huggingface.config import Config
from kvplan.specs.model import MAX_LAYERS, Block

COUNTERS = ("total_ut_steps", "loop_num", "n_recurrent_loops", "num_loops")
"""How often a stack, or what is between its first and last layers, runs (Ouro, LoopCoder, Dory, Nanbeige)."""


def unrolled(config: Config, stack: Sequence[Block]) -> list[Block]:
    """The stack with every pass of every layer.

    Raises:
        SpecError: more passes than any model has, or parts that are not all of the stack.
    """
    passes = list(_cycles(config, stack)) if config.model_type == "hrm_text" else _looped(config, stack)
    return passes or list(stack)


def loops_words(layers: int, passes: int) -> list[str]:
    """What an unrolled stack has to say."""
    if passes == layers:
        return []
    return [
        f"{layers} layers make {passes} passes: every pass keeps a cache of its own, weights are counted once"
    ]


def _looped(config: Config, stack: Sequence[Block]) -> list[Block]:
    loops = next((found for key in COUNTERS if (found := config.optional(key)) is not None), 1)
    first, last = (config.integer(key, 0, least=0) for key in ("n_input_layers", "n_output_layers"))
    inner = config.integer("n_recurrent_layers", len(stack) - first - last, least=0)
    window = config.optional("loop_window_size")
    if loops == 1 or config.get("recurrent_kv_cache_mode") == "last_loop":
        return []  # each loop overwrites the cache of the one before
    _check_passes(config, len(stack) * loops)
    if inner < 1 or first + inner > len(stack):
        raise config.error(f"{first} + {inner} layers are not within {len(stack)}", "n_recurrent_layers")
    looped = [_pass(block, loops) for block in stack[first : first + inner]]
    # LoopCoder's later passes attend to the first one's cache, and to a window of their own.
    again = looped if window is None else [_windowed(block, window) for block in looped]
    return [*stack[:first], *looped, *(again * (loops - 1)), *stack[first + inner :]]


def _cycles(config: Config, stack: Sequence[Block]) -> Iterator[Block]:
    """HRM: the low stack runs ``L_cycles`` times before each of the ``H_cycles`` runs of the high one."""
    high, low = config.count("H_cycles"), config.count("L_cycles")
    half = len(stack) // 2
    _check_passes(config, half * high * (low + 1))
    for _ in range(high):
        yield from [_pass(block, high * low) for block in stack[:half]] * low
        yield from [_pass(block, high) for block in stack[half:]]


def _check_passes(config: Config, passes: int) -> None:
    if passes > MAX_LAYERS:
        raise config.error(f"{passes:,} passes over layers are more than any model has", "num_hidden_layers")


def _pass(block: Block, passes: int) -> Block:
    return block.model_copy(update={"passes": passes})


def _windowed(block: Block, window: int) -> Block:
    if not isinstance(block.attention, FullAttention):
        return block
    fields = block.attention.model_dump(exclude={"kind", "indexer"})
    sliding = SlidingAttention.model_construct(window=window, **fields)
    return block.model_copy(update={"attention": sliding})
