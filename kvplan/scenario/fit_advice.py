"""What a fit to a serving run tells its reader: why a constant stays open, where to look if nothing fits."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from kvplan.errors import UnknownName
from kvplan.latency.client import CHUNK as CHUNK_KEY
from kvplan.latency.client import OUTPUT_SHARE
from kvplan.latency.parts import StepParts
from kvplan.latency.profile import MEMORY
from kvplan.latency.routing import SKEW_KEY
from kvplan.scenario.fit_constants import WHY, Constant
from kvplan.scenario.fit_end import Z90
from kvplan.scenario.fit_mixture import TwoKinds
from kvplan.scenario.log_features import quantile
from kvplan.scenario.log_limits import COMPUTING, saturated
from kvplan.scenario.measured import Measured

FARTHEST = 10.0
"""A factor by which a constant could be off, beyond which its size says nothing."""
FARTHER = 4.0
"""How many times as large a load or a prompt should be to tell what the one at hand does not."""
OVERHEAD = 0.5
"""Usual spread from which a constant is of code around the kernels: it may take next to nothing."""
BATCHES = ("memory_efficiency", MEMORY, "step_s", "request_s")
"""Constants of a step that differ in how they grow with its requests and their contexts."""
CHANGED = 0.5
"""By how much the shares of slow requests in a run's halves differ where something changed in between."""
FEW_MORE = 1.5
"""Times as many requests as there were, up to which they tell nothing new."""
TOGETHER = "fitted together with this (--engine-log once for each)"
EXCHANGED = 0.02
"""Share of a step below which exchanges are not worth a word."""
STRANGE = 2.2
"""Deviations of what is usual beyond which a constant says that something else is."""
POOR = 0.3
"""A median that is so far off after the fit says that the run or the scenario is another one."""


def unsure_why(name: str, deviation: float, prompts: Sequence[int]) -> str:
    """Why a run does not tell a constant, and by how much that could be off.

    Args:
        deviation: standard deviation of its logarithm.
        prompts: tokens of the run's prompts.
    """
    why = WHY[name].format(prompt=quantile(sorted(map(float, prompts)), 0.5))
    factor = math.exp(min(Z90 * deviation, 20.0))
    if factor > FARTHEST:
        return f"{why}; this run does not even tell its order of magnitude"
    return f"{why}; it could be off by a factor of {factor:.2g}"


def further_runs(
    unknown: Collection[str],
    runs: Sequence[tuple[Sequence[Measured], Sequence[float]]],
    *,
    closed: bool,
    most: float = math.inf,
) -> list[str]:
    """Which further run of the deployment would tell what these left open.

    Args:
        unknown: constants that were not identified.
        runs: each one's requests, and how many were in flight with each.
        closed: all clients waited for answers.
        most: requests that the engine decodes at once: more would wait, and tell nothing of steps.
    """
    rows = [row for each, _ in runs for row in each]
    busy = quantile(sorted(size for _, flight in runs for size in flight), 0.95)
    computed = quantile(sorted(float(row.prompt_tokens - (row.cached_tokens or 0)) for row in rows), 0.5)
    held = min(FARTHER * busy, most)
    held = held if held > FEW_MORE * busy else busy / FARTHER
    found = []
    for names, run in (
        (BATCHES, f"holds about {_round(held)} requests in flight (until now up to {_round(busy)})"),
        (COMPUTING, f"has prompts of about {_round(FARTHER * computed)} tokens to compute"),
    ):
        left = [name for name in names if name in unknown]
        if left:
            found.append(f"{_listed(left)} would be told by a further run that {run}, {TOGETHER}")
    full = [why for each, _ in runs if (why := saturated(each)) is not None]
    if len(full) == len(runs):
        found.append(f"latency below saturation would be told by a run at half the rate, {TOGETHER}")
    if closed:
        found.append(
            "clients that wait for answers send nothing while the engine stalls: how much longer the 99th "
            f"percentile of TTFT is for others would be told by a run at a rate, {TOGETHER}"
        )
    return found


SERVER_TIMES = (
    "with --enable-per-request-metrics on vLLM's server and --save-detailed on its benchmark (0.33)"
)
"""How a run also brings the engine's own times, which tell the engine from what is around it."""


def front_end_left(
    seconds: float, deviation: float, rate_per_s: float, *, server_times: bool = False
) -> list[str]:
    """Up to which rate a fit speaks of TTFT where the front end was not told from the rest of the overhead.

    Args:
        seconds: its work on a request. deviation: of the logarithm of that.
        rate_per_s: requests a second of the busiest run.
        server_times: the engine could have been asked for its own times, and was not.
    """
    longest = seconds * math.exp(Z90 * deviation)
    full = 1.0 / longest
    if full > FARTHEST * rate_per_s:
        return []
    text = (
        f"a front end that works up to {1e3 * longest:.2g} ms on a request agrees with this: from "
        f"{_round(full)} requests a second on (until now {_round(rate_per_s)}) TTFT may be waiting for it, "
        f"which no band holds; told by a run at that rate, or of 100 requests sent at once, {TOGETHER}"
    )
    return [f"{text}; or by this one again, {SERVER_TIMES}" if server_times else text]


def streams_left(likely_s: float, most_s: float, flight: float, token_s: float) -> list[str]:
    """What runs say of a front end that takes time to hand tokens out, and up to how many streams.

    Args:
        likely_s: work on a chunk that was fitted; 0: none.
        most_s: the longest that the runs do not refute.
        flight: requests in flight of the busiest run.
        token_s: time per output token there.
    """
    if likely_s:
        text = (
            f"tokens wait for one another at the front end ({CHUNK_KEY}): how much of its work is on outputs "
            f"of steps, which pile up where it does not keep up, is assumed ({OUTPUT_SHARE:g} of that on a "
            "chunk, and chunks merge); a run with twice as many in flight would tell"
        )
        return [text]
    full = token_s / most_s if most_s else math.inf
    if full > FARTHEST * flight:
        return []
    text = (
        f"a front end that takes up to {1e6 * most_s:.2g} us for every chunk that it streams agrees with "
        f"this: from {_round(max(full, flight))} streams on (until now {_round(flight)}) TTFT and times "
        "between tokens may be waiting for it, which no band holds; told by a run with as many in flight, "
        f"{TOGETHER}"
    )
    return [text]


def left_assumed(step: StepParts, requests: int, skew: float | None) -> list[str]:
    """What a fit does not look for, because no run tells it from the rest of a step.

    Args:
        step: a step of the run with its fitted constants. requests: that it decodes.
        skew: how uneven experts are assumed to be; None without experts.
    """
    found = []
    share = step.collective_s / step.seconds
    if share > EXCHANGED:
        found.append(
            f"GPUs exchange for {share:.0%} of a step of {requests:,} requests: assumed and not fitted, as a "
            "run cannot tell links from kernels. If they take longer, other constants make up for it, on as "
            "many GPUs as these; a fit for others would be told by a run on them"
        )
    if skew is not None:
        found.append(
            f"how unevenly experts are chosen ({SKEW_KEY} {skew:g}) is assumed and not fitted, as it looks "
            "like reading memory more slowly; under requests of another kind it may be different"
        )
    return found


def another_size(said: Collection[int | None], tp: int) -> list[str]:
    """Whether a log says that its server had another number of GPUs for a layer than the scenario's."""
    return [
        f"the log is of a server with tp {each} and the scenario has tp {tp}, so check that it is the same "
        "deployment"
        for each in sorted({each for each in said if each is not None})
        if each != tp
    ]


def another_model(asked: Collection[str | None], served: str) -> list[str]:
    """Whether logs say that they are of another model than the scenario; not where kvplan does not know it.

    Args:
        asked: as benchmarks say it. served: the name of the scenario's.
    """
    from kvplan.specs.catalog import find

    found = []
    for name in sorted({name for name in asked if name}):
        try:
            known = find("model", name.rstrip("/").rpartition("/")[2]).name
        except UnknownName:
            continue  # servers call models as they like
        if known != served:
            found.append(
                f"the log is of {name} and the scenario of {served}, so check that it is the same deployment"
            )
    return found


def mixed(kinds: TwoKinds, name: str) -> str:
    """What to say of a run that seems to be of two engines; ``name``: the run's."""
    late = 2.0 * kinds.share - kinds.early
    when = "late" if late > kinds.early else "early"
    often = f", most of them {when} in the run" if abs(late - kinds.early) >= CHANGED else ""
    return (
        f"{kinds.share:.0%} of the requests of {name} take {kinds.ratio:.2g} times as long a token as the "
        f"others at the same load, with few in between{often}: if two GPUs, versions or configurations "
        "served them, fit a log of each"
    )


def strange(
    constants: Iterable[Constant], values: Mapping[str, float], usual: Mapping[str, float]
) -> list[str]:
    """Constants that no engine is known to have, so that the run may be of another deployment.

    Args:
        constants: those that were free.
        values: where they came to.
        usual: where they began.
    """
    found = []
    for constant in constants:
        factor = values[constant.name] / usual[constant.name]
        peak = constant.spread < OVERHEAD
        ended = peak and not constant.low * 1.01 < values[constant.name] < constant.high / 1.01
        far = abs(math.log(factor)) if peak else math.log(factor)
        if ended or far > STRANGE * constant.spread:
            how = "at the end of its range" if ended else f"{factor:.2g} times what is usual"
            found.append(f"{constant.name} {values[constant.name]:.3g} ({how})")
    if not found:
        return []
    text = (
        f"this run makes {_listed(found)}: if that is not known of this engine, check that the scenario's "
        "GPU, model, number format and parallelism are those that were measured"
    )
    return [text]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _round(value: float) -> str:
    """Two digits are enough to say what to measure."""
    return f"{float(f'{max(value, 1.0):.2g}'):,.0f}"


def poor(after: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What to look at where the fitted clock does not describe the run it was fitted to."""
    off = {metric: errors["p50"] for metric, errors in after.items() if abs(errors["p50"]) > POOR}
    if not off:
        return []
    how = ", ".join(f"{metric.upper()} {error:+.0%}" for metric, error in off.items())
    text = (
        f"the fitted clock does not describe this run (median {how} on the held-out half): check that the "
        "scenario is the deployment that was measured, the unit of the arrival times, cached prompts, and "
        "whether the client limited requests in flight (--max-in-flight)"
    )
    return [text]
