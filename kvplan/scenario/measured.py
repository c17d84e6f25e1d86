"""One request of a serving run, as it was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from kvplan.errors import DataError

MAX_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """One request: seconds from the first arrival, tokens, seconds. ``cached_tokens`` None: not said.

    ``prefill_s``: the part of TTFT that the engine itself counts, from when it first scheduled the request to
    its first token; None: not said. How long it queued before is not in it. ``gaps``: seconds between one
    piece of the answer and the next, each of a token or more; empty: not said.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    e2e_s: float
    cached_tokens: int | None = None
    prefill_s: float | None = None
    gaps: tuple[float, ...] = ()

    def later(self, seconds: float) -> Measured:
        """The same with its first token, and its last, so much later."""
        return replace(self, ttft_s=self.ttft_s + seconds, e2e_s=self.e2e_s + seconds)

    @property
    def before_s(self) -> float | None:
        """What TTFT holds beside ``prefill_s``: the way in and out, and waiting to be scheduled."""
        return None if self.prefill_s is None else self.ttft_s - self.prefill_s

    def unscheduled(self) -> Measured:
        """The same as if it had its first token when it was scheduled, where that is known.

        The last one comes as much earlier, so that the time per token remains.
        """
        return self if self.prefill_s is None else replace(self.later(-self.prefill_s), prefill_s=0.0)

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first."""
        if self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)


_MOST = 1e30
"""Beyond any count, and any moment in nanoseconds; sums of such numbers are finite."""
_MISSING = 0.02
"""Share of the time between an answer's first token and its last that its gaps may leave out."""


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a JSON value is a number that can count or time something, in whichever unit."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_MOST < value < _MOST


def measured_row(values: Mapping[str, float], where: str, gaps: Sequence[float] = ()) -> Measured:
    """A request from its numbers, checked.

    Args:
        values: ``arrival``, ``prompt_tokens``, ``output_tokens``, ``ttft``, ``e2e`` and, where known,
            ``cached_tokens`` and ``prefill``; times in seconds.
        gaps: seconds between one piece of the answer and the next, where known.

    Raises:
        DataError: a number cannot be what it is said to be.
    """
    for name, value in values.items():
        if not math.isfinite(value) or (value < 0 and name != "arrival"):
            raise DataError(f"{name} is {value!r}, not a finite number >= 0", where=where)
    prompt, output = values["prompt_tokens"], values["output_tokens"]
    for name, value in (("prompt_tokens", prompt), ("output_tokens", output)):
        if value != int(value) or not 1 <= value < MAX_TOKENS:
            raise DataError(
                f"{name} is {value:g}, not a whole number from 1 to {MAX_TOKENS - 1:,}", where=where
            )
    if not 0 < values["ttft"] <= values["e2e"] * (1 + 1e-9):
        raise DataError(
            f"ttft {values['ttft']:g} s and end-to-end {values['e2e']:g} s: the first token comes after 0 s "
            "and not after the last",
            where=where, hint="check the units of the columns: _s, _ms",
        )  # fmt: skip
    cached = values.get("cached_tokens")
    if cached is not None and (cached != int(cached) or cached > prompt):
        raise DataError(
            f"cached_tokens is {cached:g}, not a whole number of the prompt's {prompt:g} tokens", where=where
        )
    e2e = max(values["e2e"], values["ttft"])
    return Measured(
        values["arrival"], int(prompt), int(output), values["ttft"], e2e,
        None if cached is None else int(cached), values.get("prefill"), _whole(gaps, e2e - values["ttft"]),
    )  # fmt: skip


def _whole(gaps: Sequence[float], rest_s: float) -> tuple[float, ...]:
    """Gaps if they are what lies between the first token and the last; none otherwise."""
    if abs(math.fsum(gaps) - rest_s) > _MISSING * rest_s or min(gaps, default=0.0) < 0.0:
        return ()
    return tuple(map(float, gaps))
