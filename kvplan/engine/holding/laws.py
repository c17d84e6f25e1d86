"""What is kept of a request's tokens under a method that drops or compresses them.

================== ===============================================================================
``streaming:S+W``  the first S tokens and the W most recent (StreamingLLM, arXiv:2309.17453)
``h2o:R``          the share R of all tokens so far, half heavy hitters, half recent (H2O, arXiv:2306.14048)
``h2o:N``          N tokens of that kind, whatever the length
``snapkv:R``       the whole prompt until its prefill ends, then the share R of it, but at least the
                   observation window at its end (SnapKV, arXiv:2404.14469), and every token after it
``kivi``           every token: quantized in blocks, the most recent of them in full precision beside
                   the blocks (KIVI, arXiv:2402.02750)
================== ===============================================================================

Kept tokens are counted as the sizing floor counts them. Which tokens they are decides accuracy, not memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm
from typing import Protocol

from kvplan.engine.holding.rhythm import Rhythm, counted, paged
from kvplan.errors import UsageError
from kvplan.sizing.retention import OBSERVATION_WINDOW

FINEST_SHARE = 1000
"""Largest denominator of a share: three decimals."""

_RECALL = (
    "what is dropped is gone: whether the model still answers from the middle of a long context, copies from "
    "it or follows instructions given there is not part of this simulation"
)


class Law(Protocol):
    """How many tokens are kept; pure arithmetic."""

    @property
    def name(self) -> str:
        """As a scenario spells it."""
        ...

    @property
    def buffer_blocks(self) -> int:
        """Blocks every running request holds whatever its length."""
        ...

    @property
    def warning(self) -> str:
        """What a simulation of this method cannot answer."""
        ...

    def kept(self, prompt: int, settled: bool, computed: int) -> int:
        """Tokens kept of ``computed``; ``settled``: the prompt has been computed to its end."""
        ...

    def blocks(self, kept: int, size: int) -> int:
        """Blocks of ``size`` tokens that hold them, without the buffer."""
        ...

    def lost(self, prompt: int) -> int:
        """Tokens of a prompt that do not count for the rhythm, as they are dropped when it is computed."""
        ...

    def rhythm(self, size: int) -> Rhythm:
        """What steps add to a decoding request whose blocks have ``size`` tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Capped:
    """At most ``sink + recent`` tokens: StreamingLLM, or H2O with a budget in tokens."""

    name: str
    sink: int
    recent: int
    buffer_blocks: int = 0

    @property
    def cap(self) -> int:
        """Most tokens kept."""
        return self.sink + self.recent

    @property
    def warning(self) -> str:
        """Mid-context recall."""
        return f"{self.name}: at most {self.cap:,} tokens of a request are kept; {_RECALL}"

    def kept(self, prompt: int, settled: bool, computed: int) -> int:
        """All of them until the cap."""
        return min(computed, self.cap)

    def blocks(self, kept: int, size: int) -> int:
        """One for every ``size`` tokens."""
        return -(-kept // size)

    def lost(self, prompt: int) -> int:
        """None."""
        return 0

    def rhythm(self, size: int) -> Rhythm:
        """A token a step until the cap."""
        return paged(size, self.cap)


@dataclass(frozen=True, slots=True)
class Share:
    """The share ``budget`` of all tokens, rounded up: H2O."""

    name: str
    budget: Fraction
    buffer_blocks: int = 0

    def __post_init__(self) -> None:
        _ensure_share(self.name, self.budget)

    @property
    def warning(self) -> str:
        """Mid-context recall."""
        return f"{self.name}: {float(self.budget):.4g} of a request's tokens are kept; {_RECALL}"

    def kept(self, prompt: int, settled: bool, computed: int) -> int:
        """The share, rounded up."""
        return -(-self.budget.numerator * computed // self.budget.denominator)

    def blocks(self, kept: int, size: int) -> int:
        """One for every ``size`` tokens."""
        return -(-kept // size)

    def lost(self, prompt: int) -> int:
        """None."""
        return 0

    def rhythm(self, size: int) -> Rhythm:
        """A token now and then."""
        beat = self.budget.denominator
        period = beat * (size // gcd(self.budget.numerator, size))
        return counted(
            lambda computed: self.kept(0, True, computed), lambda kept: self.blocks(kept, size), period, beat
        )


@dataclass(frozen=True, slots=True)
class PromptShare:
    """The share ``budget`` of the prompt once it is computed, and everything after it: SnapKV."""

    name: str
    budget: Fraction
    window: int = OBSERVATION_WINDOW
    buffer_blocks: int = 0

    def __post_init__(self) -> None:
        _ensure_share(self.name, self.budget)

    @property
    def warning(self) -> str:
        """What the prompt's end does not ask for is lost."""
        return (
            f"{self.name}: {float(self.budget):.4g} of every prompt is kept, chosen by its last "
            f"{self.window} tokens: a later question about another part of it finds nothing; {_RECALL}"
        )

    def kept_prompt(self, prompt: int) -> int:
        """Tokens of the prompt that stay."""
        return _prompt_share(self.budget.numerator, self.budget.denominator, self.window, prompt)

    def kept(self, prompt: int, settled: bool, computed: int) -> int:
        """All of them until the prompt is computed."""
        return computed - prompt + self.kept_prompt(prompt) if settled else computed

    def blocks(self, kept: int, size: int) -> int:
        """One for every ``size`` tokens."""
        return -(-kept // size)

    def lost(self, prompt: int) -> int:
        """What is not kept of it."""
        return prompt - self.kept_prompt(prompt)

    def rhythm(self, size: int) -> Rhythm:
        """A token a step."""
        return paged(size)


@dataclass(frozen=True, slots=True)
class QuantizedWindow:
    """Blocks of quantized tokens, filled ``flush`` tokens at a time, and a full-precision buffer: KIVI.

    The last ``computed % flush`` tokens lie in the buffer, which holds ``flush`` and takes
    ``buffer_blocks`` blocks' worth of memory.
    """

    name: str
    flush: int
    buffer_blocks: int

    @property
    def warning(self) -> str:
        """Nothing is dropped, but it is rounded."""
        return (
            f"{self.name}: keys and values are rounded to a few bits; what that does to answers is not part "
            "of this simulation"
        )

    def kept(self, prompt: int, settled: bool, computed: int) -> int:
        """All of them."""
        return computed

    def blocks(self, kept: int, size: int) -> int:
        """Blocks of the tokens that have left the buffer."""
        return -(-(kept - kept % self.flush) // size)

    def lost(self, prompt: int) -> int:
        """None."""
        return 0

    def rhythm(self, size: int) -> Rhythm:
        """A token a step; blocks when the buffer is flushed."""
        return counted(
            lambda computed: computed, lambda kept: self.blocks(kept, size), lcm(self.flush, size), 1
        )


@lru_cache(maxsize=4096)
def _prompt_share(numerator: int, denominator: int, window: int, prompt: int) -> int:
    """The share of a prompt, but at least the window at its end."""
    return max(-(-numerator * prompt // denominator), min(prompt, window))


def _ensure_share(name: str, share: Fraction) -> None:
    if not 0 < share <= 1:
        raise UsageError(f"{name}: the share must be above 0 and at most 1", where="cache.retention")
    if share.denominator > FINEST_SHARE:
        raise UsageError(
            f"{name}: a share has at most three decimals here",
            where="cache.retention",
            hint=f"use {name.partition(':')[0]}:{round(float(share), 3):g}",
        )
