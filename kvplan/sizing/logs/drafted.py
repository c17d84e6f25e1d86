"""What a server says of its drafts: how many of them stood."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = r"\d{1,9}(?:\.\d{1,6})?"
_LENGTH = re.compile(rf"[Mm]ean acceptance length: ({_NUMBER})|(?<!block )accept len: ({_NUMBER})")
_RATES = re.compile(rf"Per-position acceptance rate: ({_NUMBER}(?:, {_NUMBER}){{0,63}})(?!%)")
_DRAFTS = re.compile(rf"\bDrafted: ({_NUMBER}) tokens")
_EFFICIENCY = re.compile(rf"System efficiency: ({_NUMBER}), Number of speculative tokens: (\d{{1,4}})")
"""vLLM before V1 says what share of the tokens came that a verification can yield at most."""
_EMITTED = re.compile(r"Number of emitted tokens: (\d{1,9})")
_REQUESTS = re.compile(r"#running-req: (\d{1,9})")

CUES = ("specdecoding metrics", "speculative metrics: ", "accept len: ")


@dataclass(frozen=True, slots=True)
class Drafted:
    """Drafts of a while.

    Attributes:
        length: tokens of a verification on average, the sampled one included.
        rates: how often the first, the second, ... draft stood; none where nobody says.
        weight: verifications, or what goes with them.
    """

    length: float
    rates: tuple[float, ...]
    weight: float


def drafted(text: str) -> Drafted | None:
    """What a line of vLLM's metrics of drafts, or of SGLang's decode batches, says; ``None`` if nothing."""
    listed = _RATES.search(text)
    rates = () if listed is None else tuple(float(rate) for rate in listed[1].split(", "))
    said = _LENGTH.search(text)
    if said is not None:
        length = float(said[1] or said[2])
    elif rates:
        length = 1.0 + sum(rates)
    elif (share := _EFFICIENCY.search(text)) is not None:
        length = float(share[1]) * (int(share[2]) + 1)
    else:
        return None
    if length < 1 or any(rate > 1 for rate in rates):
        return None
    tokens, requests = _DRAFTS.search(text), _REQUESTS.search(text)
    emitted = _EMITTED.search(text)
    weight = 1.0
    if tokens is not None:
        weight = float(tokens[1]) / max(1, len(rates))
    elif emitted is not None:
        weight = int(emitted[1]) / length
    elif requests is not None:
        weight = float(requests[1])
    return Drafted(length, rates, weight)


def together(found: Sequence[Drafted]) -> Drafted | None:
    """All reports as one, each by its weight; ``None`` without any that has some."""
    whole = sum(item.weight for item in found)
    if not whole:
        return None
    length = sum(item.weight * item.length for item in found) / whole
    drafts = {len(item.rates) for item in found if item.weight}
    rates: tuple[float, ...] = ()
    if len(drafts) == 1:
        rates = tuple(
            sum(item.weight * item.rates[place] for item in found if item.weight) / whole
            for place in range(drafts.pop())
        )
    return Drafted(length, rates, whole)


def sentence(found: Drafted) -> str:
    """In words, and as a scenario has it."""
    said = f"a verification yielded {found.length:.2f} tokens on average"
    if not found.rates:
        return f"{said} (speculative.acceptance_length of a scenario)"
    rates = ", ".join(f"{rate:.3f}" for rate in found.rates)
    return f"{said}; its drafts stood at rates of {rates} (speculative.acceptance: [{rates}] of a scenario)"
