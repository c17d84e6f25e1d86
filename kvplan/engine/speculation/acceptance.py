"""How many drafts of a step are accepted."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

from kvplan.errors import UsageError

_GOLDEN, _BITS = 0x9E3779B97F4A7C15, (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Chances, independent from step to step, that a draft and all before it are accepted.

    The outcome of a request's n-th verification follows from the seed, its id and n alone: two runs with
    other schedules see the same.

    Attributes:
        rates: of the first, second, ... draft of a step, never rising: vLLM's per-position acceptance rates.
        seed: of the draws.
    """

    rates: tuple[float, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rates:
            raise UsageError("no drafts to accept", hint="give a rate for each draft of a step")
        if any(not 0.0 <= rate <= 1.0 for rate in self.rates):
            raise UsageError(f"acceptance rates {self.rates} are not all within 0 and 1")
        if any(first < later for first, later in pairwise(self.rates)):
            raise UsageError(
                f"acceptance rates {self.rates} rise",
                hint="a draft is accepted only where all before it are: give the rates of positions, as vLLM "
                "logs them",
            )

    @property
    def mean_length(self) -> float:
        """Tokens that a step of whole drafts yields on average, the sampled one included."""
        return 1.0 + sum(self.rates)

    def key(self, name: str) -> int:
        """What ``accepted`` knows a request by."""
        salt = self.seed.to_bytes(16, "little")
        return int.from_bytes(blake2b(name.encode(), digest_size=8, key=salt).digest(), "little")

    def accepted(self, key: int, verification: int, drafts: int) -> int:
        """Of ``drafts`` in a request's n-th verification, those that stand."""
        # splitmix64: 53 good bits of a counter.
        state = (key + (verification + 1) * _GOLDEN) & _BITS
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & _BITS
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) & _BITS
        draw = ((state ^ state >> 31) >> 11) * 2.0**-53
        rates = self.rates
        count = 0
        while count < drafts and draw < rates[count]:
            count += 1
        return count


def geometric(chance: float, drafts: int, seed: int) -> Acceptance:
    """Every draft stands with the same chance, given those before it."""
    return Acceptance(tuple(chance ** (position + 1) for position in range(drafts)), seed)


def of_mean_length(length: float, drafts: int, seed: int) -> Acceptance:
    """The ``geometric`` acceptance whose steps yield ``length`` tokens on average.

    Raises:
        UsageError: no chance does.
    """
    if not 1.0 <= length <= drafts + 1:
        raise UsageError(
            f"a mean acceptance length of {length:g} is not within 1 and {drafts + 1}, what {drafts} drafts "
            "and the sampled token can yield"
        )
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if geometric(middle, drafts, seed).mean_length < length:
            low = middle
        else:
            high = middle
    return geometric(high, drafts, seed)
