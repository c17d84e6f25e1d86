"""Steps of an engine that clients saw by themselves: gaps between tokens of which the log says what was done.

Percentiles of what requests saw mix steps that only decode with those that also compute prompts, and with the
way in and out; which of them a constant moved is then guessed. Where a log says when every token came, many
gaps are one step each:

* of decoding alone, while every request that had come had its first token, too; its requests and cached
  tokens follow from the log;
* of one prompt beside that, where another request's first token came with the one that ended the gap, and
  nobody else waited (an engine that computes prompts by themselves took a step for each).

Their time is the clock's alone, so that they are compared without a simulation.

Gaps are one a step only where tokens came one by one. Streams that send several at a time
(``--stream-interval``) have as many fewer gaps than tokens, of as many steps each; drafts and front ends that
merge tokens have fewer, too, but not always as many: their gaps are left alone, and that is said. So are
those of tokens that clients read several at a time, of which all but the first have no gap: something on the
way collected them.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from typing import TYPE_CHECKING, NamedTuple

from kvplan.engine.protocols import StepBatch
from kvplan.scenario.measured import Measured

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from kvplan.engine.protocols import LatencyModel

    Array = npt.NDArray[np.float64]

SINGLE = 0.97
"""Share of the tokens after the first that have a gap of their own, from which gaps are steps."""
BINS, LEAST = 8, 40
"""Bins by requests, each parted in two by cached tokens, and gaps that a part has at least."""
TRIMMED = 0.1
"""Share of a part's gaps that is left out at either end: stalls, and tokens that a client read together."""
SHORT, SHORTEST = 0.2, 0.02
"""Of the mean gap of decoding alone, and of the usual time per token, below which a gap is no step."""
PROMPT_BINS, FEWEST = 4, 8
"""Bins of steps with a prompt by its tokens, and steps that one has at least."""
WITNESSES, LOOKED_AT = 6, 256
"""Requests that decoded, by which a step with another's first token is told, and those that are asked."""
TOGETHER = 0.2
"""Share of a gap within which a first token comes with the one that ends it."""
AGREED, ONE_CLOCK = 0.5, 0.7
"""Share of the witnesses of a step that one has more than, and of first tokens that have so many, from which
the clocks of all clients are one."""
LATE = 3
"""Gaps before it than which a step with a prompt is not shorter."""
EVEN = 0.9
"""Share of the answers with as many gaps as groups of one size leave, from which tokens came in groups."""
LONGEST_GROUP = 64
SEVERAL = 1.15
"""Tokens at a time, not always as many, from which that is worth a word: counts hold what no client saw."""


@dataclass(frozen=True, slots=True)
class SeenStep:
    """Something that took an engine so many seconds: one step, or several one after the other."""

    seconds: float
    steps: tuple[StepBatch, ...]

    def off(self, clock: LatencyModel) -> float:
        """Logarithm of what ``clock`` says it takes over what it took."""
        return math.log(math.fsum(map(clock.step_seconds, self.steps)) / self.seconds)


@dataclass(frozen=True, slots=True)
class AlikeSteps:
    """Steps that are alike, one at least: compared by their median."""

    steps: tuple[SeenStep, ...]

    @property
    def prompts(self) -> bool:
        """Whether prompts are computed in them."""
        return any(step.prefill_chunks for step in self.steps[0].steps)

    def off(self, clock: LatencyModel) -> float:
        """The middle logarithm of what ``clock`` says they take over what they took."""
        return statistics.median(step.off(clock) for step in self.steps)


def decoding(requests: int, tokens: int, prompts: Sequence[tuple[int, int]] = ()) -> StepBatch:
    """A step of so many requests that decode, with so many cached tokens together, and of whole prompts."""
    scheduled = requests + sum(now for _, now in prompts)
    return StepBatch(scheduled, tokens, requests, tokens, list(prompts), requests + len(prompts))


def tokens_a_gap(rows: Sequence[Measured]) -> float | None:
    """How many tokens came at a time after the first; None where the log does not say when tokens came."""
    told = [row for row in rows if row.output_tokens > 1 and row.gaps]
    if len(told) < SINGLE * sum(row.output_tokens > 1 for row in rows) or not told:
        return None
    return sum(row.output_tokens - 1 for row in told) / sum(len(row.gaps) for row in told)


def group_size(rows: Sequence[Measured]) -> int | None:
    """How many tokens came at a time after the first; None where not always as many, or nobody says."""
    size = tokens_a_gap(rows)
    if size is None or size * SINGLE <= 1.0:
        return None if size is None else 1
    answers = [(row.output_tokens - 1, len(row.gaps)) for row in rows if row.gaps]
    for each in range(2, LONGEST_GROUP + 1):
        if sum(abs(gaps - tokens / each) <= 1.0 for tokens, gaps in answers) >= EVEN * len(answers):
            return each
    return None


def grouping(rows: Sequence[Measured]) -> str | None:
    """What to say of tokens that came several at a time; None where they did not, or nobody knows."""
    size, each = tokens_a_gap(rows), group_size(rows)
    if size is None or each == 1 or (each is None and size < SEVERAL):
        return None
    if each is not None:
        return f"tokens came {each} at a time, as with --stream-interval {each}"
    return (
        f"tokens came {size:.2g} at a time, not always as many: a server with drafts (speculative decoding) "
        "does so, and a front end that is behind. With drafts this fit holds at loads like this one alone, "
        "unless the scenario has them (speculation)"
    )


def seen_steps(rows: Sequence[Measured], most: int, *, mixes: bool, since_s: float = 0.0) -> list[AlikeSteps]:
    """Those of a run by arrival: of few requests and many, short contexts and long, short prompts and long.

    Args:
        most: tokens that a step computes at most; a longer prompt takes several.
        mixes: whether a step computes prompts and decodes; else each has steps of its own.
        since_s: when the first of them begins.
    """
    size = group_size(rows)
    if size is None:
        return []
    moments = _Moments(rows)
    alone = _alone(rows, moments)
    if alone.together > TRIMMED:
        return []
    prompts = _prompt_steps(rows, moments, most, since_s, mixes=mixes) if size == 1 else []
    return [*_decode_steps(alone, moments, since_s, size), *prompts]


def read_together(rows: Sequence[Measured]) -> str | None:
    """What to say of tokens that were read together, so that gaps are no steps; None where they were not."""
    if group_size(rows) is None or (share := _alone(rows, _Moments(rows)).together) <= TRIMMED:
        return None
    return (
        f"{share:.0%} of the tokens came together with the one before: something between engine and client "
        "(a proxy, a buffer, a coarse clock) collected them, so that gaps are not compared as steps"
    )


class _Moments:
    """When requests came, and had their first and last tokens; who decodes then follows."""

    def __init__(self, rows: Sequence[Measured]) -> None:
        import numpy as np

        self.arrivals = np.array([row.arrival_s for row in rows])
        self.firsts = self.arrivals + np.array([row.ttft_s for row in rows])
        self.ends = self.arrivals + np.array([row.e2e_s for row in rows])
        rates = np.array([(row.output_tokens - 1) / max(row.e2e_s - row.ttft_s, 1e-9) for row in rows])
        constant = np.array([row.prompt_tokens + 1.0 for row in rows]) - self.firsts * rates
        orders = [np.argsort(each) for each in (self.firsts, self.ends)]
        self._come = np.sort(self.arrivals)
        self._begun, self._ended = self.firsts[orders[0]], self.ends[orders[1]]
        self._sums = [
            [np.concatenate([[0.0], np.cumsum(values[order])]) for values in (constant, rates)]
            for order in orders
        ]

    def waiting(self, begins: Array, ends: Array) -> Array:
        """Requests that came before the end of each span, and had no token at its beginning."""
        import numpy as np

        return np.asarray(
            np.searchsorted(self._come, ends, side="right")
            - np.searchsorted(self._begun, begins, side="right")
        )

    def decoding(self, when: Array) -> tuple[Array, Array]:
        """Requests that decode, and their tokens in the cache all together."""
        import numpy as np

        began = np.searchsorted(self._begun, when, side="right")
        ended = np.searchsorted(self._ended, when, side="right")
        still, growing = (self._sums[0][part][began] - self._sums[1][part][ended] for part in (0, 1))
        return np.asarray(began - ended), np.asarray(still + growing * when)


class _Alone(NamedTuple):
    """Gaps of decoding alone: their seconds, when they began, and the share of them that is no step."""

    gaps: Array
    begins: Array
    together: float


def _alone(rows: Sequence[Measured], moments: _Moments) -> _Alone:
    import numpy as np

    gaps, begins = _gaps(rows)
    requests, _ = moments.decoding(begins)
    alone = (moments.waiting(begins, begins + gaps) == 0) & (requests > 0)
    gaps, begins = gaps[alone], begins[alone]
    if not len(gaps):
        return _Alone(gaps, begins, 0.0)
    usual = statistics.median((row.e2e_s - row.ttft_s) / len(row.gaps) for row in rows if row.gaps)
    together = gaps < max(SHORT * float(gaps.mean()), SHORTEST * usual)
    return _Alone(gaps, begins, float(np.mean(together)))


def _decode_steps(alone: _Alone, moments: _Moments, since_s: float, each: int) -> list[AlikeSteps]:
    """Each of many gaps of ``each`` steps, which is why their mean is taken."""
    import numpy as np

    kept = (alone.gaps > 0.0) & (alone.begins >= since_s)
    gaps = alone.gaps[kept]
    requests, tokens = moments.decoding(alone.begins[kept])
    found = []
    for part in _parts(requests, tokens):
        if len(part) >= LEAST:
            ordered = np.sort(gaps[part])
            edge = int(TRIMMED * len(ordered))
            mean_s = float(ordered[edge : len(ordered) - edge].mean())
            many, cached = (max(round(float(of[part].mean())), 1) for of in (requests, tokens))
            found.append(AlikeSteps((SeenStep(mean_s / each, (decoding(many, cached),)),)))
    return found


def _prompt_steps(
    rows: Sequence[Measured], moments: _Moments, most: int, since_s: float, *, mixes: bool
) -> list[AlikeSteps]:
    """One for each first token that came with others' tokens while nobody else waited."""
    import numpy as np

    found, agreed = [], []
    tokens_at = [list(accumulate(row.gaps, initial=row.arrival_s + row.ttft_s)) for row in rows]
    by_first = sorted(range(len(rows)), key=lambda index: tokens_at[index][0])
    for place, index in enumerate(by_first):
        row, first = rows[index], tokens_at[index][0]
        others = reversed(by_first[max(place - LOOKED_AT, 0) : place])
        witnessed = (_around(tokens_at[other], first, ends=mixes) for other in others)
        seen = list(islice((gap for gap in witnessed if gap is not None), WITNESSES))
        together = [gap for gap in seen if gap.together]
        if seen:
            agreed.append(len(together) > AGREED * len(seen))
        # A first token that came later than the others of its step looks like that of one of the next ones.
        if not seen or not agreed[-1] or any(gap.shorter for gap in together):
            continue
        gap_s = statistics.median(gap.seconds for gap in together)
        began = statistics.median(gap.end_s for gap in together) - gap_s
        cached = min(row.cached_tokens or 0, row.prompt_tokens - 1)
        prompt = (cached, row.prompt_tokens - cached)
        at = np.array([began])
        requests, tokens = (max(round(float(each[0])), 0) for each in moments.decoding(at))
        alone = row.arrival_s <= began and moments.waiting(at, at)[0] == 1
        if not alone or began < since_s or not requests or prompt[1] + requests > most:
            continue
        steps = (
            (decoding(requests, tokens, [prompt]),)
            if mixes
            else (decoding(0, 0, [prompt]), decoding(requests, tokens))
        )
        found.append((prompt[1], SeenStep(gap_s, steps)))
    if agreed and sum(agreed) < ONE_CLOCK * len(agreed):
        return []
    found.sort(key=lambda each: each[0])
    count = min(PROMPT_BINS, len(found) // FEWEST)
    edges = [len(found) * part // count for part in range(count + 1)] if count else []
    return [AlikeSteps(tuple(step for _, step in found[a:b])) for a, b in pairwise(edges)]


class _Gap(NamedTuple):
    """Its length and end; whether one just before was longer, and whether the moment came with it."""

    seconds: float
    end_s: float
    shorter: bool
    together: bool


def _around(tokens_at: Sequence[float], moment: float, *, ends: bool) -> _Gap | None:
    """The gap that holds a moment, or ends next to it (``ends``); None where none does."""
    place = bisect_left(tokens_at, moment)
    if ends and (place == len(tokens_at) or moment - tokens_at[place - 1] < tokens_at[place] - moment):
        place -= 1
    if not 2 <= place < len(tokens_at):
        return None
    gap = tokens_at[place] - tokens_at[place - 1]
    together = not ends or abs(tokens_at[place] - moment) <= TOGETHER * gap
    if not together and moment > tokens_at[-1]:  # it had ended by then
        return None
    longest = max(after - before for before, after in pairwise(tokens_at[max(place - 1 - LATE, 0) : place]))
    return _Gap(gap, tokens_at[place], longest > (1.0 + TOGETHER) * gap, together)


def _gaps(rows: Sequence[Measured]) -> tuple[Array, Array]:
    """All gaps, and the moment at which each began."""
    import numpy as np

    gaps = [np.array(row.gaps) for row in rows if row.gaps]
    firsts = [row.arrival_s + row.ttft_s for row in rows if row.gaps]
    begins = [first + np.cumsum(each) - each for first, each in zip(firsts, gaps, strict=True)]
    return np.concatenate(gaps), np.concatenate(begins)


def _parts(requests: Array, tokens: Array) -> list[npt.NDArray[np.intp]]:
    """Indexes of gaps that are alike."""
    import numpy as np

    if not len(requests):
        return []
    edges = np.unique(np.quantile(requests, np.linspace(0.0, 1.0, BINS + 1)[1:-1]))
    found = []
    places = np.searchsorted(edges, requests, side="right")
    for place in range(len(edges) + 1):
        inside = np.flatnonzero(places == place)
        if len(inside):
            long = tokens[inside] > np.median(tokens[inside])
            found += [inside[~long], inside[long]]
    return found
