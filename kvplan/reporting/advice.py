"""What limits a deployment, by what its run was seen to do, and what to try next.

Nothing here is a prediction: the limit is read from the run, and each step is a command whose answer is the
next run. Shares are of time, as steps differ in length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvplan.reporting.capacity import replicas_of
from kvplan.reporting.cautions import burst_s, saturated
from kvplan.reporting.command import command
from kvplan.reporting.result import Result
from kvplan.reporting.step_time import BOUNDS
from kvplan.reporting.verdict import MINORITY, refused
from kvplan.reporting.wording import count, decimal, percent, plural, seconds
from kvplan.scenario.sizes import SIZES

FULL = 0.9
"""Share of the pool in use from which it is called full, or less where another mean request has no room."""

MOSTLY = 0.5
"""Share of the waiting time for which a limit must be reached to be the one that requests wait for."""

SELDOM = 0.1
"""Share of the run up to which waiting limits nothing."""

MOST_STEPS = 4
MOST_TP = 8
"""GPUs of one node; more is a question of its own."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to try: why, the settings it changes, and the command that does so."""

    why: str
    change: str
    command: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What limits the deployment, the figures that say so, and what to try; ``replicas`` at least."""

    limit: str
    evidence: str
    replicas: str | None
    steps: tuple[Step, ...]


def advice(result: Result) -> Advice | None:
    """What a complete run suggests; ``None`` of one that was stopped, or had nothing to do."""
    if not result.complete or not result.totals.requests:
        return None
    waits = _Waiting(result)
    kind, limit, evidence = _limit(result, waits)
    return Advice(limit, evidence, _replicas_text(result), _steps(result, kind))


class _Waiting:
    """Shares of time from the series."""

    def __init__(self, result: Result) -> None:
        series = result.series
        ends = [*series.t_s[1:], result.totals.makespan_s]
        self._spans = [max(0.0, end - begin) for begin, end in zip(series.t_s, ends, strict=False)]
        self._waiting = [number > 0 for number in series.waiting]
        self.share = self._of(lambda index: self._waiting[index], lambda index: True)

    def share_where(self, reached: Callable[[int], bool]) -> float:
        """Share of the time in which requests waited for which ``reached`` of a sample holds."""
        return self._of(reached, lambda index: self._waiting[index])

    def _of(self, chosen: Callable[[int], bool], among: Callable[[int], bool]) -> float:
        whole = sum(span for index, span in enumerate(self._spans) if among(index))
        part = sum(span for index, span in enumerate(self._spans) if among(index) and chosen(index))
        return part / whole if whole > 0 else 0.0


def _limit(result: Result, waits: _Waiting) -> tuple[str, str, str]:
    """What limits (``length``, ``sequences``, ``memory``, ``steps``, ``nothing``), in words, and why."""
    totals, series, usable = result.totals, result.series, result.pool.usable_blocks
    by = _most_of_all(result)
    limited = _at(result, "engine.max_queued_requests") is not None
    if totals.rejected > MINORITY * totals.requests and not limited:
        return ("length", "The length of a request.", _too_long(result))
    waiting = f"Requests waited for {percent(waits.share)} of the time"
    if waits.share <= SELDOM:
        peak = f"at most {plural(totals.peak_running, 'request')} ran at once, in {percent(result.peak_use)}"
        said = f"{waiting}; {peak} of the KV pool."
        if any(not slo.passed for slo in result.slo):
            return (
                "steps",
                f"The time of a step{by}: hardly a request waits for its turn.",
                f"{said} {_a_step(result)}",
            )
        return "nothing", "Nothing: hardly a request waits for its turn.", said
    apart = _room_apart(result)
    if apart is not None:
        return "memory", "KV memory of the decode instances: requests wait for room there.", apart
    fill = _full(result)
    full = waits.share_where(lambda index: series.used_blocks[index] >= fill * usable)
    most = _most_running(result)
    if most is not None:
        at_most = waits.share_where(lambda index: series.running[index] >= most)
        if at_most >= MOSTLY:
            said = (
                f"{waiting}, and {percent(at_most)} of that {plural(most, 'request')} ran, the most allowed."
            )
            return "sequences", "The limit on sequences (engine.max_num_seqs).", said
    if full >= MOSTLY:
        lost = f"; {plural(totals.preemptions, 'preemption')}" if totals.preemptions else ""
        said = f"{waiting}, and {percent(full)} of that the pool was at least {percent(fill, 0)} full{lost}."
        return "memory", "KV memory: requests wait for blocks.", said
    rest = f"the pool was at least {percent(fill, 0)} full for {percent(full)} of that"
    return (
        "steps",
        f"The time of a step{by}: requests wait for their turn, mostly with room in the pool.",
        f"{waiting}, and {rest}. {_a_step(result)}",
    )


def _room_apart(result: Result) -> str | None:
    """How requests waited for decode instances, where more of them waited longer for these than for prefill.

    Such an instance promises places for what an answer may still take, so that it has none left to give while
    its pool is far from full.
    """
    figures = {metric.name: metric.value for metric in result.strategies.get("disaggregation", ())}
    number, room_s, queue_s = (
        figures.get(name) for name in ("back_pressured", "back_pressure_mean", "ttft_queue_mean")
    )
    if not isinstance(number, int) or not isinstance(room_s, float) or not isinstance(queue_s, float):
        return None
    if number <= MINORITY * result.totals.requests or room_s <= queue_s:
        return None
    waited = f"{count(number)} of {plural(result.totals.requests, 'request')} waited for it"
    return f"{waited}; {seconds(room_s)} on average of all, beside {seconds(queue_s)} for prefill instances."


def _full(result: Result) -> float:
    """Share of the pool in use that leaves no room for another request of mean length on each replica."""
    mean = result.offered.tokens_mean if result.offered is not None else None
    tokens = result.pool.usable_blocks * result.pool.block_size
    return (
        FULL
        if mean is None or not tokens
        else max(MOSTLY, min(FULL, 1.0 - mean * replicas_of(result) / tokens))
    )


def _a_step(result: Result) -> str:
    """What a step does on average: computing prompts or decoding."""
    totals = result.totals
    computed = totals.queried_tokens - totals.hit_tokens if totals.queried_tokens else totals.prompt_tokens
    each = [number / max(1, totals.steps) for number in (computed, totals.output_tokens)]
    budget = _chosen(result, "engine.max_num_batched_tokens")
    at_most = f", of at most {count(budget)}" if isinstance(budget, int) else ""
    tokens = f"{decimal(each[0])} prompt tokens and {decimal(each[1])} output tokens"
    return f"A step computes {tokens} on average{at_most}."


def _binding(result: Result) -> str | None:
    """What binds most of the time of steps (``bandwidth``, ...); None where nothing does or nobody knows."""
    if result.step_time is None:
        return None
    name, share = max(result.step_time.bound.model_dump().items(), key=lambda item: item[1])
    return name if share >= MOSTLY else None


def _most_of_all(result: Result) -> str:
    bound = _binding(result)
    return "" if bound is None else f", bound by {BOUNDS[bound]}"


def _too_long(result: Result) -> str:
    totals, offered = result.totals, result.offered
    said = f"{count(totals.rejected)} of {plural(totals.requests, 'request')} were turned away as too long"
    longest = _chosen(result, "engine.max_model_len")
    at_most = f"; engine.max_model_len is {count(longest)}" if isinstance(longest, int) else ""
    if offered is None or offered.tokens_mean is None or offered.tokens_p99 is None:
        return f"{said}{at_most}."
    sizes = f"{count(offered.tokens_mean)} tokens on average, {count(offered.tokens_p99)} at p99"
    return f"{said}: {sizes}{at_most}."


def _most_running(result: Result) -> int | None:
    """Requests that may run at once on all replicas; ``None`` where that is not one number."""
    limit = _chosen(result, "engine.max_num_seqs")
    if not isinstance(limit, int) or _at(result, "disaggregation") is not None:
        return None
    each = _at(result, "parallel.tp") if _at(result, "parallel.dp_attention") is True else 1
    ranks = _at(result, "parallel.attention_ranks") or each
    return limit * replicas_of(result) * (ranks if isinstance(ranks, int) else 1)


def _at(result: Result, path: str) -> Any:
    node: Any = result.scenario
    for key in path.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _chosen(result: Result, path: str) -> Any:
    """A setting as given, else as it was assumed."""
    given = _at(result, path)
    if given is not None:
        return given
    return next((item.value for item in result.assumptions if item.name == path), None)


def _needed(result: Result) -> int:
    """Replicas below which the offered rate is more than they sustain."""
    offered = result.offered
    if not saturated(result) or offered is None or not offered.sustained_per_s:
        return replicas_of(result)
    return math.ceil(replicas_of(result) * (offered.requests_per_s or 0.0) / offered.sustained_per_s)


def _replicas_text(result: Result) -> str | None:
    offered, needed = result.offered, _needed(result)
    if needed <= replicas_of(result) or offered is None:
        return None
    rates = f"{decimal(offered.requests_per_s or 0.0)} offered over {decimal(offered.sustained_per_s or 0.0)}"
    least, have = plural(needed, "replica"), plural(replicas_of(result), "replica")
    if _at(result, "disaggregation") is not None:
        least, have = f"{needed} times as many instances (kvplan plan finds how many of each)", "these"
    return (
        f"At least {least}: {rates} sustained by {have}. That is a lower bound: so many "
        "would hardly keep up, with no room for peaks and fewer prefix hits each."
    )


def _steps(result: Result, kind: str) -> tuple[Step, ...]:
    """What to try for a limit of this kind, each as a command; none where no command repeats the run."""
    if _at(result, "disaggregation") is not None:
        return ()
    base: dict[str, object] = {}
    found: list[tuple[str, dict[str, object]]] = []
    bill = result.memory
    longest = bill.longest_request if bill is not None else None
    admitted = _chosen(result, "engine.max_model_len")
    short = kind == "length" and isinstance(admitted, int) and longest and longest > admitted
    if longest and (refused(result) or short):
        base = {"engine.max_model_len": longest}
        found.append(("A limit on length that fits", {}))
    given = _given_pool(result)
    if kind in ("memory", "length"):
        if given is None and _halves(result):
            found.append((_EIGHT_BITS, {"cache.dtype": "fp8"}))
        if given is not None and bill is not None and bill.kv_tokens > given[1]:
            found.append((f"All {bill.kv_tokens:,} tokens that the memory holds", {given[0]: None}))
    limit = _chosen(result, "engine.max_num_seqs")
    if kind == "sequences" and isinstance(limit, int):
        found.append(("More sequences at once", {"engine.max_num_seqs": 2 * limit}))
    binding = _binding(result) if kind == "steps" else None
    if binding == "host":
        found += [(why, {key: wanted}) for key, wanted, why in _HOST if _at(result, key) is (not wanted)]
    if binding == "bandwidth" and _reads_cache(result) and _halves(result):
        found.append((_EIGHT_BITS, {"cache.dtype": "fp8"}))
    more = max(_needed(result), replicas_of(result) + 1)
    if kind in ("memory", "sequences", "steps"):
        found.append((f"{more} replicas", {"parallel.replicas": more}))
    tp = _at(result, "parallel.tp")
    if (
        kind in (("steps",) if given else ("memory", "steps", "length"))
        and result.gpu is not None
        and isinstance(tp, int)
        and 2 * tp <= MOST_TP
        # More GPUs exchange more, and leave the host as much to do.
        and binding not in ("links", "host")
    ):
        found.append(("Twice the GPUs for each replica", {"parallel.tp": 2 * tp}))
    last = (*_plan(result, kind), *(() if kind == "length" else _search(result, base)))
    steps = []
    for why, changes in found[: MOST_STEPS - len(last)]:
        changes = base | changes
        line = command(result.scenario, "simulate", changes)
        if line is not None:
            steps.append(Step(why, " ".join(_change(key, value) for key, value in changes.items()), line))
    return (*steps, *last)


def _change(key: str, value: object) -> str:
    return f"without {key}" if value is None else f"--set {key}={value}"


def _given_pool(result: Result) -> tuple[str, int] | None:
    """What fixes the pool whatever the memory holds, and its tokens: other formats or GPUs change nothing."""
    blocks, tokens = _at(result, "cache.blocks"), _at(result, "engine.max_total_tokens")
    if isinstance(blocks, int):
        return "cache.blocks", blocks * result.pool.block_size
    return ("engine.max_total_tokens", tokens) if isinstance(tokens, int) else None


def _plan(result: Result, kind: str) -> tuple[Step, ...]:
    """Where the load is too much: what would serve it within the objectives, of this GPU and of others."""
    missed = any(not slo.passed for slo in result.slo)
    if not missed or kind not in ("memory", "sequences", "steps") or result.gpu is None:
        return ()
    if _given_pool(result) is not None:
        return ()  # a pool that was given says nothing about other GPUs
    # What a plan seeks itself, it is not told: sizes of pools back to what they are where nothing is said.
    line = command(result.scenario, "plan", {"parallel.tp": 1, **dict.fromkeys(SIZES, 1)})
    why = "The fewest GPUs that meet the objectives; name others with --gpu, and what they cost with --price"
    return () if line is None else (Step(why, "kvplan plan ...", line),)


_EIGHT_BITS = "A cache in fp8, half the bytes a token; check what it does to answers"

_HOST = (
    ("engine.enforce_eager", False, "CUDA graphs, which launch a step at once"),
    ("engine.async_scheduling", True, "The next step planned while this one runs"),
)
"""What spares the host time: key, value, why."""


def _reads_cache(result: Result) -> bool:
    """Whether decode reads as much cache as weights, roughly: more than half as long."""
    parts = result.step_time.parts if result.step_time is not None else None
    return parts is not None and parts.decode_attention > 0.5 * parts.weights


def _halves(result: Result) -> bool:
    """Whether the cache is in 16 bits and the model's attention can be kept in fp8."""
    wide = result.model is not None and result.model.kv_dtype in ("bf16", "fp16")
    return wide and any(curve.dtype == "fp8" for curve in result.capacity or ())


def _search(result: Result, base: dict[str, object]) -> tuple[Step, ...]:
    """The sweep for the highest load that meets the objectives, or an objective to put another for."""
    low, high = _bounds(result)
    if high is None:
        return ()
    key = high[0]
    changes, why = dict(base), "The highest load within its limits"
    if not result.slo:
        changes["slo.ttft_p99_s"] = 2
        why = "The highest load with a TTFT p99 of 2 s, or what your users take"
    value = f"{key}={low:g}..{high[1]:g}"
    line = command(result.scenario, "sweep", changes, "--highest", value)
    return () if line is None else (Step(why, f"kvplan sweep ... --highest {value}", line),)


def _bounds(result: Result) -> tuple[float, tuple[str, float] | None]:
    """Where to look for the highest load, and by which field."""
    in_flight, rate = _at(result, "workload.max_in_flight"), _at(result, "workload.rate")
    if isinstance(in_flight, int):
        return max(1, in_flight // 16), ("workload.max_in_flight", in_flight) if in_flight > 1 else None
    if _at(result, "workload.turns") == "answered":
        return 0.0, None
    over = (
        saturated(result)
        or burst_s(result) is not None
        or result.totals.timed_out
        or any(not slo.passed for slo in result.slo)
    )
    scale = 1.0
    key = "workload.rate_scale"
    if isinstance(rate, (int, float)):
        key, scale = "workload.rate", float(rate)
    if not over:
        return scale / 4, (key, 16 * scale)  # also below what was met: a longer run may find less
    offered = result.offered.requests_per_s if result.offered else None
    served = min(1.0, result.throughput.requests_per_s / offered) if offered else 1.0
    return float(f"{scale * served / 16:.3g}"), (key, scale)
