"""How SGLang divides its memory: tokens of the full pool, of one for windows, and slots for recurrent state.

Read from ``model_runner.py``, ``pool_configurator.py`` and ``kv_cache_configurator.py`` of 0.5.1 to 0.5.23.
Pools allocate one page beyond their tokens, which requests are not given and the logged sizes hold.
"""

from __future__ import annotations

from fractions import Fraction

from kvplan.sizing.serving import Serving
from kvplan.sizing.sglang.names import Version, named_since
from kvplan.sizing.sglang.page import COMPRESSED, spare_states
from kvplan.specs.schema import CompressedAttention, ModelSpec

WINDOW_RATIO = Fraction(4, 5)
"""Tokens of the sliding-window pool per token of the full pool (``--swa-full-tokens-ratio``)."""
SMALL_WINDOW_RATIO = Fraction(1, 10)
"""The same for DeepSeek-V4 and Inkling."""
STATE_RATIO = Fraction(9, 10)
"""Memory of the state pool per memory of the token pool (``--mamba-full-memory-ratio``)."""

STATES_BY_MEMORY = (0, 5, 4)
"""The state pool takes its share of memory; before, it had 512 slots or as many as requests may run."""
HALF_THE_TOKENS = (0, 5, 10)
"""No more requests run than half the pool's tokens."""
LIMIT_COUNTS = (0, 5, 14)
"""A limit on running requests that is given is bounded by the pool only, no longer by the rule as well."""
PADDED_STATES = (0, 5, 17)
"""The state pool has one slot more than requests are given, which its share pays for."""
DRAFTS_IN_THE_SHARE = (0, 5, 13)
"""The states that verification computes on its way come out of the state pool's share; before, they came out
of the memory of all pools, for as many requests as were asked for."""

FIXED_SLOTS = 512

WINDOW_MODELS = {
    "gptoss": (0, 5, 1), "llama4": (0, 5, 8), "mimov2": (0, 5, 8), "step35": (0, 5, 9), "step3p5": (0, 5, 9),
    "gemma4": (0, 5, 11), "laguna": (0, 5, 12), "step37": (0, 5, 13), "step3p7": (0, 5, 13),
    "mellum": (0, 5, 16), "inkling": (0, 5, 16), "museglimmer": (0, 5, 18), "musespark": (0, 5, 23),
}  # fmt: skip
"""Models whose windows have a pool of their own (``is_hybrid_swa_model``).

Layers of others keep the whole context whatever they attend to; Gemma 2 and 3, Exaone 4 and OLMo 2 by name.
"""


def windows_apart(model: ModelSpec, version: Version) -> bool:
    """Whether layers with windows have a pool of their own, which forgets."""
    return _compressed(model) or named_since(model, WINDOW_MODELS, version)


def window_ratio(model: ModelSpec, version: Version) -> Fraction:
    """Tokens of the pool for windows per token of the full pool."""
    small = version >= COMPRESSED and _compressed(model)
    return (
        SMALL_WINDOW_RATIO if small or named_since(model, {"inkling": (0, 5, 16)}, version) else WINDOW_RATIO
    )


def _compressed(model: ModelSpec) -> bool:
    return any(isinstance(group.block.attention, CompressedAttention) for group in model.groups())


def slots_per_request(model: ModelSpec, serving: Serving, page: int) -> int:
    """State slots that SGLang counts on for a running request: its own, shared prefixes', spare ones."""
    if serving.version < STATES_BY_MEMORY:
        return 1
    return 3 + spare_states(model, serving, page)


def state_slots(serving: Serving, pool_bytes: int, state_bytes: int, per_request: int = 1) -> tuple[int, int]:
    """(slots, bytes that states take) of the pool for recurrent state beside one for tokens.

    Where drafts are verified, requests have a set of states beside: one behind each token of a step.

    Args:
        per_request: slots that SGLang counts on for each (``slots_per_request``).
    """
    tokens = serving.decode_tokens if serving.decode_tokens > 1 else 0
    if serving.version < STATES_BY_MEMORY:
        slots = (serving.max_num_seqs if "max_num_seqs" in serving.given else FIXED_SLOTS) // serving.ranks
        return slots, slots * state_bytes
    taken = 0
    if serving.version < DRAFTS_IN_THE_SHARE:
        taken = serving.rank_seqs * tokens * state_bytes
    share = max(pool_bytes - taken, 0) * STATE_RATIO / (1 + STATE_RATIO)
    padding = 1 if serving.version >= PADDED_STATES else 0
    if not tokens or taken:
        slots = int(share / state_bytes)
        return max(slots - padding, 0), slots * state_bytes + taken
    slots = max(int((share / state_bytes - padding * (1 + tokens)) / (1 + Fraction(tokens, per_request))), 0)
    return slots, states_taken(serving, slots, state_bytes, per_request)


def states_taken(serving: Serving, slots: int, state_bytes: int, per_request: int = 1) -> int:
    """Bytes of a pool of so many states, with those behind each token of a step that verifies drafts."""
    tokens = serving.decode_tokens if serving.decode_tokens > 1 else 0
    padding = 1 if serving.version >= PADDED_STATES else 0
    verified = min(serving.rank_seqs, slots // per_request) + padding
    return (slots + padding + verified * tokens) * state_bytes


def running_requests(version: Version, tokens: int, context: int, *, given: int | None = None) -> int:
    """Requests that run at a time where the full pool has ``tokens`` tokens.

    Args:
        context: the longest request.
        given: the limit that was asked for.
    """
    rule = min(max(int(tokens / context * 512), 2048), 4096)
    if version < HALF_THE_TOKENS:
        return given or rule
    if version < LIMIT_COUNTS:
        return min(rule, given) if given is not None else max(min(rule, tokens // 2), 1)
    return max(min(given or rule, tokens // 2), 1)
