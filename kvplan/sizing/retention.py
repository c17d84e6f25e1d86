"""What an engine keeps: how many of the context's tokens survive in each store.

================ =================================================================================
ideal            what the algorithm needs for the next token and no more
transformers     ``DynamicCache``: window - 1 tokens, exact lengths, no blocks
vllm             window - 1 + tokens in flight, in blocks, plus one: a window may start inside a block
sglang           window + tokens in flight, in pages
streaming:S+W    the first S tokens (attention sinks) and the W most recent (StreamingLLM)
h2o:R            a heavy-hitter budget: the fraction R of the context, on every layer that keeps it all;
                 a whole number above 1 is a budget in tokens
snapkv:R         the fraction R of a prompt once it is computed, at least its last 32 tokens; a context is
                 taken to be all prompt
================ =================================================================================

In flight: tokens scheduled but not settled, ``max_num_batched_tokens`` per concurrent batch; blocks that fall
out of a window are freed only when their successors are settled (vLLM 0.33 ``max_in_flight_tokens``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import get_args

from kvplan.errors import UnknownName, UsageError
from kvplan.sizing.attention import Engine
from kvplan.sizing.stores import Store
from kvplan.units import parse_tokens

ENGINES: tuple[Engine, ...] = get_args(Engine)
POLICIES = (*ENGINES, "streaming:S+W", "h2o:R", "snapkv:R")

OBSERVATION_WINDOW = 32
"""Tokens at the end of a prompt by which SnapKV judges the others, and which it always keeps."""


@dataclass(frozen=True, slots=True)
class Retention:
    """A retention policy. ``engine``: whose layouts and state dtypes; the rest bounds the context.

    Attributes:
        sink, recent: first and most recent tokens kept; both 0: no such bound.
        budget: fraction of the context kept.
        least: tokens kept whatever the fraction says.
    """

    name: str
    engine: Engine
    sink: int = 0
    recent: int = 0
    budget: Fraction | None = None
    least: int = 0

    def context_kept(self, tokens: int) -> int:
        """Tokens kept of a layer that would keep the whole context."""
        if self.recent:
            return min(tokens, self.sink + self.recent)
        if self.budget is not None:
            kept = self.budget * tokens
            return max(-(-kept.numerator // kept.denominator), min(tokens, self.least))
        return tokens

    @property
    def growth(self) -> Fraction:
        """Tokens kept per further token of a very long context."""
        if self.recent:
            return Fraction(0)
        return Fraction(1) if self.budget is None else self.budget

    @property
    def pages(self) -> bool:
        """Whether the cache is allocated in blocks."""
        return self.engine != "transformers"

    @property
    def holds_steps(self) -> bool:
        """Whether windows are held open for the tokens of steps that are not settled."""
        return self.engine in ("vllm", "sglang")


def parse_retention(text: str) -> Retention:
    """``vllm``, ``ideal``, ``streaming:4+256``, ``h2o:0.2`` ...

    Raises:
        UnknownName: no such policy; UsageError: a parameter that makes no sense.
    """
    name, _, argument = text.strip().partition(":")
    name = name.casefold()
    if name in ENGINES and not argument:
        return Retention(name, name)
    if name == "streaming":
        match = re.fullmatch(r"(\w+)\+(\w+)", argument)
        if match is None:
            raise UsageError(
                f"{text!r}: streaming needs sink and window", hint="write it like streaming:4+1020"
            )
        sink = 0 if match.group(1) == "0" else parse_tokens(match.group(1))
        recent = parse_tokens(match.group(2))
        return Retention(f"streaming:{sink}+{recent}", "ideal", sink=sink, recent=recent)
    if name in ("h2o", "snapkv"):
        return _budgeted(text, name, argument)
    raise UnknownName("retention policy", text, POLICIES)


def _budgeted(text: str, name: str, argument: str) -> Retention:
    """A fraction of the context; for H2O also a number of tokens, half of them recent."""
    hint = f"write it like {name}:0.2, a fraction of the context between 0 and 1"
    if name == "h2o":
        hint += ", or like h2o:1024, tokens"
    try:
        budget = Fraction(argument)
    except (ValueError, ZeroDivisionError):
        try:
            budget = Fraction(parse_tokens(argument))
        except UsageError:
            raise UsageError(f"{text!r}: {name} needs a budget", hint=hint) from None
    if name == "h2o" and budget > 1 and budget.denominator == 1:
        tokens = budget.numerator
        return Retention(f"h2o:{tokens}", "ideal", sink=tokens // 2, recent=tokens - tokens // 2)
    if not 0 < budget <= 1:
        raise UsageError(f"{text!r}: the budget must be above 0 and at most 1", hint=hint)
    least = OBSERVATION_WINDOW if name == "snapkv" else 0
    return Retention(f"{name}:{argument}", "ideal", budget=budget, least=least)


def kept_tokens(store: Store, tokens: int, retention: Retention, in_flight: int = 0) -> int:
    """How many tokens of ``store`` exist once ``tokens`` tokens were processed (before block rounding).

    Args:
        in_flight: tokens scheduled but not settled; only paged engines hold windows open for them.
    """
    if store.reach == "encoder":
        return store.limit
    if store.reach == "remainder":
        return tokens % store.limit
    kept = retention.context_kept(tokens)
    if store.reach == "context":
        return kept
    held = in_flight if retention.holds_steps else 0
    if store.reach == "chunk" and retention.engine == "vllm":
        return min(kept, store.limit + held)
    if retention.engine == "sglang":
        return min(kept, store.limit + held)
    return min(kept, store.limit - 1 + held)


def blocks(store: Store, tokens: int, retention: Retention, in_flight: int, block_size: int) -> int:
    """Blocks one layer needs of ``store`` for a sequence that may grow to ``tokens`` tokens."""
    if store.reach == "remainder":
        return 1  # a ring that is written over
    size = store.block_tokens(block_size)
    count = -(-kept_tokens(store, tokens, retention, in_flight) // size)
    if store.reach == "window" and retention.engine == "vllm":
        count += 1
    return count
