"""Where tokens go in a layer of routed experts: how many experts a batch touches, and how uneven ranks are.

::

    touched(T)  = n * (1 - (1 + T * (q^-(s^2) - 1))^(-1 / s^2)),  q = 1 - k / E
                                                             of n experts held, k of E chosen per token
    heaviest(T) = T * k / R + c * sqrt(T * v + (T * k / R * s)^2 * (R - 1) / E)
    most(T)     = least(touched + c * sqrt(touched * (1 - touched / n)), heaviest, n)
    v           = k * (1 / R) * (1 - 1 / R) * (E - k) / (E - 1)
    c           = E[largest of R standard normals] * sqrt(R / (R - 1))

R ranks hold E / R whole experts each; all of them wait for the one with the most assignments. ``v`` is the
variance of one token's assignments to a rank when any k experts are equally likely (hypergeometric); ``s`` is
how much popularity differs from expert to expert (its coefficient of variation over a layer), which does not
average out over tokens. ``touched`` is the mean of ``1 - (1 - p)^T`` over experts whose popularity is gamma
distributed with that coefficient; one token touches k of E whatever it is, and with ``s = 0`` it is
``1 - q^T``. ``most``: of the rank that touches the most, whose weights the others wait for; experts are
touched or not much as if each were for itself. On one rank, experts share all multiprocessors and only the
sum of their work counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, TypeVar

from kvplan.errors import SpecError
from kvplan.latency.assumption import Assumption

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Amount = TypeVar("Amount", float, npt.NDArray[np.float64])

SKEW = 0.5
"""How much the popularity of experts differs within a layer (assumed: 0.25 to 1 for routers trained to
balance their load)."""
EVEN = 1e-6
"""Squared skew below which all experts are equally popular."""
MOST_GROWTH = 500.0
"""Keeps the exponential of an absurd skew a number."""
SKEW_KEY, EXCHANGE_KEY = "routing_skew", "expert_exchange"
SUMMED, GATHERED = "all_reduce", "all_gather"
HIGH_THROUGHPUT, LOW_LATENCY = "deepep_high_throughput", "deepep_low_latency"
EXCHANGES = (SUMMED, GATHERED, HIGH_THROUGHPUT, LOW_LATENCY)
"""How tokens reach experts on other ranks:

* ``all_reduce``: every rank has all tokens and results are summed, inside a tensor-parallel group;
* ``all_gather``: all tokens are gathered on all ranks, and results summed and scattered: what vLLM
  (``allgather_reducescatter``) and SGLang (``--moe-a2a-backend none``) do with data-parallel attention;
* DeepEP's kernels send each token to the ranks of its experts: once to each rank (high throughput, for which
  both engines turn CUDA graphs off), or once for each expert without waiting for counts (low latency).
"""


@dataclass(frozen=True, slots=True)
class Routing:
    """``routed`` of ``total`` experts per token, dealt to ``ranks``; ``skew`` as in the module."""

    total: int
    routed: int
    ranks: int = 1
    skew: float = SKEW

    @property
    def held(self) -> int:
        """Experts on the rank that holds the most."""
        return -(-self.total // self.ranks)

    def touched(self, tokens: Amount) -> Amount:
        """Expected number of distinct experts of one rank that a batch touches."""
        alone, spread = 1.0 - self.routed / self.total, self.skew * self.skew
        if alone == 0.0:
            return self.held + 0.0 * tokens
        # For very even routers the general form would lose its digits; its limit is this.
        if spread < EVEN:
            missed: Amount = alone**tokens
        else:
            growth = math.expm1(min(-spread * math.log(alone), MOST_GROWTH))
            missed = (1.0 + tokens * growth) ** (-1.0 / spread)
        return self.held * (1.0 - missed)

    def most_touched(self, tokens: Amount) -> Amount:
        """Expected number of distinct experts that a batch touches of the rank where it touches the most."""
        touched = self.touched(tokens)
        if self.ranks == 1:
            return touched
        spread: Amount = (touched * (1.0 - touched / self.held)) ** 0.5
        return _least(_least(touched + _largest(self.ranks) * spread, self.heaviest(tokens)), self.held)

    def mean(self, tokens: Amount) -> Amount:
        """Assignments of a rank if all were alike."""
        return tokens * (self.routed * self.held / self.total)

    def heaviest(self, tokens: Amount) -> Amount:
        """Expected assignments of the rank that has the most."""
        if self.ranks == 1:
            return tokens * float(self.routed)
        drawn = tokens * self._variance()
        lasting = self.mean(tokens) * self.skew * math.sqrt((self.ranks - 1) / self.total)
        deviation: Amount = (drawn + lasting * lasting) ** 0.5
        return self.mean(tokens) + _largest(self.ranks) * deviation

    def imbalance(self, tokens: Amount) -> Amount:
        """Assignments of the heaviest rank over those of the mean, at least 1."""
        return self.heaviest(tokens) / self.mean(tokens)

    def ranks_per_token(self) -> float:
        """Expected number of distinct ranks that one token's experts lie on."""
        if self.ranks == 1:
            return 1.0
        others = self.total - self.held
        if others < self.routed:
            return float(self.ranks)
        # A rank is missed when all experts of the token are drawn from the others'.
        missed = math.prod((others - i) / (self.total - i) for i in range(self.routed))
        return self.ranks * (1.0 - missed)

    def copies(self, exchange: str, tokens: Amount) -> Amount:
        """Rows of the hidden size that the heaviest rank exchanges in one direction, of all ranks' tokens."""
        if exchange == GATHERED:
            return tokens
        return self.heaviest(tokens) if exchange == LOW_LATENCY else self.sent(tokens)

    def sent(self, tokens: Amount) -> Amount:
        """Tokens (rows of the hidden size) that the heaviest rank exchanges in one direction.

        Every rank starts with its share of the tokens; a token travels once to each rank that has experts of
        its choice.
        """
        balanced = self.ranks_per_token() / self.ranks  # of each token
        return self.heaviest(tokens) * (balanced * self.total / (self.routed * self.held))

    def _variance(self) -> float:
        if self.total == 1:
            return 0.0
        share = 1.0 / self.ranks
        return self.routed * share * (1.0 - share) * (self.total - self.routed) / (self.total - 1)


def _least(first: Amount, second: Amount | float) -> Amount:
    """The smaller of each pair."""
    smaller: Amount = 0.5 * (first + second - abs(first - second))
    return smaller


def _largest(ranks: int) -> float:
    """Expected largest of ``ranks`` normals that sum to zero, in deviations of one (Blom's approximation)."""
    blom = NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))
    return blom * math.sqrt(ranks / (ranks - 1))


def sends_to_experts(backend: str) -> bool:
    """Whether a dispatch kernel of tables sends a token once for each expert, and not for each rank."""
    return backend.lower().endswith(("_ll", "_low_latency", "_generation"))


def routing_options(parameters: Mapping[str, Any]) -> tuple[float, str | None]:
    """(skew, how tokens reach experts if the scenario says so) of a ``latency`` section.

    Raises:
        SpecError: no number from 0 to 10; no such way to exchange.
    """
    skew, exchange = parameters.get(SKEW_KEY, SKEW), parameters.get(EXCHANGE_KEY)
    if isinstance(skew, bool) or not isinstance(skew, (int, float)) or not 0 <= skew <= 10:
        raise SpecError(
            f"{SKEW_KEY} must be a number from 0 to 10, not {skew!r}", where=f"latency.{SKEW_KEY}",
            hint="0: all experts are equally popular; 0.5 is assumed",
        )  # fmt: skip
    if exchange is not None and exchange not in EXCHANGES:
        raise SpecError(
            f"{EXCHANGE_KEY} must be one of {', '.join(EXCHANGES)}, not {exchange!r}",
            where=f"latency.{EXCHANGE_KEY}",
        )
    return float(skew), exchange


_HOW = {
    SUMMED: "tokens are on every rank, results summed by all-reduce",
    GATHERED: "tokens are gathered on every rank, results summed and scattered",
    HIGH_THROUGHPUT: "tokens are sent to the ranks of their experts and back, without CUDA graphs",
    LOW_LATENCY: "tokens are sent to their experts and back",
}


def routing_assumptions(
    routings: tuple[Routing, ...], parameters: Mapping[str, Any], exchange: str
) -> tuple[Assumption, ...]:
    """How routing was assumed to be, and what was said of it in vain.

    Args:
        exchange: how tokens reach experts on other ranks.
    """
    said, why = parameters.get(EXCHANGE_KEY), None
    if not routings:
        why = "the model has no routed experts"
    elif routings[0].ranks == 1:
        why = "experts are not dealt to ranks"
    elif said != exchange:
        why = "vLLM sums inside a tensor-parallel group, and sends tokens with data-parallel attention alone"
    vain = (
        ()
        if said is None or why is None
        else (Assumption(f"latency.{EXCHANGE_KEY}", said, f"given in the scenario, without effect: {why}"),)
    )
    if not routings:
        return vain
    first = routings[0]
    given = "given in the scenario" if SKEW_KEY in parameters else "assumed, 0.25 to 1"
    if first.ranks == 1:
        return (
            Assumption(
                f"latency.{SKEW_KEY}", first.skew,
                f"spread of the experts' popularity, {given}: 32 tokens touch {first.touched(32.0):.0f} of "
                f"{first.total}",
            ),
            *vain,
        )  # fmt: skip
    chosen = "given in the scenario" if said == exchange else "the engines' default"
    return (
        Assumption(
            f"latency.{SKEW_KEY}", first.skew,
            f"spread of the experts' popularity, {given}: with 1,024 tokens the heaviest of {first.ranks} "
            f"ranks has {first.imbalance(1024.0):.2f} times the mean",
        ),
        *(vain or (Assumption(f"latency.{EXCHANGE_KEY}", exchange, f"{_HOW[exchange]}; {chosen}"),)),
    )  # fmt: skip
